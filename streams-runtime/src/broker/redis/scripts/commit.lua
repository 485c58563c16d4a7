-- Moves a checkpoint and adds the dead letters that it passes. A commit sent twice changes nothing the second time.
-- KEYS: stream, state, dead letters, ids of settled events.
-- ARGV: group, owner, epoch, prev, next, event at next, seen, mirror (1 or 0), most dead letters, their greatest age in
--       ms, numbers of attempts, forgotten and dead, names of events ignored because no known build handles them,
--       number of the commit in its epoch, error of an attempt (entry, attempts, text; empty: none), number of ids to
--       remember, for how many ms, how many at most, then these ids, (id, attempts)*, (forgotten id)*, (number of
--       arguments, field, value,
--       ...)*, then, only during a recovery: how many events are left, the charged ones (A B), number of forgotten ids,
--       these ids.
local stream, state, dead = KEYS[1], KEYS[2], KEYS[3]
local group, owner, epoch, prev, next_id = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local next_event, seen = ARGV[6], ARGV[7]
local attempts, forgotten, letters = tonumber(ARGV[11]), tonumber(ARGV[12]), tonumber(ARGV[13])

local wrong = wrong_type({{state, 'hash'}}) or (KEYS[4] and wrong_type({{KEYS[4], 'zset'}}))
if wrong then
  return wrong
end
local held = redis.call('HMGET', state, 'owner', 'epoch', 'at', 'beat', 'seen', 'call')
if not is_held(held[1], held[2], owner, epoch) then
  return {'fenced'}
end
if held[3] == next_id and prev ~= next_id then
  return {'done'}
end
if held[3] ~= prev then
  return {'conflict', held[3] or '0-0'}
end
local call = tonumber(ARGV[15])
if prev == next_id then
  -- Only its number shows that a commit arrives after later ones.
  local last_epoch, last = string.match(held[6] or '', '^(%d+) (%d+)$')
  if last_epoch == epoch and call == tonumber(last) then
    return {'done'}
  elseif last_epoch == epoch and call < tonumber(last) then
    return {'conflict', held[3]}
  end
end
if not tonumber(held[4]) then
  return {'damaged', state}
end
local passed_over = ARGV[14]
if passed_over ~= '' then
  local declared = declared_of(redis.call('HMGET', state, 'events')[1], passed_over)
  if declared then
    return declared
  end
end
if letters > 0 then
  wrong = no_room(dead, letters, tonumber(ARGV[9]), tonumber(ARGV[10]))
  if wrong then
    return wrong
  end
end

local remember = tonumber(ARGV[17])
-- Where the attempts begin.
local first = 20 + remember
local i = first + 2 * attempts + forgotten
for _ = 1, letters do
  i = i + 1 + tonumber(ARGV[i])
end
local left, charged = ARGV[i], ARGV[i + 1]
if letters > 0 or forgotten > 0 or remember > 0 or left then
  local writes = {{'HSET', state, 'at', next_id}, {'HDEL', state, 'charged'}}
  if letters > 0 then
    table.insert(writes, {'XADD', dead, '*', 'event', ''})
  end
  if remember > 0 then
    table.insert(writes, {'ZADD', KEYS[4], '0', ''})
    table.insert(writes, {'ZREMRANGEBYSCORE', KEYS[4], '0', '0'})
    table.insert(writes, {'ZREMRANGEBYRANK', KEYS[4], '0', '0'})
  end
  wrong = may_not(writes)
  if wrong then
    return wrong
  end
end

local failed_at = ARGV[16] ~= '' and digits(now())
local proof_at = i
write_letters(dead, first + 2 * attempts + forgotten, letters)
if left then
  if left == '0' then
    redis.call('HDEL', state, 'prove', 'prove_to', 'charged')
  elseif charged == '' then
    redis.call('HSET', state, 'prove', left)
    redis.call('HDEL', state, 'charged')
  else
    redis.call('HSET', state, 'prove', left, 'charged', charged)
  end
  for forgotten_at = proof_at + 3, proof_at + 2 + tonumber(ARGV[proof_at + 2]) do
    redis.call('HDEL', state, 'crashes:' .. ARGV[forgotten_at])
  end
end
local beat = digits(tonumber(held[4]) + 1)
if prev == next_id then
  if seen == '' then
    seen = held[5] or ''
  end
  redis.call('HSET', state, 'beat', beat, 'seen', seen, 'call', epoch .. ' ' .. ARGV[15])
else
  redis.call('HSET', state, 'beat', beat, 'at', next_id, 'at_event', next_event, 'seen', seen)
end
if remember > 0 then
  local settled, time = KEYS[4], now()
  for id = 20, 19 + remember do
    redis.call('ZADD', settled, 'NX', digits(time), ARGV[id])
  end
  redis.call('ZREMRANGEBYSCORE', settled, '-inf', digits(time - tonumber(ARGV[18])))
  local over = redis.call('ZCARD', settled) - tonumber(ARGV[19])
  if over > 0 then
    redis.call('ZREMRANGEBYRANK', settled, 0, over - 1)
  end
end
i = first
for _ = 1, attempts do
  redis.call('HSET', state, 'attempts:' .. ARGV[i], ARGV[i + 1])
  i = i + 2
end
for _ = 1, forgotten do
  redis.call('HDEL', state, 'attempts:' .. ARGV[i])
  i = i + 1
end
if failed_at then
  redis.call('HSET', state, 'error', failed_at .. ' ' .. ARGV[16])
end
if ARGV[8] == '1' and not mirror(stream, group, next_id, seen) then
  return {'vanished'}
end
return {'done'}
