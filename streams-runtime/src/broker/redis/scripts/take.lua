-- Hands out entries of a shared group: first those that nobody has in hand any more, then new ones.
-- KEYS: stream, state, waiting, needs, failed.
-- ARGV: group, token, epoch, count, most that may wait, longest wait in ms, whether to go on over a loss (1 or 0), whether an
--       answer was lost (1 or 0), number of events that the caller handles, (name, newest version)*, ids that it has in hand.
local stream, state, waiting, needs, failed = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local group, owner, epoch, count = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local most_waiting, longest_wait, goes_on = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7] == '1'
local names_end = 9 + 2 * tonumber(ARGV[9])

local wrong = wrong_type({
  {stream, 'stream'}, {state, 'hash'}, {waiting, 'zset'}, {needs, 'zset'}, {failed, 'hash'},
})
if wrong then
  return wrong
end
local held = redis.call('HMGET', state, 'at', 'at_event', 'seen', 'lost', 'consumer:' .. owner)
local at, at_event, seen = held[1], held[2] or '', held[3] or ''
if not at then
  return {'missing'}
end
if lives(held[5]) ~= epoch then
  return {'fenced'}
end
if not is_id(at) or not (seen == '' or tonumber(seen)) then
  return {'damaged', state}
end
local mine = redis.pcall('XPENDING', stream, group, '-', '+', 1, owner)
if mine.err then
  if string.find(mine.err, 'NOGROUP', 1, true) then
    return {'vanished', at}
  end
  return mine
end
local clock = now()

-- Whether history is still the one of which entries were handed out. While the entry at the cursor is there no trim has passed it.
local around = redis.call('XRANGE', stream, at, '+', 'COUNT', 2)
local there = around[1] and around[1][1] == at
local next_id = around[there and 2 or 1] and around[there and 2 or 1][1]
if there and at_event ~= '' and event_id(around[1]) ~= at_event then
  return {'changed', at}
end
local info
local function stream_info()
  info = info or by_name(redis.call('XINFO', 'STREAM', stream))
  return info
end
local function first_id()
  local first = stream_info()['first-entry']
  return first and first[1]
end
local passed
if not there then
  local last, added, first = stream_info()['last-generated-id'], stream_info()['entries-added'], first_id()
  local removed, nothing_left = added - stream_info().length, not first or above(first, at)
  if above(at, last) then
    return {'ahead', at, last}
  end
  if seen ~= '' and (added < tonumber(seen) or (nothing_left and removed < tonumber(seen))) then
    return {'changed', at}
  end
  if nothing_left then
    local delivered
    for _, flat in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
      if flat[2] == group then
        delivered = by_name(flat)
      end
    end
    if above(delivered['last-delivered-id'], at) then
      -- Others have read on with XREADGROUP.
      at, at_event, seen = delivered['last-delivered-id'], '', ''
      nothing_left = not first or above(first, at)
    end
    if seen == '' and delivered['entries-read'] then
      -- The server may have counted what we have not. It does not count what was trimmed, so it counts too few at most.
      seen = digits(delivered['entries-read'])
    end
  end
  if at == last then
    seen = digits(added)
  end
  if nothing_left then
    if seen ~= '' then
      passed = removed > tonumber(seen) and removed - tonumber(seen)
    else
      passed = at ~= '0-0' and above(first and id_before(first) or last, at) and 0
    end
  end
end

-- From here on things change; nothing more can go wrong.
beats(state, owner, epoch)
if ARGV[8] == '1' then
  local keeps = {}
  for i = names_end + 1, #ARGV do
    keeps[ARGV[i]] = true
  end
  local from = '-'
  repeat
    local page = redis.call('XPENDING', stream, group, from, '+', 500, owner)
    for _, pending in ipairs(page) do
      if not keeps[pending[1]] then
        -- One of two crashes or more was not charged, one without any was; of one the first crash is forgotten with that.
        local attempts = tonumber(redis.call('HGET', failed, pending[1]) or '0')
        let_go(stream, group, pending[1], pending[4] - attempts > 1 and pending[4] or attempts)
        redis.call('ZADD', waiting, 0, pending[1])
      end
      from = '(' .. pending[1]
    end
  until #page < 500
end
if held[4] and not goes_on then
  return {'lost', 0, held[4]}
end

local lost
local function lose(deleted, from, to, number)
  lost = lost or {deleted = deleted, from = from, to = to, count = 0}
  lost.deleted = lost.deleted and deleted
  if above(lost.from, from) then
    lost.from = from
  end
  if above(to, lost.to) then
    lost.to = to
  end
  lost.count = lost.count + number
end
-- What was lost, or acknowledged or claimed by hand, waits no longer.
local function drop(key, member, id)
  redis.call('ZREM', key, member)
  redis.call('HDEL', failed, id)
end
local function lose_one(key, member, id)
  drop(key, member, id)
  redis.call('XACK', stream, group, id)
  local first = first_id()
  lose(first and not above(first, id) or false, id_before(id), id, 1)
end
local function id_of(member)
  return string.match(member, '%S+$')
end
local function is_trimmed(id)
  return not entry_at(stream, id) and (not first_id() or above(first_id(), id))
end

