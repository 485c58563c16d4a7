-- Begins a shared group anew by hand: takes everything out of all hands, ends all consumers, and makes the marker where it is
-- gone.
-- KEYS: stream, state, waiting, needs, failed, bell.
-- ARGV: group, epoch as it was seen (empty: no state), start and its id or milliseconds as for a new group, rings that
--       the bell keeps.
local stream, state, bell = KEYS[1], KEYS[2], KEYS[6]
local group, seen_epoch = ARGV[1], ARGV[2]

local wrong = wrong_type({
  {stream, 'stream'}, {state, 'hash'}, {KEYS[3], 'zset'}, {KEYS[4], 'zset'}, {KEYS[5], 'hash'}, {bell, 'stream'},
})
if wrong then
  return wrong
end
local refused, held, marked = cannot_begin_anew(stream, state, group, 'shared', seen_epoch)
if refused then
  return refused
end

local at, seen = begin(stream, ARGV[3], ARGV[4])
if marked then
  -- Not destroyed and made anew, which would take the right to do that to the groups of others.
  repeat
    local page = redis.call('XPENDING', stream, group, '-', '+', 500)
    for _, pending in ipairs(page) do
      redis.call('XACK', stream, group, pending[1])
    end
  until #page == 0
  for _, flat in ipairs(redis.call('XINFO', 'CONSUMERS', stream, group)) do
    redis.call('XGROUP', 'DELCONSUMER', stream, group, by_name(flat).name)
  end
  mirror(stream, group, at, seen)
else
  mark(stream, group, at, seen)
end
redis.call('DEL', KEYS[3], KEYS[4], KEYS[5])
begin_anew(state, 'shared', held, at, seen)
ring(bell, group, ARGV[5])
return {'done', at}
