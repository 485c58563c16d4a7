-- Tells a group that is halted to go on where it is. KEYS: state. ARGV: how often it was told before (empty: never): one that
-- comes late must not go for a later halt.
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
-- Only where there is something: users who look after ordered groups may have no right to it yet.
wrong = held[2] and may_not({{'HINCRBY', state, 'resume', 1}, {'HDEL', state, 'lost'}})
if wrong then
  return wrong
end
redis.call('HINCRBY', state, 'resume', 1)
if held[2] then
  redis.call('HDEL', state, 'lost')
end
return {'yes'}
