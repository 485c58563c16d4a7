-- Gives out entries of a work queue as one chunk: first those that wait and may be taken, then new ones. Sent twice it answers with
-- the same chunk.
-- KEYS: stream, state, waiting.
-- ARGV: group, token, epoch, call, count, most that may wait, longest wait in ms, whether to go on over a loss (1 or 0), mirror (1 or
--       0), which new entries: nothing; read, with a cursor and the next entry that were judged, or two empty texts; known, with
--       cursor, last entry, its event and a number; empty texts up to the 14th, then (name, newest version)*.
local stream, state, waiting = KEYS[1], KEYS[2], KEYS[3]
local group, epoch, call, most = ARGV[1], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local longest_wait, goes_on, kind = tonumber(ARGV[7]), ARGV[8] == '1', ARGV[10]
local consumer, chunk_field = 'consumer:' .. ARGV[2], 'chunk:' .. epoch .. '.' .. ARGV[4]

local held = redis.pcall('HMGET', state, 'at', 'at_event', 'seen', 'lost', 'waits', 'needed', consumer, chunk_field)
if held.err then
  return fail(held, {'HMGET', state, 'at'}, 'hash')
end
local at, at_event, seen = held[1], held[2] or '', held[3] or ''
if not at then
  return {'missing'}
end
local joined, beat, lease, calls = lives(held[7])
local fetches, acks = string.match(calls or '', '^ (%d+) (%d+)$')
if joined ~= epoch or not fetches then
  return {'fenced'}
end
local stamp, waits = waits_of(held[5])
if not is_id(at) or not (seen == '' or tonumber(seen)) or not stamp then
  return {'damaged', state}
end
local lives_on = {epoch, digits(tonumber(beat) + 1), lease, ARGV[4], acks}

local clock
local function answer(again, new, number, loss)
  local due = ''
  if waits > 0 then
    clock = clock or now()
    local next_due = redis.call('ZRANGEBYSCORE', waiting, '(' .. digits(clock), DUES_END, 'WITHSCORES', 'LIMIT', 0, 1)[2]
    due = next_due and digits(math.min(tonumber(next_due) - clock, longest_wait)) or ''
  end
  return {'chunk', at, digits(waits), due, loss, digits(number), again, new}
end

