-- Renews a lease, or a consumer of a work queue, and answers whether dead letters wait to be replayed.
-- KEYS: state.
-- ARGV: owner, epoch.
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
