-- Hands out entries of a shared group: first those that nobody has in hand any more, then new ones.
-- KEYS: stream, state, waiting, needs, failed.
-- ARGV: group, token, epoch, count, most that may wait, longest wait in ms, whether to go on over a loss (1 or 0), whether an
--       answer was lost (1 or 0), number of events that the caller handles, (name, newest version)*, ids that it has in hand.
local stream, state, waiting, needs, failed = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local group, owner, epoch, count = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local goes_on = ARGV[7] == '1'

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
local mine = redis.pcall('XPENDING', stream, group, '-', '+', 1, owner)
if mine.err then
  if string.find(mine.err, 'NOGROUP', 1, true) then
    return {'vanished', at}
  end
  return mine
end
local clock = now()
if ARGV[8] == '1' then
  local keeps = {}
  for i = 10 + 2 * tonumber(ARGV[9]), #ARGV do
    keeps[ARGV[i]] = true
  end
  local from = '-'
  repeat
    local page = redis.call('XPENDING', stream, group, from, '+', 500, owner)
    for _, pending in ipairs(page) do
      if not keeps[pending[1]] then
        let_go(stream, group, pending[1], math.max(pending[4] - 1, 0))
        redis.call('ZADD', waiting, 0, pending[1])
      end
      from = '(' .. pending[1]
    end
  until #page < 500
end
if held[4] and not goes_on then
  beats(state, owner, epoch)
  return {'lost', 0, held[4]}
end

