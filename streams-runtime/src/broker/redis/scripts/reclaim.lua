-- Gives back what a dead consumer of a work queue has in flight, some of it at a time, and removes it with the last.
-- KEYS: stream, state, waiting, bell.
-- ARGV: group, token, what was seen of it (epoch, beat and lease; dead), most entries at a time, rings that the bell keeps.
local stream, state, waiting, bell = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local field, seen = 'consumer:' .. ARGV[2], ARGV[3]

local wrong = wrong_type({{stream, 'stream'}, {state, 'hash'}, {waiting, 'zset'}, {bell, 'stream'}})
if wrong then
  return wrong
end
local says = redis.call('HMGET', state, field)[1] or ''
local epoch, beat, lease = lives(says)
if epoch then
  if table.concat({epoch, beat, lease}, ' ') ~= seen then
    return {'contended'}
  end
else
  epoch = string.match(says, '^dead (%d+)$')
  if not epoch or seen ~= 'dead' then
    return {'contended'}
  end
end
local held = by_name(redis.call('HGETALL', state))
local stamp, waits = waits_of(held.waits)
local chunks = chunks_of(held, epoch)
if held.mode ~= 'queue' then
  return {'contended'}
end
wrong = cannot_give_up(chunks, stamp, waits, {'HDEL', state, field}, ARGV[5])
if wrong then
  return wrong
end

local given, added, kept, ended, more, lost = give_up(stream, waiting, chunks, math.max(tonumber(ARGV[4]), 1))
if added > 0 then
  table.insert(kept, 'waits')
  table.insert(kept, put_stamp(waiting, stamp, waits + added))
end
write_all('HDEL', state, ended)
if more then
  -- Its calls are refused from here on.
  redis.call('HSET', state, field, 'dead ' .. epoch)
  write_all('HSET', state, kept)
  return {'some', given, lost or ''}
end
redis.call('HDEL', state, field)
write_all('HSET', state, kept)
ring(bell, ARGV[1], ARGV[5])
return {'all', given, lost or ''}
