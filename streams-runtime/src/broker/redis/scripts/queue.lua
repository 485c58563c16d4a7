-- Reads the state of a work queue.
-- KEYS: stream, state, waiting.
-- ARGV: group.
local stream, state, waiting = KEYS[1], KEYS[2], KEYS[3]

local wrong = wrong_type({{stream, 'stream'}, {state, 'hash'}, {waiting, 'zset'}})
if wrong then
  return wrong
end
local fields = redis.call('HGETALL', state)
local held = by_name(fields)
if held.mode ~= 'queue' or not held.at or not has_group(stream, ARGV[1]) then
  return {'missing'}
end
local stamp, count = waits_of(held.waits)
if not stamp then
  return {'damaged', state}
end
local damage = apart(waiting, stamp, count)
if damage and damage[1] ~= 'apart' then
  return damage
end
local lowest = redis.call('ZRANGEBYSCORE', waiting, digits(BY_ID), IDS_END, 'LIMIT', 0, 1)[1] or ''
local first_due = redis.call('ZRANGEBYSCORE', waiting, '0', DUES_END, 'WITHSCORES', 'LIMIT', 0, 1)[2]
local due = first_due and digits(math.max(tonumber(first_due) - now(), 0)) or ''
return {'queue', fields, digits(count), lowest, due, damage and damage[3] or ''}
