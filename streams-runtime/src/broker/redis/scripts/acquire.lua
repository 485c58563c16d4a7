-- Takes a lease if nobody renewed it since the contender looked. A token is fresh at every claim, so who has the lease
-- already has sent its claim again, because the answer was lost, and gets it again.
-- KEYS: stream, state. ARGV: group, new owner, lease in ms, then owner, epoch and beat as the contender saw them.
local stream, state = KEYS[1], KEYS[2]
local group, owner, lease = ARGV[1], ARGV[2], ARGV[3]

local wrong = wrong_type({{stream, 'stream'}, {state, 'hash'}})
if wrong then
  return wrong
end
local fields = redis.call('HGETALL', state)
if #fields == 0 then
  return {'missing'}
end
local held = by_name(fields)
if held.mode ~= 'ordered' then
  return {'mode', held.mode or ''}
end
local epoch = tonumber(held.epoch)
if not (epoch and tonumber(held.beat) and held.owner and string.match(held.at or '', '^%d+-%d+$')) then
  return {'damaged', state}
end
local again = held.owner == owner
if not again and (held.owner ~= ARGV[4] or held.epoch ~= ARGV[5] or held.beat ~= ARGV[6]) then
  return {'contended'}
end
if not has_group(stream, group) then
  return {'vanished', held.at}
end
local last = by_name(redis.call('XINFO', 'STREAM', stream))['last-generated-id']
if above(held.at, last) then
  return {'ahead', held.at, last}
end

if again then
  epoch = held.epoch
else
  -- The clock as a floor: should a failover lose the last grants, the next epoch is above them all the same.
  epoch = digits(math.max(epoch + 1, now()))
  redis.call('HSET', state, 'owner', owner, 'epoch', epoch, 'beat', '0', 'lease', lease)
end
local attempts = {}
for name, count in pairs(held) do
  local id = string.match(name, '^attempts:(.+)$')
  if id then
    table.insert(attempts, {id, count})
  end
end
return {'held', epoch, held.at, held.at_event or '', held.seen or '', attempts, held.events or ''}