if call <= tonumber(fetches) then
  local wrong = wrong_type({{stream, 'stream'}, {waiting, 'zset'}})
  if wrong then
    return wrong
  end
  local chunk = held[8] and chunk_of(held[8])
  if held[8] and not chunk then
    return {'damaged', state}
  end
  local again, new, items, lost = {}, {}, {}, nil
  chunk = chunk or {number = 0, except = {}, items = {}}
  for _, item in ipairs(chunk.items) do
    local entry = entry_at(stream, item.id)
    if entry then
      table.insert(again, {entry, item.failed, item.crashes})
      table.insert(items, item)
    else
      lost = missing(stream, lost, id_before(item.id), item.id, 1)
    end
  end
  if kind ~= 'known' and chunk.number > 0 then
    local excepted = {}
    for _, id in ipairs(chunk.except) do
      excepted[id] = true
    end
    for _, entry in ipairs(redis.call('XRANGE', stream, '(' .. chunk.after, chunk.to)) do
      if not excepted[entry[1]] then
        table.insert(new, entry)
      end
    end
    lost = missing(stream, lost, chunk.after, chunk.to, chunk.number - #new)
    chunk.number = #new
  end
  -- Made before the first write, as it takes rights. One that comes late tells of no loss, as it writes none.
  local reply = answer(again, new, chunk.number, call == tonumber(fetches) and lost and {lost} or {})
  if call == tonumber(fetches) then
    chunk.items = items
    local text = chunk_text(chunk)
    if held[8] and not text then
      wrong = may_not({{'HSET', state, 'at', at}})
      if wrong then
        return wrong
      end
      redis.call('HDEL', state, chunk_field)
    end
    redis.call('HSET', state, consumer, table.concat(lives_on, ' '), unpack(text and {chunk_field, text} or {}))
  end
  return reply
end
if call > tonumber(fetches) + 1 then
  -- The server has gone back in time: the caller has what this state does not know of.
  return {'fenced'}
end
if held[4] and not goes_on then
  return {'lost', 0, held[4]}
end

-- Which entries may be taken that wait, and which are lost.
local again, out, gone, slots, lost = {}, {}, 0, nil, nil
local function lose(id, deleted)
  lost = lost or {deleted = true, from = id, to = id, count = 0}
  lost.deleted = lost.deleted and deleted
  if above(lost.from, id) then
    lost.from = id
  end
  if above(id, lost.to) then
    lost.to = id
  end
  lost.count = lost.count + 1
  gone = gone + 1
end
if waits > 0 then
  local wrong = wrong_type({{stream, 'stream'}}) or apart(waiting, stamp, waits)
  if wrong then
    return wrong
  end
  clock = now()
  -- A trim takes the lowest. So it has passed none of those that wait as long as the first entry of the stream is not above the
  -- lowest of them. Otherwise all are found at once, whenever they are due.
  local first = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
  local up_to = first and id_score(first[1]) or IDS_END
  local passed = {}
  if redis.call('ZRANGEBYSCORE', waiting, digits(BY_ID), up_to, 'LIMIT', 0, 1)[1] then
    for _, id in ipairs(redis.call('ZRANGEBYSCORE', waiting, digits(BY_ID), up_to)) do
      if not first or above(first[1], id) then
        passed[id] = true
        lose(id, false)
        table.insert(out, id)
      end
    end
  end
  if lost then
    for _, member in ipairs(redis.call('ZRANGEBYSCORE', waiting, '0', '+inf')) do
      if passed[string.match(member, '^%S+')] then
        table.insert(out, member)
      end
    end
  end

  local tried = 0
  local function find(from, to)
    local wanted = most - tried
    if wanted <= 0 then
      return
    end
    -- Those that a trim has passed are in between, and are no longer there for the next call.
    for _, member in ipairs(redis.call('ZRANGEBYSCORE', waiting, from, to, 'LIMIT', 0, digits(wanted + gone))) do
      local id, failed, crashes = string.match(member, '^(%S+) (%d+) (%d+)')
      if tried < most and not passed[id] then
        tried = tried + 1
        table.insert(out, id)
        table.insert(out, member)
        local entry = entry_at(stream, id)
        if entry then
          table.insert(again, {entry, failed, crashes})
        else
          lose(id, true)
        end
      end
    end
  end
  if held[6] and held[6] ~= '' then
    slots = slots_of(held[6])
    local takes = {}
    for i = 15, #ARGV, 2 do
      takes[ARGV[i]] = tonumber(ARGV[i + 1])
    end
    for event in string.gmatch(held[6], '([^ =]+)=') do
      local name, version = string.match(event, '^(.+)@(%d+)$')
      if name and takes[name] and takes[name] >= tonumber(version) then
        local score = digits(BY_NEED + slots[event])
        find(score, score)
      end
    end
  end
  find('0', digits(clock))
  -- Where the clock has gone back.
  find('(' .. digits(clock + longest_wait), DUES_END)
end

local loss = {}
if lost then
  loss = {lost.deleted and '1' or '0', id_before(lost.from), lost.to, digits(lost.count)}
end
local halts = lost and not goes_on
if halts then
  -- Only what is gone leaves the waiting set.
  local stay, kept = {}, {}
  for _, taken in ipairs(again) do
    stay[taken[1][1]] = true
  end
  for _, member in ipairs(out) do
    if not stay[string.match(member, '^%S+')] then
      table.insert(kept, member)
    end
  end
  out, again = kept, {}
end
local left = waits - #out / 2

-- Which entries are new.
local new, number, from = {}, 0, at
local room = most - #again
if not halts and room > 0 and left < tonumber(ARGV[6]) then
  if kind == 'read' then
    local entries = redis.pcall('XRANGE', stream, at, '+', 'COUNT', digits(room + 1))
    if entries.err then
      return fail(entries, {'XRANGE', stream, '-', '+'}, 'stream')
    end
    local there = entries[1] and entries[1][1] == at and table.remove(entries, 1)
    entries[room + 1] = nil
    local sure = there and (at_event == '' or event_id(there) == at_event)
    if not sure and entries[1] then
      sure = ARGV[11] == at and ARGV[12] == entries[1][1]
      if not sure and at == '0-0' and seen == '0' then
        local info = by_name(redis.call('XINFO', 'STREAM', stream))
        sure = info['entries-added'] == info['length']
      end
      if not sure then
        return {'unsure', at, at_event, seen}
      end
    elseif not there and not entries[1] and at ~= '0-0' and redis.call('XLEN', stream) == 0 then
      return {'unsure', at, at_event, seen}
    end
    new, number = entries, #entries
    if number > 0 then
      at, at_event = new[number][1], string.match(event_id(new[number]), '^[!-~]+$') or ''
    end
  elseif kind == 'known' and ARGV[11] == at and ARGV[14] ~= '0' and tonumber(ARGV[14]) <= room then
    at, at_event, number = ARGV[12], ARGV[13], tonumber(ARGV[14])
  end
end

if #out > 0 then
  local needed = changes(waiting, state)
  table.insert(needed, {'ZCOUNT', waiting, '0', '0'})
  local wrong = may_not(needed)
  if wrong then
    return wrong
  end
end
local write = {}
local function set(field, value)
  table.insert(write, field)
  table.insert(write, value)
end
if #out > 0 then
  write_all('ZREM', waiting, out)
  waits = left
  set('waits', put_stamp(waiting, stamp, waits))
  if slots then
    -- An event for which nothing waits any more is not needed.
    for event, slot in pairs(slots_of(held[6])) do
      local score = digits(BY_NEED + slot)
      if waits == 0 or redis.call('ZCOUNT', waiting, score, score) == 0 then
        slots[event] = nil
      end
    end
    local needed = slots_text(slots)
    if needed ~= held[6] then
      set('needed', needed)
    end
  end
end
if halts then
  lives_on[4] = fetches
  set('lost', table.concat(loss, ' '))
  redis.call('HSET', state, consumer, table.concat(lives_on, ' '), unpack(write))
  return {'lost', 1, table.concat(loss, ' ')}
end
if number > 0 then
  if seen ~= '' then
    seen = digits(tonumber(seen) + number)
  end
  set('at', at)
  set('at_event', at_event)
  set('seen', seen)
end
local items = {}
for _, taken in ipairs(again) do
  -- One with crashes is charged just before it runs.
  table.insert(items, {id = taken[1][1], failed = taken[2], crashes = taken[3], charged = taken[3] == '0' and '1' or '0'})
end
local text = chunk_text({number = number, after = from, to = at, except = {}, items = items})
if text then
  set(chunk_field, text)
end
redis.call('HSET', state, consumer, table.concat(lives_on, ' '), unpack(write))
if number > 0 and ARGV[9] == '1' then
  mirror(stream, group, at, seen)
end
return answer(again, new, number, loss)
