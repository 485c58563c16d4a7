-- Gives back what a dead consumer of a shared group had in hand, a page at a time, and removes it with the last.
-- KEYS: stream, state, waiting, bell.
-- ARGV: group, consumer, what was seen of it (epoch, beat and lease; dead; foreign), for how long a foreign one was silent in
--       ms, most entries at a time, rings that the bell keeps.
local stream, state, waiting, bell = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local group, owner, seen, most = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[5])
local field = 'consumer:' .. owner

local wrong = wrong_type({{stream, 'stream'}, {state, 'hash'}, {waiting, 'zset'}, {bell, 'stream'}})
if wrong then
  return wrong
end
if owner == NOBODY or not has_group(stream, group) then
  return {'contended'}
end
local says = redis.call('HGET', state, field)
if seen ~= 'foreign' then
  if says ~= seen then
    return {'contended'}
  end
  -- Its calls are refused from here on.
  redis.call('HSET', state, field, 'dead')
else
  local found
  for _, flat in ipairs(redis.call('XINFO', 'CONSUMERS', stream, group)) do
    local consumer = by_name(flat)
    found = found or (consumer.name == owner and consumer.idle >= tonumber(ARGV[4]))
  end
  if says or not found then
    return {'contended'}
  end
end

local page = redis.call('XPENDING', stream, group, '-', '+', most, owner)
for _, pending in ipairs(page) do
  -- How often others have delivered it says nothing about what it did to them.
  let_go(stream, group, pending[1], seen == 'foreign' and 0 or pending[4])
  redis.call('ZADD', waiting, 0, pending[1])
end
if redis.call('XPENDING', stream, group, '-', '+', 1, owner)[1] then
  return {'some', #page}
end
redis.call('HDEL', state, field)
-- It holds nothing, or what it holds would be lost.
redis.call('XGROUP', 'DELCONSUMER', stream, group, owner)
ring(bell, group, ARGV[6])
return {'all', #page}
