-- The helpers of scripts; each begins with `local` at the margin, as a script takes only those that it uses. Lua on Redis is
-- atomic but does not roll back: a script checks everything, types too, before its first write.

-- The first of these keys that holds something else than it should.
local function wrong_type(expected)
  for _, pair in ipairs(expected) do
    local found = redis.call('TYPE', pair[1]).ok
    if found ~= 'none' and found ~= pair[2] then
      return {'wrong type', pair[1], found, pair[2]}
    end
  end
end

-- The first of these commands that the user may not run, each with its key behind its name. A script that writes with several asks
-- before the first: one that is refused further on would leave the others done.
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

-- Whether the number is larger; both in decimal digits without leading zeros, up to 2^64, where Lua's numbers end at 2^53.
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

-- The number in decimal digits, above 0, less one; exact where Lua's numbers are not.
local function decrement(digits)
  local nines = string.match(digits, '0*$')
  local head = string.sub(digits, 1, #digits - #nines)
  local less = string.sub(head, 1, -2) .. (tonumber(string.sub(head, -1)) - 1) .. string.rep('9', #nines)
  return string.match(less, '^0*(%d+)$')
end

-- The id right before an entry's, whether an entry has it or not.
local function id_before(id)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  if seq == '0' then
    return decrement(ms) .. '-18446744073709551615'
  end
  return ms .. '-' .. decrement(seq)
end

-- Whether it reads as an entry id.
local function is_id(text)
  return string.match(text, '^%d+-%d+$') ~= nil
end

-- What a state counts of events under this name, as pairs of id and count.
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

-- Whether the stream has a group of this name. It is asked for by its name, as the list of all grows with them: ordered groups
-- have no consumers, and those of others are few.
local function has_group(stream, name)
  if redis.call('EXISTS', stream) == 0 then
    return false
  end
  local found = redis.pcall('XINFO', 'CONSUMERS', stream, name)
  if found.err and string.find(found.err, 'NOGROUP', 1, true) then
    return false
  end
  if found.err then
    -- Not an answer to the question: the script fails with it.
    redis.call('XINFO', 'CONSUMERS', stream, name)
  end
  return true
end

-- Whether the lease in the state is this one. The empty owner is nobody, also for somebody who claims to be it.
local function is_held(found_owner, found_epoch, owner, epoch)
  return owner ~= '' and found_owner == owner and found_epoch == epoch
end

-- A number without exponent.
local function digits(number)
  return string.format('%.0f', number)
end

-- A consumer of a work queue that lives, as its state says: epoch, beat and lease; then its last calls, behind a space.
local function lives(field)
  return string.match(field or '', '^(%d+) (%d+) (%d+)([ %d]*)$')
end

-- Whether this joining of a work queue is one of its consumers that live; counts a beat of it.
local function beats(state, owner, epoch)
  local field = 'consumer:' .. owner
  local found, beat, lease, calls = lives(redis.call('HGET', state, field))
  if found ~= epoch then
    return false
  end
  redis.call('HSET', state, field, table.concat({found, digits(tonumber(beat) + 1), lease}, ' ') .. calls)
  return true
end

-- Whether owner and epoch hold the lease of the group or, where it has consumers, are one of it that lives.
local function holds(state, owner, epoch)
  local held = redis.call('HMGET', state, 'owner', 'epoch', 'consumer:' .. owner)
  return is_held(held[1], held[2], owner, epoch) or lives(held[3]) == epoch
end

local function entry_at(stream, id)
  return redis.call('XRANGE', stream, id, id)[1]
end

-- The event id of an entry, empty where it has none that is valid; of several fields the first counts.
local function event_id(entry)
  local fields = entry[2]
  for i = 1, #fields, 2 do
    if fields[i] == 'id' then
      return #fields[i + 1] <= 128 and fields[i + 1] or ''
    end
  end
  return ''
end

-- About how many bytes the entry holds in a process, as `Entry::weight` says.
local function weight(entry)
  local fields, bytes = entry[2], 64
  for i = 1, #fields do
    bytes = bytes + #fields[i] + 40
  end
  return bytes
end

-- What is left of an entry that no process could hold, as `broker::cut` says, and its weight; another one is unchanged.
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

-- What tells an entry from another one of the same id, as `broker::in_short` says.
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

-- The entries from an id on, at most so many: the one at it in short, and above it no more than so many bytes, but for the
-- first, whatever it weighs. Answers too whether these are all. To hold a large entry here is dear, so what the caller has,
-- the stream's first and last entry, is not read again.
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
    -- Nothing is above it, and the server takes no interval above the highest id.
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
    -- Of what may be large few are looked at together: the server holds all of them in memory here.
    step = math.max(math.min(step * 4, 16, math.floor((bytes - sum) * read / sum)), 1)
  end
  return found, false
end

-- Takes away what an earlier group of the name may have left, whose state was deleted by hand: of a work queue the
-- keys from the third on.
local function forget_what_waits()
  for i = 3, #KEYS do
    redis.call('DEL', KEYS[i])
  end
end

-- The answer where builds have declared some of these names, by the `events` of the state; nothing where none is.
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

-- The answer where so many more dead letters are too many, or the oldest one is too old; nothing where there is room.
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

-- Writes so many dead letters, which stand among the arguments from here on. Answers where the arguments behind them begin.
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

-- What the state says of the first of the replays: failed attempts, crashes, and the epoch that it is charged to.
local function replaying(field, id)
  local found, attempts, crashes, charged = string.match(field or '', '^(%S+) (%d+) (%d+) (%d+)$')
  if found ~= id then
    return 0, 0, '0'
  end
  return tonumber(attempts), tonumber(crashes), charged
end

-- Shows a checkpoint in the server's own group, for operators' tools; answers false when the group or its stream is gone.
local function mirror(stream, group, at, seen)
  local command = {'XGROUP', 'SETID', stream, group, at}
  if seen ~= '' then
    table.insert(command, 'ENTRIESREAD')
    table.insert(command, seen)
  end
  local set = redis.pcall(unpack(command))
  if set.err then
    -- A key of another type is for those who read it to tell: it may be put right again.
    return not (string.find(set.err, 'NOGROUP', 1, true) or redis.call('TYPE', stream).ok == 'none')
  end
  return true
end

-- The event id of the entry there, where it can be told apart; one with other characters than the usual ones is left out, as
-- not every text is one to all readers.
local function event_at(stream, id)
  local there = entry_at(stream, id)
  return there and string.match(event_id(there), '^[!-~]+$') or ''
end

-- The checkpoint of a group that begins there, its ordinal: how many entries were added up to it, where that is known, and the
-- event id of the entry there.
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
  -- Between the two ends nobody knows.
  if at == last then
    return at, digits(added), at_event
  elseif at == '0-0' then
    return at, digits(added - length), at_event
  end
  return at, '', at_event
end

-- Makes a group's marker in the stream, and the stream where there is none.
local function mark(stream, group, at, seen)
  local command = {'XGROUP', 'CREATE', stream, group, at, 'MKSTREAM'}
  if seen ~= '' then
    table.insert(command, 'ENTRIESREAD')
    table.insert(command, seen)
  end
  redis.call(unpack(command))
end

-- Why a group cannot be begun anew by hand, which nobody must have begun anew since its epoch was seen (empty: it had no
-- state); where it can, nil, the fields of its state, and whether its marker is there.
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

-- Makes the state of a group that is begun anew. Attempts, too, begin anew; what builds have declared is still true, and
-- letters that wait to be handled again still do.
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

