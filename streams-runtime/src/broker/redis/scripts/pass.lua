-- Moves the cursor of a work queue over a loss, if the cursor is still where the caller saw it.
-- KEYS: stream, state.
-- ARGV: group, token of the call, cursor and ordinal as the caller saw them, the new cursor, its event and its ordinal,
--       the loss to record (empty: none).
local state = KEYS[2]

local wrong = wrong_type({{state, 'hash'}})
if wrong then
  return wrong
end
local held = redis.call('HMGET', state, 'mode', 'at', 'seen', 'lost', 'told')
if held[1] == 'queue' and held[5] == ARGV[2] then
  return {'yes'}
end
if held[1] ~= 'queue' or held[2] ~= ARGV[3] or (held[3] or '') ~= ARGV[4] then
  return {'no'}
end
write_once(state, {'at', ARGV[5], 'at_event', ARGV[6], 'seen', ARGV[7]}, ARGV[2], held[4], ARGV[8])
return {'yes'}
