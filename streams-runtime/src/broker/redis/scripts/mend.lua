-- Accepts the waiting set of a work queue as it is, if record and set are still as far apart as the caller saw.
-- KEYS: stream, state, waiting.
-- ARGV: group, token of the call, how many were recorded, how many were found, the loss to record (empty: none).
local state, waiting = KEYS[2], KEYS[3]

local wrong = wrong_type({{state, 'hash'}, {waiting, 'zset'}})
if wrong then
  return wrong
end
local held = redis.call('HMGET', state, 'mode', 'waits', 'lost', 'told')
if held[1] ~= 'queue' then
  return {'no'}
end
if held[4] == ARGV[2] then
  return {'yes'}
end
local stamp, count = waits_of(held[2])
if not stamp then
  return {'damaged', state}
end
local damage = apart(waiting, stamp, count)
if not damage or damage[1] ~= 'apart' then
  return damage or {'no'}
end
if damage[2] ~= ARGV[3] or damage[3] ~= ARGV[4] then
  return {'no'}
end
wrong = may_not(changes(waiting, state))
if wrong then
  return wrong
end

-- A waiting entry has two members; a single one is dropped. All are written anew, because scores may be from another
-- time, too.
local ids, dues = {}, {}
local members = redis.call('ZRANGE', waiting, '0', '-1', 'WITHSCORES')
for i = 1, #members, 2 do
  local id, failed, crashes, need = string.match(members[i], '^(%d+%-%d+) (%d+) (%d+)(.*)$')
  if is_id(members[i]) then
    ids[members[i]] = true
  elseif id and not dues[id] then
    local score = tonumber(members[i + 1])
    local event = string.match(need, '^ (%S+@%d+)$')
    local due = (score >= 0 and score < BY_NEED) and score or 0
    dues[id] = {failed, crashes, due, event}
  end
end
redis.call('DEL', waiting)
local found, needed, slot = 0, '', nil
for id in pairs(ids) do
  if dues[id] then
    local failed, crashes, score, event = unpack(dues[id], 1, 4)
    if event then
      slot, needed = slot_of(needed, event)
      score = BY_NEED + slot
    end
    found = found + let_wait(waiting, id, failed, crashes, score, event)
  end
end
write_once(state, {'waits', put_stamp(waiting, stamp, found), 'needed', needed}, ARGV[2], held[3], ARGV[5])
return {'yes'}
