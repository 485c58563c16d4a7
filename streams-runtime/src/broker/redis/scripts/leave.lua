-- Ends a consumer of a work queue; what it still has in flight is given back as from a dead one.
-- KEYS: stream, state, waiting, bell. ARGV: group, token, epoch, rings that the bell keeps.
local stream, state, waiting, bell = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local field, epoch = 'consumer:' .. ARGV[2], ARGV[3]

local wrong = wrong_type({{stream, 'stream'}, {state, 'hash'}, {waiting, 'zset'}, {bell, 'stream'}})
if wrong then
  return wrong
end
local held = by_name(redis.call('HGETALL', state))
if held.mode ~= 'queue' or lives(held[field]) ~= epoch then
  return {'no'}
end
local stamp, waits = waits_of(held.waits)
local chunks = chunks_of(held, epoch)
wrong = cannot_give_up(chunks, stamp, waits, {'HDEL', state, field}, ARGV[4])
if wrong then
  -- Whoever finds it dead tells of a waiting set that is damaged.
  return wrong[1] == 'apart' and {'no'} or wrong
end

local _, added, _, ended = give_up(stream, waiting, chunks, math.huge)
if added > 0 then
  redis.call('HSET', state, 'waits', put_stamp(waiting, stamp, waits + added))
end
table.insert(ended, field)
write_all('HDEL', state, ended)
ring(bell, ARGV[1], ARGV[4])
return {'yes'}
