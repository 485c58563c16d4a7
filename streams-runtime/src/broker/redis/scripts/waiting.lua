-- The parts that scripts of a work queue share: how they read and write the chunks and the waiting set.

-- Scores of the waiting set. An entry's id stands at the first of these and its milliseconds, and the stamp below all ids. What has
-- to wait for a moment stands at it, and what waits for a build at the last of these and the slot of the event.
local BY_ID, BY_NEED, BY_STAMP = -4503599627370496, 4503599627370496, -9007199254740992
local IDS_END, DUES_END = '(0', '(4503599627370496'

-- The answer where a command has failed on its key: what is wrong with the user's rights or with the key's type. Otherwise the script
-- fails with the command's own words. So types and rights are only asked for when they may be wrong.
local function fail(reply, command, kind)
  return may_not({command}) or wrong_type({{command[2], kind}}) or error(reply)
end

-- The stamp of the waiting set and how many entries wait, as the state says; nothing where that is no such thing.
local function waits_of(field)
  local stamp, count = string.match(field or '0 0', '^(%d+) (%d+)$')
  return tonumber(stamp), tonumber(count)
end

-- How many entries the waiting set holds.
local function found_in(waiting)
  return math.min(redis.call('ZCOUNT', waiting, digits(BY_ID), IDS_END), redis.call('ZCOUNT', waiting, '0', '+inf'))
end

-- The answer where the waiting set is not the one of which the state tells; nothing where it is.
local function apart(waiting, stamp, count)
  local size = redis.pcall('ZCARD', waiting)
  if type(size) == 'table' then
    return fail(size, {'ZCARD', waiting}, 'zset')
  end
  if size == 0 and count == 0 then
    return
  end
  local found = size > 0 and redis.call('ZSCORE', waiting, 'stamp')
  if size == 2 * count + 1 and found and tonumber(found) == BY_STAMP + stamp then
    return
  end
  return {'apart', digits(count), digits(found_in(waiting))}
end

-- The commands by which a script may change the waiting set and the state.
local function changes(waiting, state)
  return {
    {'ZADD', waiting, 'NX', '0', 'a'}, {'ZREM', waiting, 'a'}, {'DEL', waiting}, {'HSET', state, 'waits', '0 0'},
  }
end

