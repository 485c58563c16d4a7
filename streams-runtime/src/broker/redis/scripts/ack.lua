-- Takes up what became of entries of a work queue that are in flight, all or nothing. Sent twice it changes nothing the second time.
-- KEYS: stream, state, waiting, dead letters, bell.
-- ARGV: group, token, epoch, call, most dead letters, their greatest age in ms, rings that the bell keeps, the names of events that
--       were passed over because no build was known to handle them, numbers of chunks, of entries that are given back and of dead
--       letters, then (chunk, its record or empty)*, (id, failed, crashes, wait in ms, event that has to be known or empty)*,
--       (number of arguments, field, value, ...)*.
local state, waiting, dead, bell = KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local group, epoch = ARGV[1], ARGV[3]
local consumer = 'consumer:' .. ARGV[2]
local chunks, backs, letters = tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[11])

local fields = {}
for n = 1, chunks do
  fields[n] = 'chunk:' .. epoch .. '.' .. ARGV[10 + 2 * n]
end
local held = redis.pcall('HMGET', state, consumer, 'events', 'waits', 'needed', unpack(fields, 1, math.min(chunks, 4000)))
if held.err then
  return fail(held, {'HMGET', state, 'at'}, 'hash')
end
for i = 4001, chunks, 4000 do
  for n, text in ipairs(redis.call('HMGET', state, unpack(fields, i, math.min(i + 3999, chunks)))) do
    held[i + n + 3] = text
  end
end
local joined, beat, lease, calls = lives(held[1])
local fetches, acks = string.match(calls or '', '^ (%d+) (%d+)$')
if joined ~= epoch or not fetches then
  return {'fenced'}
end
if tonumber(ARGV[4]) <= tonumber(acks) then
  return {'done'}
end
if tonumber(ARGV[4]) > tonumber(acks) + 1 then
  -- The server has gone back in time: what the caller has said since is lost.
  return {'fenced'}
end
local stamp, waits = waits_of(held[3])
if not stamp then
  return {'damaged', state}
end
for n = 1, chunks do
  -- Where the server has gone back in time, what was fetched since may be given out once more.
  if not held[4 + n] then
    return {'fenced'}
  end
end
if ARGV[8] ~= '' then
  local declared = declared_of(held[2], ARGV[8])
  if declared then
    return declared
  end
end
-- The first write takes the one right, the last the other: so it is enough to ask for the other.
local writes = {{'HSET', state, 'waits', '0 0'}}
if backs > 0 then
  local wrong = apart(waiting, stamp, waits) or wrong_type({{bell, 'stream'}})
  if wrong then
    return wrong
  end
  writes = changes(waiting, state)
  table.insert(writes, {'HDEL', state, 'chunk:0.0'})
  table.insert(writes, {'XADD', bell, 'MAXLEN', ARGV[7], '*', 'group', group})
end
if letters > 0 then
  local wrong = wrong_type({{dead, 'stream'}})
  if wrong then
    return wrong
  end
  local count = redis.call('XLEN', dead)
  local oldest = redis.call('XRANGE', dead, '-', '+', 'COUNT', 1)[1]
  local oldest_id = oldest and oldest[1] or ''
  local too_old = oldest and now() - tonumber(string.match(oldest_id, '^%d+')) > tonumber(ARGV[6])
  if too_old or count + letters > tonumber(ARGV[5]) then
    return {'full', count, oldest_id}
  end
  table.insert(writes, {'HDEL', state, 'chunk:0.0'})
  table.insert(writes, {'XADD', dead, '*', 'event', ''})
end
local wrong = may_not(writes)
if wrong then
  return wrong
end

local clock, i, kept, ended = backs > 0 and now(), 12, {}, {}
for n = 1, chunks do
  if ARGV[i + 1] == '' then
    table.insert(ended, fields[n])
  else
    table.insert(kept, fields[n])
    table.insert(kept, ARGV[i + 1])
  end
  i = i + 2
end
write_all('HDEL', state, ended)
local rings = false
if backs > 0 then
  local slots = slots_of(held[4])
  for _ = 1, backs do
    local due, need = tonumber(ARGV[i + 3]), ARGV[i + 4]
    if need ~= '' then
      waits = waits + let_wait(waiting, ARGV[i], ARGV[i + 1], ARGV[i + 2], 0, need, slot_of(slots, need))
    else
      waits = waits + let_wait(waiting, ARGV[i], ARGV[i + 1], ARGV[i + 2], due == 0 and 0 or clock + due)
    end
    rings = rings or due == 0
    i = i + 5
  end
  table.insert(kept, 'waits')
  table.insert(kept, put_stamp(waiting, stamp, waits))
  local needed = slots_text(slots)
  if needed ~= (held[4] or '') then
    table.insert(kept, 'needed')
    table.insert(kept, needed)
  end
end
for _ = 1, letters do
  local n = tonumber(ARGV[i])
  redis.call('XADD', dead, '*', unpack(ARGV, i + 1, i + n))
  i = i + 1 + n
end
local says = table.concat({epoch, digits(tonumber(beat) + 1), lease, fetches, ARGV[4]}, ' ')
table.insert(kept, consumer)
table.insert(kept, says)
write_all('HSET', state, kept)
if rings then
  ring(bell, group, ARGV[7])
end
return {'done'}
