-- Moves a checkpoint by hand, takes the lease away from whoever has it, and makes the marker where it is gone.
-- KEYS: stream, state, bell.
-- ARGV: group, epoch as it was seen (empty: no state), start and its id or milliseconds as for a new group, rings that
--       the bell keeps.
local stream, state, bell = KEYS[1], KEYS[2], KEYS[3]
local group, seen_epoch = ARGV[1], ARGV[2]

local wrong = wrong_type({{stream, 'stream'}, {state, 'hash'}, {bell, 'stream'}})
if wrong then
  return wrong
end
local refused, held, marked = cannot_begin_anew(stream, state, group, 'ordered', seen_epoch)
if refused then
  return refused
end

local writes = {{'TIME'}, {'DEL', state}, {'HSET', state, 'mode', 'ordered'}, {'XADD', bell, 'MAXLEN', ARGV[5], '*', 'group', group}}
if not marked then
  table.insert(writes, {'XGROUP', 'CREATE', stream, group, '0', 'MKSTREAM'})
end
wrong = may_not(writes)
if wrong then
  return wrong
end
local at, seen, at_event = begin(stream, ARGV[3], ARGV[4])
if marked then
  mirror(stream, group, at, seen)
else
  mark(stream, group, at, seen)
end
begin_anew(state, 'ordered', held, at, seen, at_event)
ring(bell, group, ARGV[5])
return {'done', at}
