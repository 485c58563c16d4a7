-- Answers entries of a stream, bounded by their bytes.
-- KEYS: stream.
-- ARGV: from, count, bytes.
local stream = KEYS[1]

local wrong = wrong_type({{stream, 'stream'}})
if wrong then
  return wrong
end
local entries, complete = page(stream, ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]))
return {'page', complete and 1 or 0, entries}
