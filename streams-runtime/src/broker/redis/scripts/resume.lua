-- Tells a group that is halted to go on where it is. KEYS: state.
local state = KEYS[1]

local wrong = wrong_type({{state, 'hash'}})
if wrong then
  return wrong
end
if redis.call('EXISTS', state) == 0 then
  return {'no'}
end
redis.call('HINCRBY', state, 'resume', 1)
-- Only where there is something: users who look after ordered groups may have no right to it yet.
if redis.call('HMGET', state, 'lost')[1] then
  redis.call('HDEL', state, 'lost')
end
return {'yes'}
