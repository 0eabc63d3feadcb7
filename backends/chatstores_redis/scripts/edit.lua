-- Edit: ARGV[3] is the message's id, ARGV[4] the message.
local answer = known()
if answer then
  return answer
elseif expected and expected ~= actual then
  return unchanged('conflict')
elseif not live then
  return unchanged('no_session', ARGV[3])
end
local ordinal = redis.call('HGET', ids, ARGV[3])
if not ordinal then
  return unchanged('no_message', ARGV[3])
end
local index, row = index_of(tonumber(ordinal)), ordinal .. ' ' .. ARGV[4]
if redis.call('LINDEX', rows, index) == row then
  return unchanged()
end
redis.call('LSET', rows, index, row)
return changed(0)
