-- What tells whether history is whole, all of one moment. KEYS: stream, state. ARGV: group, from, count, bytes.
local stream, group = KEYS[1], ARGV[1]

local wrong = wrong_type({{stream, 'stream'}})
if wrong then
  return wrong
end
if redis.call('EXISTS', stream) == 0 then
  return {'no stream'}
end
local info = by_name(redis.call('XINFO', 'STREAM', stream))
local first, last = info['first-entry'], info['last-entry']
local marker = redis.pcall('XINFO', 'CONSUMERS', stream, group)
local entries, complete = page(stream, ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), first, last)
return {'stream', first and first[1] or '', info['last-generated-id'], info['length'], info['entries-added'],
  marker.err and 0 or 1, complete and 1 or 0, entries}
