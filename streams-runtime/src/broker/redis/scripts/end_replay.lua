-- Ends the attempt at a replay: the letter stays the first, is removed, or returns to the dead letters. Sent twice it
-- finds nothing to remove or move the second time.
-- KEYS: stream, state, replays, dead letters.
-- ARGV: group, owner, epoch, id, then again and failed attempts, done, or dead and (field, value)*.
local state, replays, dead = KEYS[2], KEYS[3], KEYS[4]
local owner, epoch, id, what = ARGV[2], ARGV[3], ARGV[4], ARGV[5]

local wrong = wrong_type({{state, 'hash'}, {replays, 'stream'}, {dead, 'stream'}})
if wrong then
  return wrong
end
if not holds(state, owner, epoch) then
  return {'no'}
end
if not redis.call('XRANGE', replays, id, id)[1] then
  return {'yes'}
end

if what == 'again' then
  local attempts, crashes = replaying(redis.call('HMGET', state, 'replaying')[1], id)
  -- Attempts only grow, so a call with fewer comes late.
  if tonumber(ARGV[6]) >= attempts then
    redis.call('HSET', state, 'replaying', table.concat({id, ARGV[6], crashes, '0'}, ' '))
  end
  return {'yes'}
end
local is_last = redis.call('XLEN', replays) == 1
local writes = {{'XDEL', replays, id}, {'HDEL', state, 'replays'}}
if what == 'dead' then
  table.insert(writes, {'XADD', dead, '*', 'event', ''})
end
wrong = may_not(writes)
if wrong then
  return wrong
end
if what == 'dead' then
  redis.call('XADD', dead, '*', unpack(ARGV, 6))
end
redis.call('XDEL', replays, id)
redis.call('HDEL', state, 'replaying')
if is_last then
  redis.call('HDEL', state, 'replays')
end
return {'yes'}
