-- Makes a process a consumer of a work queue. Sent twice it answers with the same epoch.
-- KEYS: stream, state.
-- ARGV: group, token, lease in ms, mode.
local stream, state = KEYS[1], KEYS[2]
local group, field = ARGV[1], 'consumer:' .. ARGV[2]

local wrong = wrong_type({{stream, 'stream'}, {state, 'hash'}})
if wrong then
  return wrong
end
local held = redis.call('HMGET', state, 'mode', 'epoch', 'at', field)
if not held[2] then
  return {'missing'}
end
if held[1] ~= ARGV[4] then
  return {'mode', held[1] or ''}
end
local epoch = lives(held[4])
if epoch then
  return {'member', epoch}
end
if held[4] then
  return {'dead'}
end
if not has_group(stream, group) then
  return {'vanished', held[3] or '0-0'}
end
if not tonumber(held[2]) then
  return {'damaged', state}
end
-- The clock is the floor, so that the next epoch is above all earlier ones even if a failover lost the last of them.
epoch = digits(math.max(tonumber(held[2]) + 1, now()))
-- The numbers of the consumer's last fetch and ack follow.
local calls = ARGV[4] == 'queue' and ' 0 0' or ''
redis.call('HSET', state, 'epoch', epoch, field, table.concat({epoch, '1', ARGV[3]}, ' ') .. calls)
return {'member', epoch}