-- A write with however many arguments, single ones or pairs: Lua has room for about 8,000 at a time.
local function write_all(command, key, arguments)
  for i = 1, #arguments, 4000 do
    redis.call(command, key, unpack(arguments, i, math.min(i + 3999, #arguments)))
  end
end

local function id_score(id)
  return digits(BY_ID + math.min(tonumber(string.match(id, '^%d+')), BY_NEED - 1))
end

-- Adds an entry, from a moment on (0: at once) or for a build that handles `need`, which has this slot. Answers how many were added:
-- one that waits already is left as it is.
local function let_wait(waiting, id, failed, crashes, due, need, slot)
  local member = id .. ' ' .. failed .. ' ' .. crashes
  local score = due
  if need then
    member, score = member .. ' ' .. need, BY_NEED + slot
  end
  local added = redis.call('ZADD', waiting, 'NX', id_score(id), id, digits(score), member)
  if added == 1 then
    redis.call('ZREM', waiting, member)
  end
  return added == 2 and 1 or 0
end

-- Puts the stamp on the waiting set after a change; answers what the state has to say of it.
local function put_stamp(waiting, stamp, count)
  stamp = stamp + 1
  if count > 0 then
    redis.call('ZADD', waiting, digits(BY_STAMP + stamp), 'stamp')
  else
    redis.call('DEL', waiting)
  end
  return digits(stamp) .. ' ' .. digits(count)
end

-- The needed events with their slots, from a text such as `Trade@2=0 Order@1=1`.
local function slots_of(field)
  local slots = {}
  for event, slot in string.gmatch(field or '', '([^ =]+)=(%d+)') do
    slots[event] = tonumber(slot)
  end
  return slots
end

-- The slot of an event, which gets the lowest free one where it has none.
local function slot_of(slots, event)
  if not slots[event] then
    local used = {}
    for _, slot in pairs(slots) do
      used[slot] = true
    end
    local slot = 0
    while used[slot] do
      slot = slot + 1
    end
    slots[event] = slot
  end
  return slots[event]
end

local function slots_text(slots)
  local pairs_of = {}
  for event, slot in pairs(slots) do
    table.insert(pairs_of, event .. '=' .. digits(slot))
  end
  table.sort(pairs_of)
  return table.concat(pairs_of, ' ')
end

-- The rest of a chunk that is in flight, from its record.
local function chunk_of(text)
  local number, after, to, except, rest = string.match(text, '^(%d+) (%S+) (%S+) (%S+)(.*)$')
  if not number then
    return
  end
  local chunk = {number = tonumber(number), after = after, to = to, except = {}, items = {}}
  for id in string.gmatch(except, '%d+%-%d+') do
    table.insert(chunk.except, id)
  end
  for id, failed, crashes, charged in string.gmatch(rest, ' (%d+%-%d+):(%d+):(%d+):([01])') do
    table.insert(chunk.items, {id = id, failed = failed, crashes = crashes, charged = charged})
  end
  return chunk
end

-- The record of a chunk; nothing where nothing of it is in flight.
local function chunk_text(chunk)
  local words = {'0', '-', '-', '-'}
  if chunk.number > 0 then
    words = {digits(chunk.number), chunk.after, chunk.to, #chunk.except > 0 and table.concat(chunk.except, ',') or '-'}
  elseif #chunk.items == 0 then
    return
  end
  for _, item in ipairs(chunk.items) do
    table.insert(words, table.concat({item.id, item.failed, item.crashes, item.charged}, ':'))
  end
  return table.concat(words, ' ')
end

-- The chunks of a joining, the oldest first, from all fields of the state.
local function chunks_of(held, epoch)
  local chunks = {}
  for field, text in pairs(held) do
    local call = string.match(field, '^chunk:' .. epoch .. '%.(%d+)$')
    if call then
      table.insert(chunks, {field = field, call = tonumber(call), text = text})
    end
  end
  table.sort(chunks, function(a, b)
    return a.call < b.call
  end)
  return chunks
end

-- A loss as it stands in a state, widened by another one; the other one where there was none.
local function widened(lost, more)
  local as_parts = '^([01]) (%S+) (%S+) (%d+)$'
  local deleted, from, to, count = string.match(lost or '', as_parts)
  local more_deleted, more_from, more_to, more_count = string.match(more or '', as_parts)
  if not deleted or not more_deleted then
    return more or lost
  end
  return table.concat({
    math.min(deleted, more_deleted), above(from, more_from) and more_from or from, above(more_to, to) and more_to or to,
    digits(count + more_count),
  }, ' ')
end

-- Writes these fields of the state; and with a loss, that it halts the queue.
local function write_with_loss(state, fields, before, loss)
  if loss ~= '' then
    table.insert(fields, 'lost')
    table.insert(fields, widened(before, loss))
  end
  redis.call('HSET', state, unpack(fields))
end

-- A loss, widened by so many entries that were in flight between two ids and are not in the stream.
local function missing(stream, lost, from, to, count)
  if count <= 0 then
    return lost
  end
  local first = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
  local deleted = first and not above(first[1], to)
  return widened(lost, table.concat({deleted and '1' or '0', from, to, digits(count)}, ' '))
end

-- Why chunks cannot be given back: a record that is damaged, a waiting set that is another one than the state tells of, or a right
-- that is missing; nothing where they can. KEYS: stream, state, waiting, bell. `removes` takes the consumer away.
local function cannot_give_up(chunks, stamp, waits, removes, rings)
  local stream, state, waiting, bell = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
  for _, record in ipairs(chunks) do
    stamp = chunk_of(record.text) and stamp
  end
  if not stamp then
    return {'damaged', state}
  end
  local damage = #chunks > 0 and apart(waiting, stamp, waits)
  if damage then
    return damage
  end
  local needed = changes(waiting, state)
  table.insert(needed, {'XRANGE', stream, '-', '+'})
  table.insert(needed, removes)
  table.insert(needed, {'XADD', bell, 'MAXLEN', rings, '*', 'group', ARGV[1]})
  return may_not(needed)
end

-- Lets what is in flight of these chunks wait, at most `most` entries. Answers how many, how many of them did not wait before, the
-- fields with what is left of them, those of which nothing is, whether there is more, and what is gone of the ranges.
local function give_up(stream, waiting, chunks, most)
  local given, added, kept, ended, more, lost = 0, 0, {}, {}, false, nil
  for _, record in ipairs(chunks) do
    if given >= most then
      more = true
      break
    end
    local chunk = chunk_of(record.text)
    local items, excepted, except = {}, {}, {}
    for _, item in ipairs(chunk.items) do
      if given < most then
        local crashes = digits(tonumber(item.crashes) + tonumber(item.charged))
        added = added + let_wait(waiting, item.id, item.failed, crashes, 0)
        given = given + 1
      else
        table.insert(items, item)
      end
    end
    for _, id in ipairs(chunk.except) do
      excepted[id] = true
    end
    local number, after = chunk.number, chunk.after
    if given < most and number > 0 then
      -- All that stand are counted, as what is gone has no place of its own among them. A few at a time: the server holds them in
      -- memory here.
      local found, last, is_end = 0, chunk.after, false
      while not is_end do
        local entries = redis.call('XRANGE', stream, '(' .. last, chunk.to, 'COUNT', 100)
        for _, entry in ipairs(entries) do
          last = entry[1]
          if not excepted[last] then
            found = found + 1
            if given < most then
              after = last
              added = added + let_wait(waiting, after, '0', '1', 0)
              given, number = given + 1, number - 1
            end
          end
        end
        is_end = #entries < 100 or last == chunk.to
      end
      lost = missing(stream, lost, chunk.after, chunk.to, chunk.number - found)
      number = found - (chunk.number - number)
    end
    for _, id in ipairs(chunk.except) do
      if above(id, after) then
        table.insert(except, id)
      end
    end
    local text = chunk_text({number = number, after = after, to = chunk.to, except = except, items = items})
    if text then
      table.insert(kept, record.field)
      table.insert(kept, text)
      more = true
    else
      table.insert(ended, record.field)
    end
  end
  return given, added, kept, ended, more, lost
end
