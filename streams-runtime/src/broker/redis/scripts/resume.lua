-- Lets a halted group continue where it is, and removes a recorded loss. A late call must not resume a later halt.
-- KEYS: state.
-- ARGV: how often the group was resumed before (empty: never).
local state = KEYS[1]

local wrong = wrong_type({{state, 'hash'}})
if wrong then
  return wrong
end
if redis.call('EXISTS', state) == 0 then
  return {'no'}
end
local held = redis.call('HMGET', state, 'resume', 'lost')
if (held[1] or '') ~= ARGV[1] then
  return {'yes'}
end
-- Asked only if there is a loss, because operators of ordered groups may not have this right yet.
wrong = held[2] and may_not({{'HINCRBY', state, 'resume', 1}, {'HDEL', state, 'lost'}})
if wrong then
  return wrong
end
redis.call('HINCRBY', state, 'resume', 1)
if held[2] then
  redis.call('HDEL', state, 'lost')
end
return {'yes'}
