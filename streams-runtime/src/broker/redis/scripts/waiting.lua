-- The helpers of a work queue's scripts: how they read and write the chunks and the waiting set.

-- Scores of the waiting set. An entry's id has the first of these plus its milliseconds; the stamp is below all ids. An
-- entry that waits for a time has that time as its score. One that waits for a build has the last of these plus the
-- slot of its event.
local BY_ID, BY_NEED, BY_STAMP = -4503599627370496, 4503599627370496, -9007199254740992
local IDS_END, DUES_END = '(0', '(4503599627370496'

-- The answer after a command failed on its key: the missing right or the wrong type. Any other error fails the script.
-- So the script asks for types and rights only when they may be wrong.
local function fail(reply, command, kind)
  return may_not({command}) or wrong_type({{command[2], kind}}) or error(reply)
end

-- The stamp of the waiting set and the number of waiting entries, from the state; nothing if the field is malformed.
local function waits_of(field)
  local stamp, count = string.match(field or '0 0', '^(%d+) (%d+)$')
  return tonumber(stamp), tonumber(count)
end

-- How many entries the waiting set holds.
local function found_in(waiting)
  return math.min(redis.call('ZCOUNT', waiting, digits(BY_ID), IDS_END), redis.call('ZCOUNT', waiting, '0', '+inf'))
end

-- The answer if the waiting set differs from what the state says; else nothing.
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

-- A write with any number of arguments, single ones or pairs: Lua has room for about 8,000 at a time.
local function write_all(command, key, arguments)
  for i = 1, #arguments, 4000 do
    redis.call(command, key, unpack(arguments, i, math.min(i + 3999, #arguments)))
  end
end

local function id_score(id)
  return digits(BY_ID + math.min(tonumber(string.match(id, '^%d+')), BY_NEED - 1))
end

-- Adds a waiting entry with this score, perhaps for a build that handles `need`. Answers how many were added: an entry
-- that waits already stays as it is.
local function let_wait(waiting, id, failed, crashes, score, need)
  local member = id .. ' ' .. failed .. ' ' .. crashes .. (need and ' ' .. need or '')
  local added = redis.call('ZADD', waiting, 'NX', id_score(id), id, digits(score), member)
  if added == 1 then
    redis.call('ZREM', waiting, member)
  end
  return added == 2 and 1 or 0
end

-- Puts the stamp on the waiting set after a change; answers the field for the state.
local function put_stamp(waiting, stamp, count)
  stamp = stamp + 1
  if count > 0 then
    redis.call('ZADD', waiting, digits(BY_STAMP + stamp), 'stamp')
  else
    redis.call('DEL', waiting)
  end
  return digits(stamp) .. ' ' .. digits(count)
end

-- The slot of an event in the text of needed events, such as `Trade@2=0 Order@1=1`, and the text. A new event gets the
-- lowest free slot.
local function slot_of(needed, event)
  local _, at = string.find(' ' .. needed, ' ' .. event .. '=', 1, true)
  if at then
    return string.match(needed, '^%d+', at), needed
  end
  local slot = 0
  while string.find(needed .. ' ', '=' .. slot .. ' ', 1, true) do
    slot = slot + 1
  end
  return slot, (needed == '' and '' or needed .. ' ') .. event .. '=' .. slot
end

-- The rest of a chunk in flight, from its record; nothing if the record is malformed.
local function chunk_of(text)
  local number, after, to, except, items = string.match(text, '^(%d+) (%S+) (%S+) (%S+)(.*)$')
  return number and {number = tonumber(number), after = after, to = to, except = except, items = items}
end

-- The entries of a chunk with records of their own: id, failed attempts, crashes, whether it is charged.
local function items_of(chunk)
  return string.gmatch(chunk.items, ' (%d+%-%d+):(%d+):(%d+):([01])')
end

-- The ids in the range of a chunk that are not in flight.
local function excepted(chunk)
  local except = {}
  for id in string.gmatch(chunk.except, '%d+%-%d+') do
    except[id] = true
  end
  return except
end

-- The record of a chunk; nothing if none of its entries is in flight.
local function chunk_text(number, after, to, except, items)
  if number > 0 then
    return table.concat({digits(number), after, to, except}, ' ') .. items
  end
  return items ~= '' and '0 - - -' .. items or nil
end

-- Adds this many entries between two ids to a loss, which may be nil.
local function lose(lost, deleted, from, to, count)
  if not lost then
    return {deleted = deleted, from = from, to = to, count = count}
  end
  lost.deleted = lost.deleted and deleted
  lost.from = above(lost.from, from) and from or lost.from
  lost.to = above(to, lost.to) and to or lost.to
  lost.count = lost.count + count
  return lost
end

-- A loss in the form of the state, or an empty text for none.
local function loss_text(lost)
  return lost and table.concat({lost.deleted and '1' or '0', lost.from, lost.to, digits(lost.count)}, ' ') or ''
end

-- A loss widened by another one that is in the form of the state.
local function widened(text, lost)
  local deleted, from, to, count = string.match(text or '', '^([01]) (%S+) (%S+) (%d+)$')
  return deleted and lose(lost, deleted == '1', from, to, tonumber(count)) or lost
end

-- Writes these fields of the state, and a loss that halts the queue. A call sent again is recognised by its token.
local function write_once(state, fields, token, before, loss)
  if loss ~= '' then
    table.insert(fields, 'lost')
    table.insert(fields, loss_text(widened(before, widened(loss))))
  end
  redis.call('HSET', state, 'told', token, unpack(fields))
end

-- Adds to a loss this many entries that were in flight between two ids and are gone. A trim has passed them if the
-- stream begins behind the first place that one of them may have had.
local function missing(stream, lost, from, to, count)
  if count <= 0 then
    return lost
  end
  local first = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
  return lose(lost, first and not above(id_before(first[1]), from), from, to, count)
end
