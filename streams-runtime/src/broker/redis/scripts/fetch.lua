-- Gives out entries of a work queue as one chunk: first waiting entries that are due, then new ones. Sent twice it
-- answers with the same chunk.
-- KEYS: stream, state, waiting.
-- ARGV: group, token, epoch, call, count, most waiting entries, longest wait in ms, whether to continue over a loss (1
--       or 0), mirror (1 or 0), which new entries: nothing; read, with a cursor and the next entry that were judged, or
--       two empty texts; known, with cursor, last entry, its event and a number; empty texts up to the 14th, then
--       bytes, then (name, newest version)*.
local stream, state, waiting, epoch, call = KEYS[1], KEYS[2], KEYS[3], ARGV[3], tonumber(ARGV[4])
local most, longest_wait, kind, most_bytes = tonumber(ARGV[5]), tonumber(ARGV[7]), ARGV[10], tonumber(ARGV[15])
local consumer, chunk_field, lost_field = 'consumer:' .. ARGV[2], 'chunk:' .. epoch .. '.' .. ARGV[4], 'lost:' .. epoch

local held = redis.pcall('HMGET', state, 'at', 'at_event', 'seen', 'lost', 'waits', 'needed', consumer, lost_field)
if held.err then
  return fail(held, {'HMGET', state, 'at'}, 'hash')
end
local at, at_event, seen, told = held[1], held[2] or '', held[3] or '', held[8] or ''
if not at then
  return {'missing'}
end
local joined, beat, lease, fetches, acks = string.match(held[7] or '', '^(%d+) (%d+) (%d+) (%d+) (%d+)$')
if joined ~= epoch then
  return {'fenced'}
end
fetches = tonumber(fetches)
local stamp, waits = waits_of(held[5])
if not is_id(at) or not (seen == '' or tonumber(seen)) or not stamp then
  return {'damaged', state}
end
local function lives_on(fetch)
  return table.concat({epoch, beat + 1, lease, fetch, acks}, ' ')
end

local clock
local function answer(again, new, number, lost)
  local due = ''
  if waits > 0 then
    clock = clock or now()
    local next_due = redis.call('ZRANGEBYSCORE', waiting, '(' .. digits(clock), DUES_END, 'WITHSCORES', 'LIMIT', 0, 1)[2]
    due = next_due and digits(math.min(tonumber(next_due) - clock, longest_wait)) or ''
  end
  return {'chunk', at, waits, due, lost, number, again, new}
end

-- The waiting entries that are given out, and their records.
local again, items, bytes = {}, {}, 0
local function take(id, failed, crashes, charged)
  local entry = entry_at(stream, id)
  if entry then
    local whole, weight = cut(entry)
    bytes = bytes + weight
    table.insert(again, {whole, failed, crashes})
    table.insert(items, table.concat({' ' .. id, failed, crashes, charged}, ':'))
  end
  return entry
end

