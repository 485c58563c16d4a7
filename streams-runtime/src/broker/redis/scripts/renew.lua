-- Renews a lease, or the place of a consumer in a work queue, and answers whether letters wait to be handled again.
-- KEYS: state. ARGV: owner, epoch.
local state = KEYS[1]
if redis.call('TYPE', state).ok ~= 'hash' then
  return {'no'}
end
local held = redis.call('HMGET', state, 'owner', 'epoch', 'beat', 'replays', 'mode')
if held[5] == 'queue' then
  return beats(state, ARGV[1], ARGV[2]) and {'yes', held[4] and 1 or 0} or {'no'}
end
if not is_held(held[1], held[2], ARGV[1], ARGV[2]) or not tonumber(held[3]) then
  return {'no'}
end
redis.call('HINCRBY', state, 'beat', 1)
return {'yes', held[4] and 1 or 0}
