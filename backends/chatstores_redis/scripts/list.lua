-- A bucket's live sessions in byte order. ARGV[1], ARGV[2]: the range as
-- ZRANGEBYLEX takes it. ARGV[3]: how many to look at.
-- Answers with whether there are more, the last one looked at, then the live ones.
local limit = tonumber(ARGV[3])
local keys = redis.call('ZRANGEBYLEX', KEYS[1] .. ':k', ARGV[1], ARGV[2], 'LIMIT', 0, limit)
local answer = { #keys == limit and 1 or 0, keys[#keys] or '' }
for _, key in ipairs(keys) do
  if is_live(key) then
    answer[#answer + 1] = key
  end
end
return answer