if call <= fetches then
  local wrong = wrong_type({{stream, 'stream'}, {waiting, 'zset'}})
  if wrong then
    return wrong
  end
  local is_latest, text, new = call == fetches, redis.call('HGET', state, chunk_field), {}
  local chunk = chunk_of(text or '0 - - -')
  if not chunk then
    return {'damaged', state}
  end
  local lost = is_latest and widened(told) or nil
  for id, failed, crashes, charged in items_of(chunk) do
    if not take(id, failed, crashes, charged) then
      lost = missing(stream, lost, id_before(id), id, 1)
    end
  end
  if kind ~= 'known' and chunk.number > 0 then
    local except = excepted(chunk)
    for _, entry in ipairs(redis.call('XRANGE', stream, '(' .. chunk.after, chunk.to)) do
      if not except[entry[1]] then
        new[#new + 1] = cut(entry)
      end
    end
    lost = missing(stream, lost, chunk.after, chunk.to, chunk.number - #new)
    chunk.number = #new
  end
  -- Built before the first write, because it takes rights. A late call reports no loss, because it writes none.
  local reply = answer(again, new, chunk.number, is_latest and loss_text(lost) or '')
  if is_latest then
    local left = chunk_text(chunk.number, chunk.after, chunk.to, chunk.except, table.concat(items))
    local write = left and {chunk_field, left} or {}
    if lost then
      table.insert(write, lost_field)
      table.insert(write, loss_text(lost))
    end
    if text and not left then
      wrong = may_not({{'HSET', state, 'at', at}})
      if wrong then
        return wrong
      end
      redis.call('HDEL', state, chunk_field)
    end
    redis.call('HSET', state, consumer, lives_on(fetches), unpack(write))
  end
  return reply
end
if call > fetches + 1 then
  -- The server has gone back in time, and has lost later fetches of the caller.
  return {'fenced'}
end
if held[4] and ARGV[8] ~= '1' then
  return {'lost', 0, held[4]}
end
local damage = apart(waiting, stamp, waits)
if damage then
  return damage
end

-- The waiting entries to give out, and the members of the set that belong to these and to missing ones.
local taken, gone, lost, write = {}, {}, nil, {}
if waits > 0 then
  local wrong = wrong_type({{stream, 'stream'}})
  if wrong then
    return wrong
  end
  clock = now()
  -- A trim removes the lowest ids. While the stream's first entry is not above the lowest waiting one, no trim has
  -- passed a waiting entry. Otherwise this finds all that it has passed, whenever they are due.
  local first = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
  local up_to, passed = first and id_score(first[1]) or IDS_END, {}
  if redis.call('ZRANGEBYSCORE', waiting, digits(BY_ID), up_to, 'LIMIT', 0, 1)[1] then
    for _, id in ipairs(redis.call('ZRANGEBYSCORE', waiting, digits(BY_ID), up_to)) do
      if not first or above(first[1], id) then
        passed[id] = true
        lost = lose(lost, false, id_before(id), id, 1)
        table.insert(gone, id)
      end
    end
  end
  if lost then
    for _, member in ipairs(redis.call('ZRANGEBYSCORE', waiting, '0', '+inf')) do
      if passed[string.match(member, '^%S+')] then
        table.insert(gone, member)
      end
    end
  end

  local tried = 0
  local function find(from, to)
    -- Missing ones are among them.
    local limit = digits(most - tried + #gone / 2)
    for _, member in ipairs(redis.call('ZRANGEBYSCORE', waiting, from, to, 'LIMIT', 0, limit)) do
      local id, failed, crashes = string.match(member, '^(%S+) (%d+) (%d+)')
      if tried < most and bytes < most_bytes and not passed[id] then
        tried = tried + 1
        -- An entry with crashes is charged just before it runs.
        local out = taken
        if not take(id, failed, crashes, crashes == '0' and '1' or '0') then
          out, lost = gone, lose(lost, true, id_before(id), id, 1)
        end
        table.insert(out, id)
        table.insert(out, member)
      end
    end
  end
  for event, slot in string.gmatch(held[6] or '', '([^ =]+)=(%d+)') do
    local name, version = string.match(event, '^(.+)@(%d+)$')
    for i = 16, #ARGV, 2 do
      if ARGV[i] == name and tonumber(ARGV[i + 1]) >= tonumber(version) then
        local score = digits(BY_NEED + slot)
        find(score, score)
      end
    end
  end
  find('0', digits(clock))
  -- Entries whose wait grew because the clock went back.
  find('(' .. digits(clock + longest_wait), DUES_END)
end
local halts = lost and ARGV[8] ~= '1'
if halts then
  -- Only missing entries leave the waiting set.
  taken, again = {}, {}
end
local left = waits - (#taken + #gone) / 2

-- The new entries.
local new, number, from, room = {}, 0, at, most - #again
if halts or left >= tonumber(ARGV[6]) or bytes >= most_bytes then
  room = 0
end
if kind == 'read' and room > 0 then
  -- Entries may be large, and the server holds all of one read in memory, so it reads few at once.
  local entries = redis.pcall('XRANGE', stream, at, '+', 'COUNT', math.min(room, 16) + 1)
  if entries.err then
    return fail(entries, {'XRANGE', stream, '-', '+'}, 'stream')
  end
  local asked = math.min(room, 16) + 1
  local there = entries[1] and entries[1][1] == at and entries[1]
  local first = entries[there and 2 or 1]
  local sure = there and (at_event == '' or not first or event_id(there) == at_event)
  if not sure and first then
    sure = ARGV[11] == at and ARGV[12] == first[1]
    if not sure and at == '0-0' and seen == '0' then
      local info = by_name(redis.call('XINFO', 'STREAM', stream))
      sure = info['entries-added'] == info['length']
    end
  elseif not sure then
    sure = at == '0-0' or redis.call('XLEN', stream) > 0
  end
  if not sure then
    return {'unsure', at, at_event, seen}
  end
  local i = there and 2 or 1
  while entries[i] and number < room do
    local entry, weight = cut(entries[i])
    bytes = bytes + weight
    if bytes > most_bytes and number + #again > 0 then
      break
    end
    number, i = number + 1, i + 1
    new[number] = entry
    if i > asked and number < room then
      asked, i = math.min(room - number, 16), 1
      entries = redis.call('XRANGE', stream, '(' .. entry[1], '+', 'COUNT', asked)
    end
  end
  if number > 0 then
    from, at = id_before(new[1][1]), new[number][1]
    at_event = string.match(event_id(new[number]), '^[!-~]+$') or ''
  end
elseif kind == 'known' and ARGV[11] == at and ARGV[14] ~= '0' and tonumber(ARGV[14]) <= room then
  at, at_event, number = ARGV[12], ARGV[13], tonumber(ARGV[14])
end

if #taken + #gone > 0 then
  local needed = changes(waiting, state)
  table.insert(needed, {'ZCOUNT', waiting, '0', '0'})
  local wrong = may_not(needed)
  if wrong then
    return wrong
  end
  write_all('ZREM', waiting, taken)
  write_all('ZREM', waiting, gone)
  waits = left
  write = {'waits', put_stamp(waiting, stamp, waits)}
  -- An event for which no entry waits any more is not needed.
  local events = {}
  for event, slot in string.gmatch(held[6] or '', '([^ =]+)=(%d+)') do
    local score = digits(BY_NEED + slot)
    if waits > 0 and redis.call('ZCOUNT', waiting, score, score) > 0 then
      table.insert(events, event .. '=' .. slot)
    end
  end
  if table.concat(events, ' ') ~= (held[6] or '') then
    table.insert(write, 'needed')
    table.insert(write, table.concat(events, ' '))
  end
end
if halts then
  redis.call('HSET', state, consumer, lives_on(fetches), 'lost', loss_text(lost), unpack(write))
  return {'lost', 1, loss_text(lost)}
end
local text = chunk_text(number, from, at, '-', table.concat(items))
if text then
  table.insert(write, chunk_field)
  table.insert(write, text)
end
-- Kept until the next chunk, for a caller that does not get this answer.
if lost or told ~= '' then
  table.insert(write, lost_field)
  table.insert(write, loss_text(lost))
end
seen = seen ~= '' and digits(seen + number) or ''
redis.call('HSET', state, consumer, lives_on(ARGV[4]), 'at', at, 'at_event', at_event, 'seen', seen, unpack(write))
if number > 0 and ARGV[9] == '1' then
  mirror(stream, ARGV[1], at, seen)
end
return answer(again, new, number, loss_text(lost))
