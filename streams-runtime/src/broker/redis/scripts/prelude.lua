-- The helpers of scripts. Each begins with `local` at the margin, so that a script takes only those that it uses. Lua
-- on Redis is atomic but does not roll back: a script checks everything, types too, before its first write.

-- The first of these keys that holds another type than it should.
local function wrong_type(expected)
  for _, pair in ipairs(expected) do
    local found = redis.call('TYPE', pair[1]).ok
    if found ~= 'none' and found ~= pair[2] then
      return {'wrong type', pair[1], found, pair[2]}
    end
  end
end

-- The first of these commands that the user may not run, each with its key behind its name. A script with several
-- writes asks before the first, because a later refusal would leave the earlier writes done.
local function may_not(commands)
  for _, command in ipairs(commands) do
    if not redis.acl_check_cmd(unpack(command)) then
      if command[1] == 'XGROUP' or command[1] == 'XINFO' then
        return {'may not', command[1] .. ' ' .. command[2], command[3]}
      end
      return {'may not', command[1], command[2] or KEYS[1]}
    end
  end
end

-- A reply of names and values, as a table.
local function by_name(flat)
  local named = {}
  for i = 1, #flat, 2 do
    named[flat[i]] = flat[i + 1]
  end
  return named
end

-- Whether the first number is larger. Both are decimal digits without leading zeros, up to 2^64, above Lua's exact
-- 2^53.
local function larger(a, b)
  if #a ~= #b then
    return #a > #b
  end
  return a > b
end

-- Whether the entry id is above the other.
local function above(a, b)
  local a_ms, a_seq = string.match(a, '^(%d+)-(%d+)$')
  local b_ms, b_seq = string.match(b, '^(%d+)-(%d+)$')
  if a_ms ~= b_ms then
    return larger(a_ms, b_ms)
  end
  return larger(a_seq, b_seq)
end

