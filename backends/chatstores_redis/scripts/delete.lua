-- Delete: ARGV[3] is which ("last", "index", "id", "oldest", "after"), ARGV[4] its argument.
local answer = known()
if answer then
  return answer
elseif expected and expected ~= actual then
  return unchanged('conflict')
end

local which, argument = ARGV[3], ARGV[4]
local count = live and redis.call('LLEN', rows) or 0
local first, last = 0, -1
if which == 'last' then
  first, last = count - 1, count - 1
elseif which == 'oldest' then
  last = math.min(tonumber(argument), count) - 1
elseif which == 'index' then
  first = tonumber(argument)
  first = first < 0 and first + count or first
  last = first
else
  local ordinal = live and redis.call('HGET', ids, argument)
  if ordinal then
    first = index_of(tonumber(ordinal))
    last = first
    if which == 'after' then
      first, last = first + 1, count - 1
    end
  elseif which == 'after' then
    return unchanged('no_message', argument)
  end
end
if first < 0 or first >= count or last < first then
  return unchanged()
end

-- What cannot be read is not removed.
local removed, gone = {}, {}
for at, row in ipairs(redis.call('LRANGE', rows, first, last)) do
  local ordinal, message = string.match(row, '^(%d+) ({"v":1,.*})$')
  local readable, value = pcall(cjson.decode, message or '')
  if not (readable and type(value) == 'table' and type(value.id) == 'string'
      and type(value.role) == 'string' and type(value.created_at) == 'string'
      and (type(value.content) == 'string' or type(value.content) == 'table'
        or value.content == cjson.null)) then
    return unchanged('corrupt', tostring(first + at - 1))
  end
  removed[at] = message
  gone[at] = { value.id, ordinal }
end

if first == 0 and last == count - 1 then
  redis.call('DEL', rows)
elseif last == count - 1 then
  redis.call('LTRIM', rows, 0, first - 1)
elseif first == 0 then
  redis.call('LTRIM', rows, last + 1, -1)
else
  redis.call('LSET', rows, first, '')
  redis.call('LREM', rows, first * 2 < count and 1 or -1, '')
end

-- An id that repeats (only a restored session has such) now means its last message that stays.
local left = S.repeats == 1 and redis.call('LRANGE', rows, 0, -1) or {}
for _, pair in ipairs(gone) do
  local id, ordinal = pair[1], pair[2]
  if redis.call('HGET', ids, id) == ordinal then
    redis.call('HDEL', ids, id)
    for at = #left, 1, -1 do
      local other, message = string.match(left[at], '^(%d+) (.*)$')
      local readable, value = pcall(cjson.decode, message or '')
      if readable and value.id == id then
        redis.call('HSET', ids, id, other)
        break
      end
    end
  end
end
return changed(0, removed)
