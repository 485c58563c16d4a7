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
-- Of a shared group, what was lost to it.
redis.call('HDEL', state, 'lost')
return {'yes'}
