-- Removes absent members from a set, raises the beat of the present one to the time, and answers all members.
-- KEYS: members.
-- ARGV: most members, the present member (empty: none), then (absent member, its last beat or empty)*.
local members, most, present = KEYS[1], tonumber(ARGV[1]), ARGV[2]

local wrong = wrong_type({{members, 'zset'}})
if wrong then
  return wrong
end
wrong = may_not({{'ZREM', members, 'a'}, {'ZREMRANGEBYRANK', members, 0, 0}, {'ZINCRBY', members, 1, 'a'},
  {'ZRANGE', members, 0, -1}})
if wrong then
  return wrong
end
for i = 3, #ARGV, 2 do
  local beat = redis.call('ZSCORE', members, ARGV[i])
  if beat and (ARGV[i + 1] == '' or tonumber(beat) == tonumber(ARGV[i + 1])) then
    redis.call('ZREM', members, ARGV[i])
  end
end
if present ~= '' then
  local beat = tonumber(redis.call('ZSCORE', members, present) or 0)
  if beat == 0 then
    -- Removed before it enters, so that processes that crash again and again keep nobody out.
    local beyond = redis.call('ZCARD', members) + 1 - most
    if beyond > 0 then
      redis.call('ZREMRANGEBYRANK', members, 0, beyond - 1)
    end
  end
  -- At least by one, because a beat that stands still is that of a dead process.
  redis.call('ZINCRBY', members, digits(math.max(now() - beat, 1)), present)
end
return {'members', redis.call('ZRANGE', members, 0, -1, 'WITHSCORES')}
