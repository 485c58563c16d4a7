-- Moves dead letters to the replays, one of them perhaps with other fields. Sent twice it finds nothing to move the
-- second time.
-- KEYS: stream, state, dead letters, replays.
-- ARGV: group, most replays, number of arguments of the only letter's other fields (0: its own stay), (field, value)*,
--       ids.
local state, dead, replays = KEYS[2], KEYS[3], KEYS[4]
local first = 4 + tonumber(ARGV[3])

local wrong = wrong_type({{state, 'hash'}, {dead, 'stream'}, {replays, 'stream'}})
if wrong then
  return wrong
end
if redis.call('EXISTS', state) == 0 then
  return {'missing'}
end
local waiting = redis.call('XLEN', replays)
if waiting + #ARGV - first + 1 > tonumber(ARGV[2]) then
  return {'full', waiting}
end

wrong = may_not({{'XADD', replays, '*', 'letter', ''}, {'XDEL', dead, '0-1'}, {'HSET', state, 'replays', '1'}})
if wrong then
  return wrong
end
local moved = {'moved'}
for i = first, #ARGV do
  -- One at a time, because all of them may be too large for memory here.
  local letter = redis.call('XRANGE', dead, ARGV[i], ARGV[i])[1]
  if letter then
    local fields = first > 4 and {unpack(ARGV, 4, first - 1)} or letter[2]
    redis.call('XADD', replays, '*', 'letter', letter[1], unpack(fields))
    redis.call('XDEL', dead, letter[1])
    redis.call('HSET', state, 'replays', '1')
    table.insert(moved, letter[1])
  end
end
return moved
