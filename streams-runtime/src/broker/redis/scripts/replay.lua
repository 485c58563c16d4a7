-- Moves dead letters to the replays. Sent twice it finds nothing to move the second time.
-- KEYS: stream, state, dead letters, replays.
-- ARGV: group, most replays, ids.
local state, dead, replays = KEYS[2], KEYS[3], KEYS[4]

local wrong = wrong_type({{state, 'hash'}, {dead, 'stream'}, {replays, 'stream'}})
if wrong then
  return wrong
end
if redis.call('EXISTS', state) == 0 then
  return {'missing'}
end
local waiting = redis.call('XLEN', replays)
if waiting + #ARGV - 2 > tonumber(ARGV[2]) then
  return {'full', waiting}
end

wrong = may_not({{'XADD', replays, '*', 'letter', ''}, {'XDEL', dead, '0-1'}, {'HSET', state, 'replays', '1'}})
if wrong then
  return wrong
end
local moved = {'moved'}
for i = 3, #ARGV do
  -- One at a time, because all of them may be too large for memory here.
  local letter = redis.call('XRANGE', dead, ARGV[i], ARGV[i])[1]
  if letter then
    redis.call('XADD', replays, '*', 'letter', letter[1], unpack(letter[2]))
    redis.call('XDEL', dead, letter[1])
    redis.call('HSET', state, 'replays', '1')
    table.insert(moved, letter[1])
  end
end
return moved
