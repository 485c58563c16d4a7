-- Moves the cursor of a work queue over what was lost, if it is still where it was seen.
-- KEYS: stream, state.
-- ARGV: group, cursor and ordinal as they were seen, the new ones with the event between them, what to record of a loss (empty: nothing).
local state = KEYS[2]

local wrong = wrong_type({{state, 'hash'}})
if wrong then
  return wrong
end
local held = redis.call('HMGET', state, 'mode', 'at', 'seen', 'lost')
if held[1] ~= 'queue' or held[2] ~= ARGV[2] or (held[3] or '') ~= ARGV[3] then
  return {'no'}
end
local write = {'at', ARGV[4], 'at_event', ARGV[5], 'seen', ARGV[6]}
write_with_loss(state, write, held[4], ARGV[7])
return {'yes'}