-- A trim takes the lowest. So as long as the oldest of what waits is there it has passed none of them: the server's list has it,
-- or, where it was gone when it was given back, it is among those that are due since ever. Else all that it has passed are told
-- at once, whenever they were due.
local oldest = redis.call('XPENDING', stream, group, '-', '+', 1, NOBODY)[1]
local since_ever = redis.call('ZRANGEBYSCORE', waiting, 0, 0, 'LIMIT', 0, 1)[1]
if (oldest and is_trimmed(oldest[1])) or (since_ever and is_trimmed(since_ever)) then
  for _, key in ipairs({needs, waiting}) do
    for _, member in ipairs(redis.call('ZRANGE', key, 0, -1)) do
      local id = id_of(member)
      if not first_id() or above(first_id(), id) then
        local theirs = redis.call('XPENDING', stream, group, id, id, 1)[1]
        if theirs and theirs[2] ~= NOBODY then
          drop(key, member, id)
        else
          lose_one(key, member, id)
        end
      end
    end
  end
end
if passed then
  local to = first_id() and id_before(first_id()) or stream_info()['last-generated-id']
  -- Some of it may have been deleted behind the first entry, and nobody can tell.
  local deleted = stream_info()['max-deleted-entry-id']
  lose(false, at, above(deleted, to) and deleted or to, passed)
  at, at_event, seen = to, '', digits(stream_info()['entries-added'] - stream_info().length)
end

-- What may be handed out again.
local candidates = {}
local function find(key, command, from, to)
  if #candidates < count then
    for _, member in ipairs(redis.call(command, key, from, to, 'LIMIT', 0, count - #candidates)) do
      table.insert(candidates, {key = key, member = member, id = id_of(member)})
    end
  end
end
if redis.call('EXISTS', needs) == 1 then
  for i = 10, names_end, 2 do
    local newest = string.format('%010d', math.min(tonumber(ARGV[i + 1]), 4294967295))
    find(needs, 'ZRANGEBYLEX', '[' .. ARGV[i] .. '@', '(' .. ARGV[i] .. '@' .. newest .. '!')
  end
end
find(waiting, 'ZRANGEBYSCORE', '-inf', digits(clock))
-- Where the clock has gone back.
find(waiting, 'ZRANGEBYSCORE', '(' .. digits(clock + longest_wait), '+inf')
local again = {}
for _, candidate in ipairs(candidates) do
  local id = candidate.id
  local pending = redis.call('XPENDING', stream, group, id, id, 1)[1]
  candidate.entry = entry_at(stream, id)
  if pending and pending[2] ~= NOBODY then
    -- Somebody has claimed it by hand, and has it in hand.
    drop(candidate.key, candidate.member, id)
  elseif not candidate.entry then
    lose_one(candidate.key, candidate.member, id)
  elseif not pending then
    -- Somebody has acknowledged it by hand.
    drop(candidate.key, candidate.member, id)
  else
    candidate.attempts = tonumber(redis.call('HGET', failed, id) or '0')
    candidate.crashes = math.max(pending[4] - candidate.attempts, 0)
    table.insert(again, candidate)
  end
end

local loss = {}
if lost then
  loss = {lost.deleted and '1' or '0', lost.from, lost.to, digits(lost.count)}
  if not goes_on then
    redis.call('HSET', state, 'at', at, 'at_event', at_event, 'seen', seen, 'lost', table.concat(loss, ' '))
    return {'lost', 1, table.concat(loss, ' ')}
  end
end

local handed = {}
for _, candidate in ipairs(again) do
  redis.call('ZREM', candidate.key, candidate.member)
  -- Charged if it has no crash; otherwise that is done before it runs.
  local times = candidate.attempts + math.max(candidate.crashes, 1)
  -- The entry was read already, and may be large.
  redis.call('XCLAIM', stream, group, owner, 0, candidate.id, 'RETRYCOUNT', times, 'JUSTID')
  table.insert(handed, {candidate.entry, digits(candidate.attempts), digits(candidate.crashes)})
end
local waits = redis.call('ZCARD', waiting) + redis.call('ZCARD', needs)
local room = count - #handed
if room > 0 and waits < most_waiting then
  local read = next_id and redis.call('XREADGROUP', 'GROUP', group, owner, 'COUNT', room, 'STREAMS', stream, '>')
  local entries = read and read[1] and read[1][2] or {}
  for _, entry in ipairs(entries) do
    table.insert(handed, {entry, '0', '0'})
  end
  local newest = entries[#entries]
  if newest then
    -- Others may have read in between with XREADGROUP.
    local known = seen ~= '' and entries[1][1] == next_id
    at, at_event = newest[1], event_id(newest)
    seen = known and digits(tonumber(seen) + #entries) or ''
  end
  if #entries < room and (next_id or seen == '') then
    -- This is the end. All that was ever added was handed out, by us or others, or was deleted unread.
    seen = digits(stream_info()['entries-added'])
    if next_id and not newest then
      at, at_event = stream_info()['last-generated-id'], ''
    end
  end
end
redis.call('HSET', state, 'at', at, 'at_event', at_event, 'seen', seen)
local next_due = redis.call('ZRANGEBYSCORE', waiting, '(' .. digits(clock), '+inf', 'WITHSCORES', 'LIMIT', 0, 1)[2]
local due = next_due and digits(math.min(tonumber(next_due) - clock, longest_wait)) or ''
return {'entries', waits, due, loss, handed}
