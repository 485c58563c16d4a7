-- Moves a checkpoint by hand, takes the lease away from whoever has it, and makes the marker where it is gone. Of a work queue it
-- moves the cursor, and takes everything out of the chunks and the waiting set.
-- KEYS: stream, state; of a work queue waiting; bell.
-- ARGV: group, epoch as it was seen (empty: no state), start and its id or milliseconds as for a new group, rings that
--       the bell keeps, mode.
local stream, state, bell, waiting = KEYS[1], KEYS[2], KEYS[#KEYS], KEYS[4] and KEYS[3]
local group, seen_epoch, mode = ARGV[1], ARGV[2], ARGV[6]

local wrong = wrong_type({{stream, 'stream'}, {state, 'hash'}, {bell, 'stream'}})
  or (waiting and wrong_type({{waiting, 'zset'}}))
if wrong then
  return wrong
end
local refused, held, marked = cannot_begin_anew(stream, state, group, mode, seen_epoch)
if refused then
  return refused
end

local writes = {{'TIME'}, {'DEL', state}, {'HSET', state, 'mode', mode}, {'XADD', bell, 'MAXLEN', ARGV[5], '*', 'group', group}}
if waiting then
  table.insert(writes, {'DEL', waiting})
end
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
begin_anew(state, mode, held, at, seen, at_event)
if waiting then
  redis.call('DEL', waiting)
  local stamp = string.match(held.waits or '', '^(%d+) %d+$')
  if stamp then
    -- It only grows, so that a set of before shows, wherever it comes from.
    redis.call('HSET', state, 'waits', digits(tonumber(stamp) + 1) .. ' 0')
  end
end
ring(bell, group, ARGV[5])
return {'done', at}
