-- Makes a group's state and its marker in the stream.
-- KEYS: stream, state. ARGV: group, start (earliest, latest, at, ago), the start's id or milliseconds.
local stream, state = KEYS[1], KEYS[2]
local group, start, from = ARGV[1], ARGV[2], ARGV[3]

local wrong = wrong_type({{stream, 'stream'}, {state, 'hash'}})
if wrong then
  return wrong
end
if redis.call('EXISTS', state) == 1 then
  return {'exists'}
end
if has_group(stream, group) then
  return {'foreign'}
end

local last, added, length = '0-0', 0, 0
if redis.call('EXISTS', stream) == 1 then
  local info = by_name(redis.call('XINFO', 'STREAM', stream))
  last, added, length = info['last-generated-id'], info['entries-added'], info['length']
end

local at = '0-0'
if start == 'latest' then
  at = last
elseif start ~= 'earliest' then
  if start == 'ago' then
    from = digits(math.max(now() - tonumber(from), 0)) .. '-0'
  end
  if from ~= '0-0' then
    local before = redis.call('XREVRANGE', stream, '(' .. from, '-', 'COUNT', 1)
    if before[1] then
      at = before[1][1]
    end
  end
end

-- How many entries were added up to the checkpoint; between the two ends nobody knows.
local seen = ''
if at == last then
  seen = digits(added)
elseif at == '0-0' then
  seen = digits(added - length)
end

local command = {'XGROUP', 'CREATE', stream, group, at, 'MKSTREAM'}
if seen ~= '' then
  table.insert(command, 'ENTRIESREAD')
  table.insert(command, seen)
end
redis.call(unpack(command))
redis.call('HSET', state, 'mode', 'ordered', 'owner', '', 'epoch', '0', 'beat', '0', 'lease', '0',
  'at', at, 'at_event', '', 'seen', seen)
return {'made'}
