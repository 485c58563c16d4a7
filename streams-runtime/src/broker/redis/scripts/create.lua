-- Creates a group's state and its marker in the stream.
-- KEYS: stream, state; for a work queue waiting, too.
-- ARGV: group, start (earliest, latest, at, ago), the start's id or milliseconds, mode.
local stream, state = KEYS[1], KEYS[2]
local group, start, from = ARGV[1], ARGV[2], ARGV[3]

local wrong = wrong_type({{stream, 'stream'}, {state, 'hash'}})
if wrong then
  return wrong
end
if redis.call('EXISTS', state) == 1 then
  return {'exists'}
end
if has_group(stream, group) then
  return {'foreign'}
end

local writes = {{'XGROUP', 'CREATE', stream, group, '0', 'MKSTREAM'}, {'HSET', state, 'mode', ARGV[4]}}
for i = 3, #KEYS do
  table.insert(writes, {'DEL', KEYS[i]})
end
wrong = may_not(writes)
if wrong then
  return wrong
end
local at, seen, at_event = begin(stream, start, from)
mark(stream, group, at, seen)
forget_what_waits()
redis.call('HSET', state, 'mode', ARGV[4], 'owner', '', 'epoch', '0', 'beat', '0', 'lease', '0',
  'at', at, 'at_event', at_event, 'seen', seen)
return {'made'}
