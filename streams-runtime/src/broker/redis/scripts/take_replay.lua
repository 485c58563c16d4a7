-- Answers the first of the replays and charges it to the caller's epoch. A letter still charged to an earlier epoch
-- counts a crash, unless a living consumer of a work queue has that epoch. Sent twice it charges once.
-- KEYS: stream, state, replays.
-- ARGV: group, owner, epoch.
local state, replays = KEYS[2], KEYS[3]
local owner, epoch = ARGV[2], ARGV[3]

local wrong = wrong_type({{state, 'hash'}, {replays, 'stream'}})
if wrong then
  return wrong
end
if not holds(state, owner, epoch) then
  return {'fenced'}
end
local letter = redis.call('XRANGE', replays, '-', '+', 'COUNT', 1)[1]
if not letter then
  -- The field goes with the last letter, so here the key of the letters was deleted or lost.
  local gone = redis.call('HDEL', state, 'replays', 'replaying') > 0
  return {gone and 'gone' or 'nothing'}
end
local fields = by_name(redis.call('HGETALL', state))
local attempts, crashes, charged = replaying(fields.replaying, letter[1])
if charged ~= '0' and charged ~= epoch then
  for field, consumer in pairs(fields) do
    if string.find(field, 'consumer:', 1, true) == 1 and lives(consumer) == charged then
      return {'nothing'}
    end
  end
  crashes = crashes + 1
end
redis.call('HSET', state, 'replays', '1', 'replaying', table.concat({letter[1], attempts, crashes, epoch}, ' '))
return {'letter', attempts, crashes, {letter}}
