-- Moves a checkpoint by hand, takes the lease away from whoever has it, and makes the marker where it is gone.
-- KEYS: stream, state, bell.
-- ARGV: group, epoch as it was seen (empty: no state), start and its id or milliseconds as for a new group, rings that
--       the bell keeps.
local stream, state, bell = KEYS[1], KEYS[2], KEYS[3]
local group, seen_epoch = ARGV[1], ARGV[2]

local wrong = wrong_type({{stream, 'stream'}, {state, 'hash'}, {bell, 'stream'}})
if wrong then
  return wrong
end
local fields = redis.call('HGETALL', state)
local held = by_name(fields)
if #fields > 0 and held.mode ~= 'ordered' then
  return {'mode', held.mode or ''}
end
if (held.epoch or '') ~= seen_epoch then
  return {'contended'}
end
local marked = has_group(stream, group)
if #fields == 0 and marked then
  return {'foreign'}
end

local at, seen = begin(stream, ARGV[3], ARGV[4])
local epoch = digits(math.max((tonumber(seen_epoch) or 0) + 1, now()))
if marked then
  mirror(stream, group, at, seen)
else
  mark(stream, group, at, seen)
end
-- Attempts, too, begin anew; what builds have declared is still true, and letters that wait to be handled again still do.
redis.call('DEL', state)
redis.call('HSET', state, 'mode', 'ordered', 'owner', '', 'epoch', epoch, 'beat', '0', 'lease', '0',
  'at', at, 'at_event', '', 'seen', seen, 'reset', epoch)
if held.events then
  redis.call('HSET', state, 'events', held.events)
end
if held.replays then
  redis.call('HSET', state, 'replays', held.replays)
end
ring(bell, group, ARGV[5])
return {'done', at}
