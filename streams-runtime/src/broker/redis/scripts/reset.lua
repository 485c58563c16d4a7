-- Moves a checkpoint by hand, takes the lease from its owner, and creates the marker where it is gone. For a work queue
-- it moves the cursor, and empties the chunks and the waiting set.
-- KEYS: stream, state; for a work queue waiting; bell.
-- ARGV: group, epoch as it was seen (empty: no state), start and its id or milliseconds as for a new group, most rings
--       of the bell, mode.
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
    -- The stamp only grows, so that an earlier waiting set is recognised, wherever it comes from.
    redis.call('HSET', state, 'waits', digits(tonumber(stamp) + 1) .. ' 0')
  end
end
ring(bell, group, ARGV[5])
return {'done', at}