-- One less than a number above 0, in decimal digits; exact where Lua's numbers are not.
local function decrement(digits)
  local nines = string.match(digits, '0*$')
  local head = string.sub(digits, 1, #digits - #nines)
  local less = string.sub(head, 1, -2) .. (tonumber(string.sub(head, -1)) - 1) .. string.rep('9', #nines)
  return string.match(less, '^0*(%d+)$')
end

-- The id right before an entry's, whether an entry has that id or not.
local function id_before(id)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  if seq == '0' then
    return decrement(ms) .. '-18446744073709551615'
  end
  return ms .. '-' .. decrement(seq)
end

-- Whether the text has the form of an entry id.
local function is_id(text)
  return string.match(text, '^%d+-%d+$') ~= nil
end

-- The counts of events under this name in a state, as pairs of id and count.
local function counts(held, name)
  local found = {}
  for field, count in pairs(held) do
    local id = string.match(field, '^' .. name .. ':(.+)$')
    if id then
      table.insert(found, {id, count})
    end
  end
  return found
end

-- Whether the stream has a group of this name. It asks for the one group, because the list of all grows with their
-- number. Ordered groups have no consumers, and other groups have few.
local function has_group(stream, name)
  if redis.call('EXISTS', stream) == 0 then
    return false
  end
  local found = redis.pcall('XINFO', 'CONSUMERS', stream, name)
  if found.err and string.find(found.err, 'NOGROUP', 1, true) then
    return false
  end
  if found.err then
    -- Another error is no answer to the question: the script fails with it.
    redis.call('XINFO', 'CONSUMERS', stream, name)
  end
  return true
end

-- Whether the lease in the state is this one. The empty owner never holds a lease.
local function is_held(found_owner, found_epoch, owner, epoch)
  return owner ~= '' and found_owner == owner and found_epoch == epoch
end

-- A number without exponent.
local function digits(number)
  return string.format('%.0f', number)
end

-- Epoch, beat and lease of a living consumer, from its field; then its last calls, behind a space.
local function lives(field)
  return string.match(field or '', '^(%d+) (%d+) (%d+)([ %d]*)$')
end

-- Whether this session is a living consumer of the work queue; adds one to its beat.
local function beats(state, owner, epoch)
  local field = 'consumer:' .. owner
  local found, beat, lease, calls = lives(redis.call('HGET', state, field))
  if found ~= epoch then
    return false
  end
  redis.call('HSET', state, field, table.concat({found, digits(tonumber(beat) + 1), lease}, ' ') .. calls)
  return true
end

-- Whether owner and epoch hold the group's lease, or are a living consumer of it.
local function holds(state, owner, epoch)
  local held = redis.call('HMGET', state, 'owner', 'epoch', 'consumer:' .. owner)
  return is_held(held[1], held[2], owner, epoch) or lives(held[3]) == epoch
end

local function entry_at(stream, id)
  return redis.call('XRANGE', stream, id, id)[1]
end

-- The event id of an entry, empty without a valid one; of several fields the first counts.
local function event_id(entry)
  local fields = entry[2]
  for i = 1, #fields, 2 do
    if fields[i] == 'id' then
      return #fields[i + 1] <= 128 and fields[i + 1] or ''
    end
  end
  return ''
end

-- About how many bytes the entry takes in a process, as `Entry::weight` counts them.
local function weight(entry)
  local fields, bytes = entry[2], 64
  for i = 1, #fields do
    bytes = bytes + #fields[i] + 40
  end
  return bytes
end

-- The rest of an entry that is too large for any process, as `broker::cut` does, and its weight; others are unchanged.
local function cut(entry)
  local bytes = weight(entry)
  if bytes <= 17825792 then
    return entry, bytes
  end
  local fields, kept, id = entry[2], {'_cut', digits(bytes)}, event_id(entry)
  if id ~= '' then
    table.insert(kept, 'id')
    table.insert(kept, id)
  end
  for i = 1, math.min(#fields, 32), 2 do
    if fields[i] ~= 'id' then
      table.insert(kept, string.sub(fields[i], 1, 1024))
      table.insert(kept, string.sub(fields[i + 1], 1, 1024))
    end
  end
  entry = {entry[1], kept}
  return entry, weight(entry)
end

-- A few bytes that distinguish an entry from another one of the same id, as `broker::in_short` does.
local function in_short(entry)
  local id = event_id(entry)
  if id ~= '' then
    return {entry[1], {'id', id}}
  end
  local fields, kept = entry[2], {}
  for i = 1, math.min(#fields, 32) do
    local text = fields[i]
    if #text > 160 then
      text = string.sub(text, 1, 64) .. #text .. string.sub(text, -64)
    end
    table.insert(kept, text)
  end
  return {entry[1], kept}
end

-- At most `count` entries from an id on, and whether these are all. The one at the id is in short. Those above it have
-- no more than `bytes` together, except for the first. A large entry is costly to hold here, so the stream's first and
-- last entry, which the caller has, are not read again.
local function page(stream, from, count, bytes, first, last)
  local found, after, sum, read, step = {}, from, 0, 0, 1
  if count == 0 then
    return found, false
  end
  local begins_above = first and above(first[1], from)
  local here = (first and first[1] == from and first) or (last and last[1] == from and last)
  if not here and not begins_above then
    here = entry_at(stream, from)
  end
  if here then
    table.insert(found, in_short((cut(here))))
  end
  if from == '18446744073709551615-18446744073709551615' or (last and not above(last[1], from)) then
    -- No entry is above it, and the server takes no interval above the highest id.
    return found, #found < count
  end
  while #found < count do
    local asked = math.min(step, count - #found)
    local entries = {first}
    if read > 0 or not begins_above then
      entries = redis.call('XRANGE', stream, '(' .. after, '+', 'COUNT', asked)
    end
    for _, entry in ipairs(entries) do
      local whole, bytes_of = cut(entry)
      entry, sum, read, after = whole, sum + bytes_of, read + 1, whole[1]
      if read > 1 and sum > bytes then
        return found, false
      end
      table.insert(found, entry)
    end
    if #entries < asked or (last and after == last[1]) then
      return found, #found < count
    elseif sum >= bytes then
      return found, false
    end
    -- Entries may be large, and the server holds all of one read in memory, so it reads few at once.
    step = math.max(math.min(step * 4, 16, math.floor((bytes - sum) * read / sum)), 1)
  end
  return found, false
end

-- Deletes what an earlier group of this name left whose state was deleted by hand: for a work queue the keys from the
-- third on.
local function forget_what_waits()
  for i = 3, #KEYS do
    redis.call('DEL', KEYS[i])
  end
end

-- The answer if builds have declared some of these names, by the `events` of the state; else nothing.
local function declared_of(events, names)
  local declared = {}
  for name in string.gmatch(names, '[^ ]+') do
    if string.find(' ' .. (events or ''), ' ' .. name .. '@', 1, true) then
      table.insert(declared, name)
    end
  end
  return #declared > 0 and {'declared', table.concat(declared, ' ')} or nil
end

-- The server's clock in milliseconds.
local function now()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- The answer if this many more dead letters are too many, or the oldest is too old; nothing if there is room.
local function no_room(dead, letters, most, age)
  local wrong = wrong_type({{dead, 'stream'}})
  if wrong then
    return wrong
  end
  local count = redis.call('XLEN', dead)
  local oldest = redis.call('XRANGE', dead, '-', '+', 'COUNT', 1)[1]
  local too_old = oldest and now() - string.match(oldest[1], '^%d+') > age
  return (too_old or count + letters > most) and {'full', count, oldest and oldest[1] or ''} or nil
end

-- Writes this many dead letters from the arguments at `i`. Answers where the arguments behind them begin.
local function write_letters(dead, i, letters)
  for _ = 1, letters do
    local n = tonumber(ARGV[i])
    redis.call('XADD', dead, '*', unpack(ARGV, i + 1, i + n))
    i = i + 1 + n
  end
  return i
end

local function ring(bell, group, most)
  redis.call('XADD', bell, 'MAXLEN', most, '*', 'group', group)
end

-- Failed attempts, crashes and charged epoch of the first of the replays, from the field in the state.
local function replaying(field, id)
  local found, attempts, crashes, charged = string.match(field or '', '^(%S+) (%d+) (%d+) (%d+)$')
  if found ~= id then
    return 0, 0, '0'
  end
  return tonumber(attempts), tonumber(crashes), charged
end

-- Shows a checkpoint in the server's own group, for operators' tools. Answers false if the group or its stream is gone.
local function mirror(stream, group, at, seen)
  local command = {'XGROUP', 'SETID', stream, group, at}
  if seen ~= '' then
    table.insert(command, 'ENTRIESREAD')
    table.insert(command, seen)
  end
  local set = redis.pcall(unpack(command))
  if set.err then
    -- The readers of a key of another type report it: an operator may restore the key.
    return not (string.find(set.err, 'NOGROUP', 1, true) or redis.call('TYPE', stream).ok == 'none')
  end
  return true
end

-- The event id of the entry there. One with unusual characters is left out, because not every reader takes it for text.
local function event_at(stream, id)
  local there = entry_at(stream, id)
  return there and string.match(event_id(there), '^[!-~]+$') or ''
end

-- The checkpoint of a group that begins there, its ordinal where it is known, and the event id of the entry there. The
-- ordinal is how many entries were added up to the checkpoint.
local function begin(stream, start, from)
  local last, added, length = '0-0', 0, 0
  if redis.call('EXISTS', stream) == 1 then
    local info = by_name(redis.call('XINFO', 'STREAM', stream))
    last, added, length = info['last-generated-id'], info['entries-added'], info['length']
  end

  local at = '0-0'
  if start == 'latest' then
    at = last
  elseif start ~= 'earliest' then
    if start == 'ago' then
      from = digits(math.max(now() - tonumber(from), 0)) .. '-0'
    end
    if from ~= '0-0' then
      local before = redis.call('XREVRANGE', stream, '(' .. from, '-', 'COUNT', 1)
      if before[1] then
        at = before[1][1]
      end
    end
  end

  local at_event = event_at(stream, at)
  -- Between the two ends nobody knows the ordinal.
  if at == last then
    return at, digits(added), at_event
  elseif at == '0-0' then
    return at, digits(added - length), at_event
  end
  return at, '', at_event
end

-- Creates a group's marker in the stream, and the stream if there is none.
local function mark(stream, group, at, seen)
  local command = {'XGROUP', 'CREATE', stream, group, at, 'MKSTREAM'}
  if seen ~= '' then
    table.insert(command, 'ENTRIESREAD')
    table.insert(command, seen)
  end
  redis.call(unpack(command))
end

-- The reason why a group cannot begin anew by hand, such as a change of its epoch since it was seen (empty: no state).
-- If it can: nil, the fields of its state, and whether its marker is there.
local function cannot_begin_anew(stream, state, group, mode, seen_epoch)
  local fields = redis.call('HGETALL', state)
  local held = by_name(fields)
  if #fields > 0 and held.mode ~= mode then
    return {'mode', held.mode or ''}
  end
  if (held.epoch or '') ~= seen_epoch then
    return {'contended'}
  end
  local marked = has_group(stream, group)
  if #fields == 0 and marked then
    return {'foreign'}
  end
  return nil, held, marked
end

-- Writes the state of a group that begins anew. Attempts begin anew, too; declared events and waiting replays stay.
local function begin_anew(state, mode, held, at, seen, at_event)
  local epoch = digits(math.max((tonumber(held.epoch) or 0) + 1, now()))
  redis.call('DEL', state)
  redis.call('HSET', state, 'mode', mode, 'owner', '', 'epoch', epoch, 'beat', '0', 'lease', '0',
    'at', at, 'at_event', at_event or '', 'seen', seen, 'reset', epoch)
  for _, field in ipairs({'events', 'replays'}) do
    if held[field] then
      redis.call('HSET', state, field, held[field])
    end
  end
end

