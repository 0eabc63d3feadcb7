-- Clear: a marker without text stays for a while.
local answer = known()
if answer then
  return answer
elseif expected and expected ~= actual then
  return unchanged('conflict')
elseif not live then
  return unchanged()
end
local count = redis.call('LLEN', rows)
redis.call('UNLINK', rows, ids)
redis.call('HDEL', head, 'm', 'w')
for _, index in ipairs({ ':k', ':t', ':e' }) do
  redis.call('ZREM', bucket .. index, key)
end
S.version, S.dead, S.expires = S.version + 1, 1, 0
answer = finish(0, 0, count)
redis.call('PEXPIRE', head, REMEMBER_MS)
return answer
