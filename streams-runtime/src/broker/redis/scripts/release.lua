-- Releases a lease and rings the partition's bell. The epoch stays, because the next one must be above it.
-- KEYS: stream, state, bell.
-- ARGV: group, owner, epoch, most rings of the bell, the need of the next owner (empty: nothing new).
local stream, state, bell = KEYS[1], KEYS[2], KEYS[3]
local group, owner, epoch = ARGV[1], ARGV[2], ARGV[3]

local wrong = wrong_type({{state, 'hash'}, {bell, 'stream'}})
if wrong then
  return wrong
end
local held = redis.call('HMGET', state, 'owner', 'epoch', 'at', 'seen', 'charged')
if not is_held(held[1], held[2], owner, epoch) then
  return {'no'}
end
local writes = {{'HSET', state, 'owner', ''}, {'XADD', bell, 'MAXLEN', ARGV[4], '*', 'group', group}}
if held[5] then
  table.insert(writes, {'HDEL', state, 'charged'})
end
wrong = may_not(writes)
if wrong then
  return wrong
end
redis.call('HSET', state, 'owner', '')
if ARGV[5] ~= '' then
  redis.call('HSET', state, 'needs', ARGV[5])
end
if held[5] then
  -- The charged event has not ended its process: an owner that releases a lease is alive.
  redis.call('HDEL', state, 'charged')
end
if held[3] then
  mirror(stream, group, held[3], held[4] or '')
end
ring(bell, group, ARGV[4])
return {'yes'}
