-- Ends a consumer of a shared group; what it still has in hand is given back.
-- KEYS: stream, state, waiting, bell. ARGV: group, token, epoch, rings that the bell keeps.
local stream, state, waiting, bell = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local group, owner, epoch = ARGV[1], ARGV[2], ARGV[3]

local wrong = wrong_type({{stream, 'stream'}, {state, 'hash'}, {waiting, 'zset'}, {bell, 'stream'}})
if wrong then
  return wrong
end
if lives(redis.call('HGET', state, 'consumer:' .. owner)) ~= epoch then
  return {'no'}
end
if has_group(stream, group) then
  repeat
    local page = redis.call('XPENDING', stream, group, '-', '+', 500, owner)
    for _, pending in ipairs(page) do
      let_go(stream, group, pending[1], pending[4])
      redis.call('ZADD', waiting, 0, pending[1])
    end
  until #page == 0
  redis.call('XGROUP', 'DELCONSUMER', stream, group, owner)
end
redis.call('HDEL', state, 'consumer:' .. owner)
ring(bell, group, ARGV[4])
return {'yes'}
