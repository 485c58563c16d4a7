-- Takes a lease if nobody renewed it since the contender read it. A token is fresh at every claim. So an owner that has
-- the lease already sent its claim again because the answer was lost, and gets the same answer.
-- KEYS: stream, state.
-- ARGV: group, new owner, lease in ms, then owner, epoch and beat as the contender saw them, whether they are its own
--       (1 or 0), and the most events that it will have in flight.
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
if not (epoch and tonumber(held.beat) and held.owner and is_id(held.at or '')) then
  return {'damaged', state}
end
if not (is_id(held.prove_to or '0-0') and tonumber(held.prove or 0)) then
  return {'damaged', state}
end
for id in string.gmatch(held.charged or '', '[^ ]+') do
  if not (is_id(id) and tonumber(held['crashes:' .. id] or 0)) then
    return {'damaged', state}
  end
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

wrong = not again and held.charged and may_not({{'HSET', state, 'owner', owner}, {'HDEL', state, 'charged'}})
if wrong then
  return wrong
end
if again then
  epoch = held.epoch
else
  -- The clock is the floor, so that the next epoch is above all earlier ones even if a failover lost the last grants.
  epoch = digits(math.max(epoch + 1, now()))
  redis.call('HSET', state, 'owner', owner, 'epoch', epoch, 'beat', '0', 'lease', lease, 'bound', ARGV[8])
  -- An owner that releases a lease, or takes its own again, is alive: no event ended its process.
  local gone = held.owner ~= '' and ARGV[7] ~= '1'
  if held.charged then
    for id in string.gmatch(gone and held.charged or '', '[^ ]+') do
      local field = 'crashes:' .. id
      held[field] = digits(tonumber(held[field] or 0) + 1)
      redis.call('HSET', state, field, held[field])
    end
    redis.call('HDEL', state, 'charged')
  end
  if gone and above(last, held.at) then
    local bound = tonumber(held.bound) or tonumber(ARGV[8])
    held.prove, held.prove_to = digits(math.max(tonumber(held.prove or 0), bound)), last
    redis.call('HSET', state, 'prove', held.prove, 'prove_to', held.prove_to)
  end
end
return {'held', epoch, held.at, held.at_event or '', held.seen or '', counts(held, 'attempts'),
  counts(held, 'crashes'), held.prove or '', held.prove_to or '', held.events or ''}
