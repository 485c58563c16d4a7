-- Looks at a shared group: who its consumers are, what they have in hand, and what waits.
-- KEYS: stream, state, waiting, needs. ARGV: group, most names of needed events.
local stream, state, waiting, needs = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local group = ARGV[1]

local wrong = wrong_type({{stream, 'stream'}, {state, 'hash'}, {waiting, 'zset'}, {needs, 'zset'}})
if wrong then
  return wrong
end
local held = by_name(redis.call('HGETALL', state))
if not held.at or not has_group(stream, group) then
  return {'missing'}
end
if held.mode ~= 'shared' then
  return {'mode', held.mode or ''}
end
local clock = now()

local seen_in_redis = {}
local consumers = {}
for _, flat in ipairs(redis.call('XINFO', 'CONSUMERS', stream, group)) do
  local consumer = by_name(flat)
  seen_in_redis[consumer.name] = consumer.pending
  if consumer.name ~= NOBODY and not held['consumer:' .. consumer.name] then
    table.insert(consumers, {consumer.name, consumer.pending, 'foreign', digits(consumer.idle)})
  end
end
for field, says in pairs(held) do
  local owner = string.match(field, '^consumer:(.*)$')
  if owner then
    table.insert(consumers, {owner, seen_in_redis[owner] or 0, 'ours', says})
  end
end

local needed, after = {}, '-'
for _ = 1, tonumber(ARGV[2]) do
  local member = redis.call('ZRANGEBYLEX', needs, after, '+', 'LIMIT', 0, 1)[1]
  if not member then
    break
  end
  local name, version = string.match(member, '^(.+)@(%d+) ')
  table.insert(needed, name .. '@' .. digits(tonumber(version)))
  -- Behind every version of this name.
  after = '(' .. name .. '@~'
end
local pending = redis.call('XPENDING', stream, group)
local first_due = redis.call('ZRANGE', waiting, 0, 0, 'WITHSCORES')[2]
local due = first_due and digits(math.max(tonumber(first_due) - clock, 0)) or ''
return {
  'crew', held.at, held.seen or '', held.resume or '0', held.reset or '0', pending[1], pending[2] or '',
  redis.call('ZCARD', waiting) + redis.call('ZCARD', needs), due, table.concat(needed, ' '), consumers,
}
