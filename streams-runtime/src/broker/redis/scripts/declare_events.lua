-- Updates the events that a group's builds have declared, and the need of its owner.
-- KEYS: stream, state.
-- ARGV: group, names to declare with their versions (A@1 B@2), names to remove (C D), the need that is met.
local state = KEYS[2]

local wrong = wrong_type({{state, 'hash'}})
if wrong then
  return wrong
end
local held = redis.call('HMGET', state, 'epoch', 'events', 'needs')
if not held[1] then
  return {'missing'}
end
local before = held[2] or ''
local versions, names = {}, {}
for name, version in string.gmatch(before .. ' ' .. ARGV[2], '([^ @]+)@(%d+)') do
  if not versions[name] or tonumber(version) > tonumber(versions[name]) then
    versions[name] = version
  end
end
for name in string.gmatch(ARGV[3], '[^ ]+') do
  versions[name] = nil
end
for name in pairs(versions) do
  table.insert(names, name)
end
-- Sorted, so that the same names are the same text.
table.sort(names)
for i, name in ipairs(names) do
  names[i] = name .. '@' .. versions[name]
end
local events = table.concat(names, ' ')

local is_new, is_met = events ~= before, ARGV[4] ~= '' and held[3] == ARGV[4]
wrong = is_new and is_met and may_not({{'HSET', state, 'events', events}, {'HDEL', state, 'needs'}})
if wrong then
  return wrong
end
if is_new then
  redis.call('HSET', state, 'events', events)
end
if is_met then
  redis.call('HDEL', state, 'needs')
end
return {'declared', events}
