-- A bucket's live sessions by (minute of the last write, key), descending. ARGV[1], ARGV[2]:
-- the place to go on below, or ''. ARGV[3]: how many.
-- Answers with when each was last written and its key, one after the other.
local limit, offset, answer = tonumber(ARGV[3]), 0, {}
local top = ARGV[1] == '' and '+inf' or ARGV[1]

-- Lua's own comparison follows the server's locale.
local function below(a, b)
  for at = 1, math.min(#a, #b) do
    local x, y = a:byte(at), b:byte(at)
    if x ~= y then
      return x < y
    end
  end
  return #a < #b
end

while #answer < 2 * limit do
  local found = redis.call('ZREVRANGEBYSCORE', KEYS[1] .. ':t', top, '-inf', 'WITHSCORES',
    'LIMIT', offset, limit)
  for at = 1, #found, 2 do
    local key, written = found[at], tonumber(found[at + 1])
    if is_live(key)
      and (written ~= tonumber(ARGV[1]) or below(key, ARGV[2])) and #answer < 2 * limit then
      answer[#answer + 1] = string.format('%.0f', written)
      answer[#answer + 1] = key
    end
  end
  if #found < 2 * limit then
    break
  end
  offset = offset + limit
end
return answer
