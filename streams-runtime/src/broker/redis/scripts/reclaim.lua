-- Releases a consumer's entries in flight, and removes the consumer with the last. A dead consumer loses some per call;
-- one that leaves loses all. A loss found here stays in the record until a call shows that it was reported.
-- KEYS: stream, state, waiting, bell.
-- ARGV: group, token, the consumer's sign of life as seen (epoch, beat and lease; dead, and the loss reported; only its
--       epoch if it leaves), most entries per call, most rings of the bell.
local stream, state, waiting, bell = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local field, seen, most = 'consumer:' .. ARGV[2], ARGV[3], tonumber(ARGV[4])

local wrong = wrong_type({{stream, 'stream'}, {state, 'hash'}, {waiting, 'zset'}, {bell, 'stream'}})
if wrong then
  return wrong
end
local held = by_name(redis.call('HGETALL', state))
local epoch, beat, lease = lives(held[field])
local living, is_orphan = epoch, not held[field]
if is_orphan then
  -- The consumer's field was deleted, but not its chunks.
  epoch = string.match(ARGV[2], '^orphan/(%d+)$')
  for name, says in pairs(held) do
    if string.find(name, '^consumer:') and (lives(says) or string.match(says, '^dead (%d+)$')) == epoch then
      epoch = nil
    end
  end
elseif not living then
  epoch = string.match(held[field], '^dead (%d+)$')
end
local told = epoch and held['lost:' .. epoch] or ''
local shown = living and table.concat({epoch, beat, lease}, ' ') or (told == '' and 'dead' or 'dead ' .. told)
if held.mode ~= 'queue' or not epoch or (seen ~= shown and seen ~= living) then
  return {'contended'}
end

-- The consumer's chunks, the oldest first.
local chunks, lost_field = {}, 'lost:' .. epoch
for name, text in pairs(held) do
  local call = string.match(name, '^chunk:' .. epoch .. '%.(%d+)$')
  if call then
    local chunk = chunk_of(text)
    if not chunk then
      return {'damaged', state}
    end
    chunk.field, chunk.call = name, tonumber(call)
    table.insert(chunks, chunk)
  end
end
table.sort(chunks, function(a, b)
  return a.call < b.call
end)
if is_orphan and #chunks == 0 and not held[lost_field] then
  return {'contended'}
end
local stamp, waits = waits_of(held.waits)
if not stamp then
  return {'damaged', state}
end
wrong = #chunks > 0 and apart(waiting, stamp, waits)
if not wrong then
  local needed = changes(waiting, state)
  table.insert(needed, {'XRANGE', stream, '-', '+'})
  table.insert(needed, {'HDEL', state, field})
  table.insert(needed, {'XADD', bell, 'MAXLEN', ARGV[5], '*', 'group', ARGV[1]})
  wrong = may_not(needed)
end
if wrong then
  return wrong
end

local given, added, write, ended, more = 0, 0, {}, {}, false
-- The loss in the answer of its latest fetch, which the consumer may not have reported.
local lost = living and widened(told) or nil
for _, chunk in ipairs(chunks) do
  if given >= most then
    more = true
    break
  end
  local items, except, number, after = {}, excepted(chunk), chunk.number, chunk.after
  for id, failed, crashes, charged in items_of(chunk) do
    if given < most then
      added = added + let_wait(waiting, id, failed, digits(crashes + charged), 0)
      given = given + 1
    else
      table.insert(items, table.concat({' ' .. id, failed, crashes, charged}, ':'))
    end
  end
  if given < most and number > 0 then
    -- Counts all entries that remain, because a missing one has no place among them. It reads few at once, because the
    -- server holds them in memory.
    local found, last, is_end = 0, chunk.after, false
    while not is_end do
      local entries = redis.call('XRANGE', stream, '(' .. last, chunk.to, 'COUNT', 16)
      for _, entry in ipairs(entries) do
        last = entry[1]
        if not except[last] then
          found = found + 1
          if given < most then
            after = last
            added = added + let_wait(waiting, after, '0', '1', 0)
            given, number = given + 1, number - 1
          end
        end
      end
      is_end = #entries < 16 or last == chunk.to
    end
    lost = missing(stream, lost, chunk.after, chunk.to, chunk.number - found)
    number = found - (chunk.number - number)
  end
  local kept = {}
  for id in string.gmatch(chunk.except, '%d+%-%d+') do
    if above(id, after) then
      table.insert(kept, id)
    end
  end
  local text = chunk_text(number, after, chunk.to, #kept > 0 and table.concat(kept, ',') or '-', table.concat(items))
  if text then
    table.insert(write, chunk.field)
    table.insert(write, text)
    more = true
  else
    table.insert(ended, chunk.field)
  end
end
if lost and seen ~= living then
  table.insert(write, lost_field)
  table.insert(write, loss_text(lost))
  more = true
else
  table.insert(ended, lost_field)
end
if added > 0 then
  table.insert(write, 'waits')
  table.insert(write, put_stamp(waiting, stamp, waits + added))
end
if not more then
  table.insert(ended, field)
elseif not is_orphan then
  -- From here on the consumer's calls are refused.
  table.insert(write, field)
  table.insert(write, 'dead ' .. epoch)
end
write_all('HDEL', state, ended)
write_all('HSET', state, write)
if not more then
  ring(bell, ARGV[1], ARGV[5])
end
return {more and 'some' or 'all', given, loss_text(lost)}
