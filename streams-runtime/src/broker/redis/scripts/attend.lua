-- Takes those out of a set of members who are gone, counts the one who is there, and answers who is in it then.
-- KEYS: members. ARGV: most members, who is there (empty: nobody), then (who is gone, its last beat or empty)*.
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
  if not redis.call('ZSCORE', members, present) then
    -- Before it comes in: whoever crashes again and again must not keep others out.
    local beyond = redis.call('ZCARD', members) + 1 - most
    if beyond > 0 then
      redis.call('ZREMRANGEBYRANK', members, 0, beyond - 1)
    end
  end
  redis.call('ZINCRBY', members, 1, present)
end
return {'members', redis.call('ZRANGE', members, 0, -1, 'WITHSCORES')}
