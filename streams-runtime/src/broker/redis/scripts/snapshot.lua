-- Reads at one moment what a caller needs to find lost entries.
-- KEYS: stream, state.
-- ARGV: group, from, count, bytes.
local stream, group = KEYS[1], ARGV[1]

local wrong = wrong_type({{stream, 'stream'}})
if wrong then
  return wrong
end
if redis.call('EXISTS', stream) == 0 then
  return {'no stream'}
end
-- A marker that the user may not read must not count as missing.
wrong = may_not({{'XINFO', 'CONSUMERS', stream, group}})
if wrong then
  return wrong
end
local info = by_name(redis.call('XINFO', 'STREAM', stream))
local first, last = info['first-entry'], info['last-entry']
local entries, complete = page(stream, ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), first, last)
local deleted = info['max-deleted-entry-id']

-- XTRIM .. ACKED (Redis 8.2) skips entries that a consumer has pending, and does not record the entries that it
-- removes. Then a hole shows nothing. Asked only where there is a hole that no record explains.
local is_hole = first and above(ARGV[2], first[1]) and above(ARGV[2], deleted)
  and not (entries[1] and entries[1][1] == ARGV[2])
local may_pass_over = redis.REDIS_VERSION_NUM >= 0x00080200 or (redis.VALKEY_VERSION_NUM or 0) >= 0x00090200
if is_hole and may_pass_over then
  for _, flat in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    if by_name(flat).consumers > 0 then
      deleted = ''
    end
  end
end
return {'stream', first and first[1] or '', info['last-generated-id'], info['length'], info['entries-added'],
  has_group(stream, group) and 1 or 0, deleted, complete and 1 or 0, entries}
