-- SetMetadata: ARGV[3] is the field ('m', or 'w' for the library's own), ARGV[4] the JSON.
local answer = known()
if answer then
  return answer
elseif expected and expected ~= actual then
  return unchanged('conflict')
elseif not live then
  return unchanged('no_session')
elseif redis.call('HGET', head, ARGV[3]) == ARGV[4] then
  return unchanged()
end
redis.call('HSET', head, ARGV[3], ARGV[4])
return changed(0)