-- What may be handed out again.
local candidates = {}
if redis.call('EXISTS', needs) == 1 then
  for i = 10, 9 + 2 * tonumber(ARGV[9]), 2 do
    local newest = string.format('%010d', math.min(tonumber(ARGV[i + 1]), 4294967295))
    local found = redis.call('ZRANGEBYLEX', needs, '[' .. ARGV[i] .. '@', '(' .. ARGV[i] .. '@' .. newest .. '!',
      'LIMIT', 0, count - #candidates)
    for _, member in ipairs(found) do
      table.insert(candidates, {id = string.match(member, ' (.+)$'), key = needs, member = member})
    end
  end
end
for _, range in ipairs({{'-inf', clock}, {'(' .. digits(clock + tonumber(ARGV[6])), '+inf'}}) do
  if #candidates < count then
    local found = redis.call('ZRANGEBYSCORE', waiting, range[1], range[2], 'LIMIT', 0, count - #candidates)
    for _, id in ipairs(found) do
      table.insert(candidates, {id = id, key = waiting, member = id})
    end
  end
end

-- What was lost: before anything is changed, so that the first entry of the stream is one of now.
local lost
local function lose(deleted, from, to, number)
  if not lost then
    lost = {deleted = deleted, from = from, to = to, count = 0}
  end
  lost.deleted = lost.deleted and deleted
  if above(lost.from, from) then
    lost.from = from
  end
  if above(to, lost.to) then
    lost.to = to
  end
  lost.count = lost.count + number
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
local taken, gone, by_hand = {}, {}, {}
-- A trim takes the lowest: as long as the oldest of what waits is there, none has passed it. Else all that it has passed are
-- told at once, whenever they were due.
local oldest = redis.call('XPENDING', stream, group, '-', '+', 1, NOBODY)[1]
if oldest and not entry_at(stream, oldest[1]) then
  local first, candidate_of = first_id(), {}
  for _, candidate in ipairs(candidates) do
    candidate_of[candidate.id] = candidate
  end
  local need_of = {}
  for _, member in ipairs(redis.call('ZRANGE', needs, 0, -1)) do
    need_of[string.match(member, ' (.+)$')] = member
  end
  local from = '-'
  repeat
    local page = redis.call('XPENDING', stream, group, from, '+', 500, NOBODY)
    for _, pending in ipairs(page) do
      local id = pending[1]
      if first and not above(first, id) then
        page = {}
        break
      end
      if not candidate_of[id] then
        local member = need_of[id]
        table.insert(candidates, {id = id, key = member and needs or waiting, member = member or id})
      end
      from = '(' .. id
    end
  until #page < 500
end
for _, candidate in ipairs(candidates) do
  if not entry_at(stream, candidate.id) then
    local first = first_id()
    lose(first and not above(first, candidate.id) or false, id_before(candidate.id), candidate.id, 1)
    table.insert(gone, candidate)
  elseif in_hand(stream, group, candidate.id, NOBODY) then
    table.insert(taken, candidate)
  else
    -- Somebody has acknowledged it by hand.
    table.insert(by_hand, candidate)
  end
end
local there = entry_at(stream, at)
if there then
  if at_event ~= '' and event_id(there) ~= at_event then
    return {'changed', at}
  end
else
  local last, added = stream_info()['last-generated-id'], stream_info()['entries-added']
  local removed, first = added - stream_info().length, first_id()
  if above(at, last) then
    return {'ahead', at, last}
  end
  if seen ~= '' and added < tonumber(seen) then
    return {'changed', at}
  end
  if seen == '' and at == last then
    seen = digits(added)
  end
  local passed
  if seen ~= '' then
    passed = removed > tonumber(seen) and removed - tonumber(seen)
  else
    passed = at ~= '0-0' and above(first and id_before(first) or last, at) and 0
  end
  if passed then
    local to = first and id_before(first) or last
    lose(false, at, to, passed)
    seen = seen ~= '' and digits(tonumber(seen) + passed) or ''
    at, at_event = to, ''
  end
end

beats(state, owner, epoch)
for _, list in ipairs({gone, by_hand}) do
  for _, candidate in ipairs(list) do
    redis.call('ZREM', candidate.key, candidate.member)
    redis.call('XACK', stream, group, candidate.id)
    redis.call('HDEL', failed, candidate.id)
  end
end
redis.call('HSET', state, 'at', at, 'at_event', at_event, 'seen', seen)
local loss = {}
if lost then
  loss = {lost.deleted and '1' or '0', lost.from, lost.to, digits(lost.count)}
  if not goes_on then
    redis.call('HSET', state, 'lost', table.concat(loss, ' '))
    return {'lost', 1, table.concat(loss, ' ')}
  end
end

local handed = {}
for _, candidate in ipairs(taken) do
  redis.call('ZREM', candidate.key, candidate.member)
  local entry = redis.call('XCLAIM', stream, group, owner, 0, candidate.id)[1]
  if entry then
    local attempts = redis.call('HGET', failed, candidate.id) or '0'
    table.insert(handed, {entry, in_hand(stream, group, candidate.id, owner) or 1, attempts})
  end
end
local waits = redis.call('ZCARD', waiting) + redis.call('ZCARD', needs)
if count > #handed and waits < tonumber(ARGV[5]) then
  local read = redis.call('XREADGROUP', 'GROUP', group, owner, 'COUNT', count - #handed, 'STREAMS', stream, '>')
  local entries = read and read[1] and read[1][2] or {}
  for _, entry in ipairs(entries) do
    table.insert(handed, {entry, 1, '0'})
  end
  local newest = entries[#entries]
  if newest then
    if seen ~= '' then
      seen = digits(tonumber(seen) + #entries)
    end
    redis.call('HSET', state, 'at', newest[1], 'at_event', event_id(newest), 'seen', seen)
    at = newest[1]
  end
  if seen == '' then
    -- At the end of the stream the ordinal is known again.
    local after = by_name(redis.call('XINFO', 'STREAM', stream))
    if after['last-generated-id'] == at then
      redis.call('HSET', state, 'seen', digits(after['entries-added']))
    end
  end
end
local next_due = redis.call('ZRANGEBYSCORE', waiting, '(' .. digits(clock), '+inf', 'WITHSCORES', 'LIMIT', 0, 1)[2]
local due = next_due and digits(math.min(tonumber(next_due) - clock, tonumber(ARGV[6]))) or ''
return {'entries', waits, due, loss, handed}
