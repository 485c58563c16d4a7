-- Ends a consumer of a work queue; what it still has in flight is given back as from a dead one.
-- KEYS: stream, state, waiting, bell. ARGV: group, token, epoch, rings that the bell keeps.
local stream, state, waiting, bell = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local field, epoch = 'consumer:' .. ARGV[2], ARGV[3]

local wrong = wrong_type({{stream, 'stream'}, {state, 'hash'}, {waiting, 'zset'}, {bell, 'stream'}})
if wrong then
  return wrong
end
local held = by_name(redis.call('HGETALL', state))
if held.mode ~= 'queue' or lives(held[field]) ~= epoch then
  return {'no'}
end
local stamp, waits = waits_of(held.waits)
local chunks = chunks_of(held, epoch)
for _, record in ipairs(chunks) do
  stamp = chunk_of(record.text) and stamp
end
if not stamp then
  return {'damaged', state}
end
if #chunks > 0 then
  wrong = apart(waiting, stamp, waits)
  if wrong then
    -- Whoever finds it dead tells of that.
    return wrong[1] == 'apart' and {'no'} or wrong
  end
end
local needed = changes(waiting, state)
table.insert(needed, {'XRANGE', stream, '-', '+'})
table.insert(needed, {'HDEL', state, field})
table.insert(needed, {'XADD', bell, 'MAXLEN', ARGV[4], '*', 'group', ARGV[1]})
wrong = may_not(needed)
if wrong then
  return wrong
end

local _, added, _, ended = give_up(stream, waiting, chunks, math.huge)
if added > 0 then
  redis.call('HSET', state, 'waits', put_stamp(waiting, stamp, waits + added))
end
table.insert(ended, field)
write_all('HDEL', state, ended)
ring(bell, ARGV[1], ARGV[4])
return {'yes'}
