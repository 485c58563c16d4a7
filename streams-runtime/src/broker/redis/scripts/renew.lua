-- Renews a lease, and answers whether letters wait to be handled again. KEYS: state. ARGV: owner, epoch.
local state = KEYS[1]
if redis.call('TYPE', state).ok ~= 'hash' then
  return {'no'}
end
local held = redis.call('HMGET', state, 'owner', 'epoch', 'beat', 'replays')
if not is_held(held[1], held[2], ARGV[1], ARGV[2]) or not tonumber(held[3]) then
  return {'no'}
end
redis.call('HINCRBY', state, 'beat', 1)
return {'yes', held[4] and 1 or 0}
