-- What tells whether history is whole, all of one moment. KEYS: stream, state. ARGV: group, from, count.
local stream, group = KEYS[1], ARGV[1]

local wrong = wrong_type({{stream, 'stream'}})
if wrong then
  return wrong
end
if redis.call('EXISTS', stream) == 0 then
  return {'no stream'}
end
local info = by_name(redis.call('XINFO', 'STREAM', stream))
local first = info['first-entry'] and info['first-entry'][1] or ''
return {'stream', first, info['last-generated-id'], info['length'], info['entries-added'],
  has_group(stream, group) and 1 or 0, redis.call('XRANGE', stream, ARGV[2], '+', 'COUNT', ARGV[3])}
