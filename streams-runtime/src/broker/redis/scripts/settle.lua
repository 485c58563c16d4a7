-- Ends the business of entries with a shared group, or gives them back. Sent twice it finds none of them in hand.
-- KEYS: stream, state, waiting, needs, failed, dead letters, bell.
-- ARGV: group, token, epoch, most dead letters, their greatest age in ms, rings that the bell keeps, lowest and highest id,
--       (id, what, number of arguments, arguments)*: done; passed with a name; again with failed attempts and a wait in ms;
--       charged or back with crashes; needs with crashes, name and version; dead with fields and values.
local stream, state, waiting, needs, failed, dead, bell = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local group, owner, epoch = ARGV[1], ARGV[2], ARGV[3]

local wrong = wrong_type({
  {stream, 'stream'}, {state, 'hash'}, {waiting, 'zset'}, {needs, 'zset'}, {failed, 'hash'}, {dead, 'stream'},
  {bell, 'stream'},
})
if wrong then
  return wrong
end
local mine = redis.pcall('XPENDING', stream, group, '-', '+', 1, owner)
if mine.err then
  if string.find(mine.err, 'NOGROUP', 1, true) then
    return {'fenced'}
  end
  return mine
end
if lives(redis.call('HGET', state, 'consumer:' .. owner)) ~= epoch then
  return {'fenced'}
end

local events = ' ' .. (redis.call('HGET', state, 'events') or '')
local clock, lost, declared, full, kept, free = now(), {}, {}, false, {}, false
local function room()
  local count = redis.call('XLEN', dead)
  local oldest = redis.call('XRANGE', dead, '-', '+', 'COUNT', 1)[1]
  local oldest_id = oldest and oldest[1] or ''
  local too_old = oldest and clock - tonumber(string.match(oldest_id, '^%d+')) > tonumber(ARGV[5])
  if too_old or count + 1 > tonumber(ARGV[4]) then
    full = {count, oldest_id}
    return false
  end
  return true
end
-- Gives an entry back, to be taken from `due` on, or by a build that handles it. One that is gone by now is a loss, which
-- the next call that takes finds: there it is due at once.
local function give_back(id, times, due, need)
  if not let_go(stream, group, id, times) then
    due, need = 0, nil
  end
  if need then
    redis.call('ZADD', needs, 0, need)
  else
    redis.call('ZADD', waiting, due, id)
  end
  free = free or need or due == 0
end
-- How often the server has handed out what had so many crashes and is not charged.
local function untried(id, crashes)
  return tonumber(redis.call('HGET', failed, id) or '0') + tonumber(crashes)
end
-- What of it is in hand, with how often it was handed out.
local holds_now, from = {}, ARGV[7]
repeat
  local page = redis.call('XPENDING', stream, group, from, ARGV[8], 1000, owner)
  for _, pending in ipairs(page) do
    holds_now[pending[1]] = pending[4]
    from = '(' .. pending[1]
  end
until #page < 1000
local ended = {}
local i = 9
while ARGV[i] do
  local id, what, number = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2])
  local a, b = ARGV[i + 3], ARGV[i + 4]
  local times = holds_now[id]
  local ends = false
  holds_now[id] = nil
  if not times then
    table.insert(lost, id)
  elseif what == 'done' then
    ends = true
  elseif what == 'passed' then
    if string.find(events, ' ' .. a .. '@', 1, true) then
      table.insert(declared, id)
    else
      ends = true
    end
  elseif what == 'again' then
    redis.call('HSET', failed, id, a)
    give_back(id, times, b == '0' and 0 or digits(clock + tonumber(b)))
  elseif what == 'charged' then
    redis.call('XCLAIM', stream, group, owner, 0, id, 'RETRYCOUNT', untried(id, a) + 1, 'JUSTID')
  elseif what == 'back' then
    give_back(id, untried(id, a), 0)
  elseif what == 'needs' then
    local version = string.format('%010d', tonumber(ARGV[i + 5]))
    give_back(id, untried(id, a), 0, b .. '@' .. version .. ' ' .. id)
  elseif what == 'dead' and room() then
    redis.call('XADD', dead, '*', unpack(ARGV, i + 3, i + 2 + number))
    ends = true
  elseif what == 'dead' then
    table.insert(kept, id)
  end
  if ends then
    table.insert(ended, id)
  end
  i = i + 3 + number
end
if #ended > 0 then
  redis.call('XACK', stream, group, unpack(ended))
  if redis.call('EXISTS', failed) == 1 then
    redis.call('HDEL', failed, unpack(ended))
  end
end
if free then
  ring(bell, group, ARGV[6])
end
return {'settled', lost, declared, full, kept}
