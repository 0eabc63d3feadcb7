-- What the less usual commands need besides.

-- A command that changes nothing. Of a session that is not there only a marker stays, for a while.
local function unchanged(refusal, detail)
  if redis.call('STRLEN', memory(S.half)) >= REMEMBER * RECORD_BYTES then
    S.since_version = S.version - REMEMBER
  end
  local never = S.version == 0
  if never then
    S.version, S.dead = 1, 1
  end
  local answer = finish(actual, 0, 0, refusal, detail)
  if never then
    redis.call('PEXPIRE', head, REMEMBER_MS)
  end
  return answer
end

-- A session that is not there is born; what an expired one left is removed.
local function begin()
  if live then
    return
  end
  -- Before DEL, after which Redis lets a script write beyond maxmemory.
  redis.call('HSET', head, 'm', '{}', 'w', '{}')
  redis.call('DEL', rows, ids)
  redis.call('PERSIST', head)
  redis.call('ZADD', bucket .. ':k', 0, key)
  S.version = math.max(S.version, now - 1)
  S.epoch, S.last_ordinal, S.born, S.dead, S.repeats = S.version + 1, 0, now, 0, 0
end

-- Add the messages that stand in ARGV from a place on as id, message, id, message ...
local function add(from, skip)
  local added = 0
  local new_rows, new_ids = {}, {}
  for at = from, #ARGV, 2 do
    if not (skip and skip[ARGV[at]]) then
      S.last_ordinal = S.last_ordinal + 1
      added = added + 1
      local ordinal = string.format('%.0f', S.last_ordinal)
      new_rows[#new_rows + 1] = ordinal .. ' ' .. ARGV[at + 1]
      new_ids[#new_ids + 1] = ARGV[at]
      new_ids[#new_ids + 1] = ordinal
    end
    if #new_rows == 2000 or (at + 2 > #ARGV and #new_rows > 0) then
      redis.call('RPUSH', rows, unpack(new_rows))
      redis.call('HSET', ids, unpack(new_ids))
      new_rows, new_ids = {}, {}
    end
  end
  return added
end
