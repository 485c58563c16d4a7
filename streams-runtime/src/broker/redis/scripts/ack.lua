-- Records what became of entries in flight in a work queue, all or nothing. Sent twice it takes effect once.
-- KEYS: stream, state, waiting, dead letters, bell.
-- ARGV: group, token, epoch, call, most dead letters, their greatest age in ms, most rings of the bell, names of events
--       ignored because no known build handles them, numbers of chunks, of released entries and of dead letters, error of
--       an attempt (entry, attempts, text; empty: none), then (chunk, its record or empty)*, (id, failed, crashes, wait in ms, needed event or empty)*, (number of arguments,
--       field, value, ...)*.
local state, waiting, dead, bell, epoch, call = KEYS[2], KEYS[3], KEYS[4], KEYS[5], ARGV[3], tonumber(ARGV[4])
local chunks, backs, letters = tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[11])

local names = {'consumer:' .. ARGV[2], 'events', 'waits', 'needed'}
for n = 1, chunks do
  names[4 + n] = 'chunk:' .. epoch .. '.' .. ARGV[11 + 2 * n]
end
local held = redis.pcall('HMGET', state, unpack(names, 1, math.min(#names, 4000)))
if held.err then
  return fail(held, {'HMGET', state, 'at'}, 'hash')
end
for i = 4001, #names, 4000 do
  for n, text in ipairs(redis.call('HMGET', state, unpack(names, i, math.min(i + 3999, #names)))) do
    held[i + n - 1] = text
  end
end
local joined, beat, lease, fetches, acks = string.match(held[1] or '', '^(%d+) (%d+) (%d+) (%d+) (%d+)$')
if joined ~= epoch then
  return {'fenced'}
end
if call <= tonumber(acks) then
  return {'done'}
end
if call > acks + 1 then
  -- The server has gone back in time, and has lost later acks of the caller.
  return {'fenced'}
end
local ended, write, i = {}, {names[1], table.concat({epoch, beat + 1, lease, fetches, call}, ' ')}, 13
for n = 1, chunks do
  -- After a server that has gone back in time the chunk may be given out once more.
  if not held[4 + n] then
    return {'fenced'}
  end
  if ARGV[i + 1] == '' then
    table.insert(ended, names[4 + n])
  else
    table.insert(write, names[4 + n])
    table.insert(write, ARGV[i + 1])
  end
  i = i + 2
end
local declared = ARGV[8] ~= '' and declared_of(held[2], ARGV[8])
if declared then
  return declared
end

-- HDEL is the first write and HSET the last, so only the right to HSET needs a question.
local stamp, waits, clock
local writes = #ended > 0 and {{'HSET', state, 'waits', '0 0'}} or {}
if backs > 0 then
  stamp, waits = waits_of(held[3])
  if not stamp then
    return {'damaged', state}
  end
  local wrong = apart(waiting, stamp, waits) or wrong_type({{bell, 'stream'}})
  if wrong then
    return wrong
  end
  clock = now()
  writes = changes(waiting, state)
  table.insert(writes, {'HDEL', state, 'chunk:0.0'})
  table.insert(writes, {'XADD', bell, 'MAXLEN', ARGV[7], '*', 'group', ARGV[1]})
end
if letters > 0 then
  local wrong = no_room(dead, letters, tonumber(ARGV[5]), tonumber(ARGV[6]))
  if wrong then
    return wrong
  end
  table.insert(writes, {'HDEL', state, 'chunk:0.0'})
  table.insert(writes, {'XADD', dead, '*', 'event', ''})
end
local wrong = may_not(writes)
if wrong then
  return wrong
end

write_all('HDEL', state, ended)
local rings = false
if backs > 0 then
  local needed, slot = held[4] or '', nil
  for _ = 1, backs do
    local due, need = tonumber(ARGV[i + 3]), ARGV[i + 4]
    rings = rings or due == 0
    if need ~= '' then
      slot, needed = slot_of(needed, need)
      waits = waits + let_wait(waiting, ARGV[i], ARGV[i + 1], ARGV[i + 2], BY_NEED + slot, need)
    else
      waits = waits + let_wait(waiting, ARGV[i], ARGV[i + 1], ARGV[i + 2], due == 0 and 0 or clock + due)
    end
    i = i + 5
  end
  table.insert(write, 'waits')
  table.insert(write, put_stamp(waiting, stamp, waits))
  if ARGV[12] ~= '' then
    table.insert(write, 'error')
    table.insert(write, digits(clock) .. ' ' .. ARGV[12])
  end
  if needed ~= (held[4] or '') then
    table.insert(write, 'needed')
    table.insert(write, needed)
  end
end
write_letters(dead, i, letters)
write_all('HSET', state, write)
if rings then
  ring(bell, ARGV[1], ARGV[7])
end
return {'done'}
