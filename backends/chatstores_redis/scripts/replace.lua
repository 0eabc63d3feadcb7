-- Replace and Restore. ARGV[3]: the token under which the messages were staged, or ''; then how
-- many in ARGV[4]. ARGV[5]: '' for Replace; for Restore the metadata, then in ARGV[6..9] the
-- library's own, born, updated, and 1 if ids repeat. ARGV[10..]: id, message ... if none are staged.
local answer = known()
if answer then
  return answer
elseif expected and expected ~= actual then
  return unchanged('conflict')
end

local staged, count = ARGV[3], tonumber(ARGV[4])
if staged ~= '' and redis.call('LLEN', bucket .. ':r' .. staged .. ':' .. key) ~= count then
  return redis.error_reply('ERR chatstores: what was staged is gone')
end
begin()
redis.call('DEL', rows, ids)
S.last_ordinal, S.repeats, S.epoch = 0, 0, S.version + 1
if staged == '' then
  add(10)
else
  redis.call('RENAME', bucket .. ':r' .. staged .. ':' .. key, rows)
  redis.call('RENAME', bucket .. ':i' .. staged .. ':' .. key, ids)
  redis.call('PERSIST', rows)
  redis.call('PERSIST', ids)
  S.last_ordinal = count
end
if ARGV[5] ~= '' then
  redis.call('HSET', head, 'm', ARGV[5], 'w', ARGV[6])
  now, S.updated = tonumber(ARGV[8]), 0
  S.born, S.repeats = tonumber(ARGV[7]), tonumber(ARGV[9])
end
return changed(count)
