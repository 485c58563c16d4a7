-- Creates the state of a group that another program reads with XREADGROUP, from its first entry that is not
-- acknowledged. A work queue continues at the last-delivered id, and its waiting set gets the pending entries.
-- KEYS: stream, state; for a work queue waiting, too.
-- ARGV: group, how long its consumers must be silent in ms, how many of them to name, mode.
local stream, state = KEYS[1], KEYS[2]
local group, quiet, most = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])

local wrong = wrong_type({{stream, 'stream'}, {state, 'hash'}})
if wrong then
  return wrong
end
if redis.call('EXISTS', state) == 1 then
  return {'exists'}
end
local found
if redis.call('EXISTS', stream) == 1 then
  for _, flat in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    if flat[2] == group then
      found = by_name(flat)
    end
  end
end
if not found then
  return {'missing'}
end
local seen_lately = {'in use'}
for _, flat in ipairs(redis.call('XINFO', 'CONSUMERS', stream, group)) do
  local consumer = by_name(flat)
  if consumer.idle < quiet and #seen_lately <= 2 * most then
    table.insert(seen_lately, consumer.name)
    table.insert(seen_lately, consumer.idle)
  end
end
if #seen_lately > 1 then
  return seen_lately
end
local writes = {{'HSET', state, 'mode', ARGV[4]}}
if ARGV[4] == 'ordered' then
  table.insert(writes, {'XGROUP', 'SETID', stream, group, '0'})
else
  for i = 3, #KEYS do
    table.insert(writes, {'DEL', KEYS[i]})
  end
  table.insert(writes, {'ZADD', KEYS[3], 'NX', 0, 'a'})
  table.insert(writes, {'ZSCORE', KEYS[3], 'a'})
end
wrong = may_not(writes)
if wrong then
  return wrong
end
if KEYS[3] and redis.call('TYPE', KEYS[3]).ok == 'zset' and redis.call('ZSCORE', KEYS[3], 'stamp') then
  -- The marker is ours, and its state with the entries in flight is gone. A queue behind the last-delivered id would
  -- lose them.
  return {'left', KEYS[3]}
end

local at, waits = found['last-delivered-id'], nil
local pending = redis.call('XPENDING', stream, group)
local count, oldest = pending[1], pending[2] or ''
if ARGV[4] == 'ordered' and count > 0 and not above(oldest, at) then
  at = id_before(oldest)
end
-- Between the two ends nobody knows the ordinal. If a trim has passed the checkpoint, the first snapshot reports it.
local last, added = begin(stream, 'latest', '')
local seen = at == last and added or ''
if ARGV[4] == 'ordered' then
  mirror(stream, group, at, seen)
else
  forget_what_waits()
  local from, added = '-', 0
  repeat
    local page = redis.call('XPENDING', stream, group, from, '+', 500)
    for _, entry in ipairs(page) do
      added = added + let_wait(KEYS[3], entry[1], '0', '0', 0)
      from = '(' .. entry[1]
    end
  until #page < 500
  waits = added > 0 and put_stamp(KEYS[3], 0, added)
end
redis.call('HSET', state, 'mode', ARGV[4], 'owner', '', 'epoch', '0', 'beat', '0', 'lease', '0',
  'at', at, 'at_event', event_at(stream, at), 'seen', seen, unpack(waits and {'waits', waits} or {}))
return {'done', at, found['last-delivered-id'], count, oldest}
