-- What every script of a command goes on with.
-- ARGV[2]: the command's id. ARGV[3]: the expected version or ''. ARGV[4]: the ttl in ms or ''.
-- ARGV[5]: how long ago the call began, in ms; 0 on the first attempt.
-- The answer: version, added, cleared, refusal, detail, the list of removed messages.
local command, expected, ttl = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local age = tonumber(ARGV[5])
local actual = live and S.version or 0

local REMEMBER_MS = 60000  -- how long a command is remembered, if not
local REMEMBER = 32768     -- so many changes follow it before

local function memory(which)
  return bucket .. ':c' .. which .. ':' .. key
end

local function kept_rows()
  return bucket .. ':x:' .. key
end

-- The answer of a command that was done before. A first attempt can have been only if its own
-- retry overtook it, which leaves its mark in the state.
local function known()
  if age == 0 and now_ms > S.overtaken then
    return nil
  end
  local answer = redis.call('HGET', memory(S.half), command)
    or redis.call('HGET', memory(1 - S.half), command)
  if answer then
    local v, added, cleared, removed, refusal, detail =
      string.match(answer, '^(%d+) (%d+) (%d+) (%d) (%S*) ?(.*)$')
    if removed == '0' then
      return { tonumber(v), tonumber(added), tonumber(cleared), refusal, detail, {} }
    end
    local kept = redis.call('HGET', kept_rows(), command)
    if kept then
      return { tonumber(v), 0, 0, '', '', cmsgpack.unpack(kept) }
    end
    return { actual, 0, 0, 'unknown', '', {} }
  end
  if age >= REMEMBER_MS or (age > 0 and now_ms - age <= S.forgotten) then
    return { actual, 0, 0, 'unknown', '', {} }
  end
  if age > 0 then
    S.overtaken = now_ms + REMEMBER_MS
  end
end

-- Remember the command with its answer, and write the state.
local function finish(v, added, cleared, refusal, detail, removed)
  if S.since_version == 0 then
    S.since, S.since_version = now_ms, S.version
  elseif now_ms - S.since >= REMEMBER_MS or S.version - S.since_version >= REMEMBER then
    S.half, S.forgotten = 1 - S.half, S.since
    S.since, S.since_version = now_ms, S.version
    redis.call('UNLINK', memory(S.half))
  end
  redis.call('HSET', memory(S.half), command, string.format('%.0f', v) .. ' ' .. added .. ' '
    .. cleared .. ' ' .. (removed and 1 or 0) .. ' ' .. refusal .. ' ' .. detail)
  if S.since == now_ms then
    redis.call('PEXPIRE', memory(S.half), 2 * REMEMBER_MS)
  end
  redis.call('HSET', head, 's', struct.pack(STATE, S.version, S.epoch, S.last_ordinal, S.born, S.updated,
    S.expires, S.dead, S.repeats, S.half, S.since, S.since_version, S.forgotten, S.overtaken))
  if removed then
    redis.call('HSET', kept_rows(), command, cmsgpack.pack(removed))
    redis.call('PEXPIRE', kept_rows(), REMEMBER_MS)
  end
  return { v, added, cleared, refusal, detail, removed or {} }
end

-- A command that changes nothing. Of a session that is not there only a marker stays, for a while.
local function unchanged(refusal, detail)
  if redis.call('HLEN', memory(S.half)) >= REMEMBER then
    S.since_version = S.version - REMEMBER
  end
  local never = S.version == 0
  if never then
    S.version, S.dead = 1, 1
  end
  local answer = finish(actual, 0, 0, refusal or '', detail or '')
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
  redis.call('DEL', rows, ids)
  redis.call('HSET', head, 'm', '{}', 'w', '{}')
  redis.call('PERSIST', head)
  redis.call('ZADD', bucket .. ':k', 0, key)
  S.version = math.max(S.version, now - 1)
  S.epoch, S.last_ordinal, S.born, S.dead, S.repeats = S.version + 1, 0, now, 0, 0
end

-- The command changed the session: its next version, its time and its ttl.
local function changed(added, removed)
  S.version = S.version + 1
  S.updated = math.max(now, S.updated)
  redis.call('ZADD', bucket .. ':t', string.format('%.0f', S.updated), key)
  local expired = S.expires
  S.expires = ttl and now_ms + ttl or 0
  local answer = finish(S.version, added, 0, '', '', removed)
  if ttl then
    local at = string.format('%.0f', S.expires)
    redis.call('PEXPIREAT', rows, at)
    redis.call('PEXPIREAT', ids, at)
    redis.call('PEXPIREAT', head, string.format('%.0f', S.expires + REMEMBER_MS))
    redis.call('ZADD', bucket .. ':e', at, key)
  elseif expired > 0 then
    redis.call('PERSIST', rows)
    redis.call('PERSIST', ids)
    redis.call('PERSIST', head)
    redis.call('ZREM', bucket .. ':e', key)
  end
  return answer
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
