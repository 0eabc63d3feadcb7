-- Put messages aside for a Replace too large for one call; what is never used goes by itself.
-- KEYS[1]: the bucket. ARGV[1]: the session. ARGV[2]: the token. ARGV[3]: the first one's ordinal.
-- ARGV[4..]: id, message, id, message ...
local staged_rows = KEYS[1] .. ':r' .. ARGV[2] .. ':' .. ARGV[1]
local staged_ids = KEYS[1] .. ':i' .. ARGV[2] .. ':' .. ARGV[1]
local ordinal = tonumber(ARGV[3])
for at = 4, #ARGV, 2 do
  redis.call('RPUSH', staged_rows, string.format('%.0f', ordinal) .. ' ' .. ARGV[at + 1])
  redis.call('HSET', staged_ids, ARGV[at], string.format('%.0f', ordinal))
  ordinal = ordinal + 1
end
redis.call('PEXPIRE', staged_rows, 3600000)
redis.call('PEXPIRE', staged_ids, 3600000)
