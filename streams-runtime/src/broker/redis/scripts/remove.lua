-- Removes a group from a partition: its marker, its state, and all that lies beside it.
-- KEYS: stream, state, dead letters, replays, waiting set, ids of settled events.
-- ARGV: group, epoch as it was seen (empty: no state).
local stream, state = KEYS[1], KEYS[2]

local wrong = wrong_type({{stream, 'stream'}, {state, 'hash'}})
if wrong then
  return wrong
end
if (redis.call('HGET', state, 'epoch') or '') ~= ARGV[2] then
  return {'no'}
end
local marked = has_group(stream, ARGV[1])
local writes = {}
for i = 2, #KEYS do
  table.insert(writes, {'DEL', KEYS[i]})
end
if marked then
  table.insert(writes, {'XGROUP', 'DESTROY', stream, ARGV[1]})
end
wrong = may_not(writes)
if wrong then
  return wrong
end
if marked then
  redis.call('XGROUP', 'DESTROY', stream, ARGV[1])
end
redis.call('DEL', unpack(KEYS, 2))
return {'yes'}
