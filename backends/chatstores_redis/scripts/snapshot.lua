-- A live session's head and its newest rows below an ordinal, in one moment.
-- ARGV[2]: the ordinal or ''. ARGV[3]: how many rows, or ''.
if not live then
  return {}
end
local count = redis.call('LLEN', rows)
local stop = ARGV[2] == '' and count or index_of(tonumber(ARGV[2]))
local from = ARGV[3] == '' and 0 or math.max(0, stop - tonumber(ARGV[3]))
local found = stop > from and redis.call('LRANGE', rows, from, stop - 1) or {}
local metadata = redis.call('HMGET', head, 'm', 'w')
return { S.version, S.epoch, count, S.born, S.updated, S.expires, metadata[1], metadata[2], found }
