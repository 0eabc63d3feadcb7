-- Remove what expired sessions of a bucket left. ARGV[1]: how many at most.
local due = redis.call('ZRANGEBYSCORE', KEYS[1] .. ':e', '-inf', '(' .. string.format('%.0f', now_ms),
  'LIMIT', 0, ARGV[1])
for _, key in ipairs(due) do
  redis.call('UNLINK', KEYS[1] .. ':r:' .. key, KEYS[1] .. ':i:' .. key)
  redis.call('HDEL', KEYS[1] .. ':h:' .. key, 'm', 'w')
  for _, index in ipairs({ ':k', ':t', ':e' }) do
    redis.call('ZREM', KEYS[1] .. index, key)
  end
end
return #due
