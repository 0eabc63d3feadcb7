-- What every script of a command goes on with.
-- ARGV[2]: packed, the command's id; the expected version or -1; the ttl in ms or 0; how long ago
-- the call began in ms, 0 on the first attempt.
-- The answer: version, added, cleared, refusal, detail, the list of removed messages.
local command, expected, ttl, age = struct.unpack('<c8ddd', ARGV[2])
expected = expected >= 0 and expected or nil
ttl = ttl > 0 and ttl or nil
local actual = live and S.version or 0

local function memory(which)
  return bucket .. ':c' .. which .. ':' .. key
end

local function kept_answers()
  return bucket .. ':x:' .. key
end

-- The answer that one of the two halves of the memory holds.
local function recall(which)
  local records = redis.call('GET', memory(which)) or ''
  local at = string.find(records, command, 1, true)
  while at and (at - 1) % RECORD_BYTES ~= 0 do
    at = string.find(records, command, at + 1, true)
  end
  if not at then
    return nil
  end
  local _, v, added, cleared, more = struct.unpack(RECORD, records, at)
  if more == 0 then
    return { v, added, cleared, '', '', {} }
  end
  local kept = redis.call('HGET', kept_answers(), command)
  if not kept then
    return { actual, 0, 0, 'unknown', '', {} }
  end
  local refusal, detail, removed = unpack(cmsgpack.unpack(kept))
  return { v, added, cleared, refusal, detail, removed }
end

-- The answer of a command that was done before. A first attempt can have been only if its own
-- retry overtook it, which leaves its mark in the state, and its answer among those kept.
local function known()
  if age == 0
    and (now_ms > S.overtaken or redis.call('HEXISTS', kept_answers(), command) == 0) then
    return nil
  end
  local answer = recall(S.half) or recall(1 - S.half)
  if answer then
    return answer
  elseif age >= REMEMBER_MS or (age > 0 and now_ms - age <= S.forgotten) then
    return { actual, 0, 0, 'unknown', '', {} }
  elseif age > 0 then
    S.overtaken = now_ms + REMEMBER_MS
  end
end

-- Remember the command with its answer, and write the state.
local function finish(v, added, cleared, refusal, detail, removed)
  if S.since_version == 0 then
    S.since, S.since_version = now_ms, S.version
  elseif now_ms - S.since >= REMEMBER_MS or S.version - S.since_version >= REMEMBER then
    S.half = 1 - S.half
    if redis.call('UNLINK', memory(S.half)) == 1 then
      S.forgotten = S.since  -- when the last of them was done, or a little later
    end
    S.since, S.since_version = now_ms, S.version
  end
  local more = (refusal or removed or age > 0) and 1 or 0
  redis.call('APPEND', memory(S.half), struct.pack(RECORD, command, v, added, cleared, more))
  if S.since == now_ms then
    redis.call('PEXPIRE', memory(S.half), 2 * REMEMBER_MS)
  end
  redis.call('HSET', head, 's', struct.pack(STATE, S.version, S.epoch, S.last_ordinal, S.born,
    S.updated, S.expires, S.dead, S.repeats, S.half, S.since, S.since_version, S.forgotten,
    S.overtaken))
  local answer = { v, added, cleared, refusal or '', detail or '', removed or {} }
  if more == 1 then
    local kept = { answer[4], answer[5], answer[6] }
    redis.call('HSET', kept_answers(), command, cmsgpack.pack(kept))
    redis.call('PEXPIRE', kept_answers(), REMEMBER_MS)
  end
  return answer
end

-- The command changed the session: its next version, its time and its ttl.
local function changed(added, removed)
  S.version = S.version + 1
  local listed = live and S.updated - S.updated % MINUTE
  S.updated = math.max(now, S.updated)
  if S.updated - S.updated % MINUTE ~= listed then
    redis.call('ZADD', bucket .. ':t', string.format('%.0f', S.updated - S.updated % MINUTE), key)
  end
  local expired = S.expires
  S.expires = ttl and now_ms + ttl or 0
  local answer = finish(S.version, added, 0, nil, nil, removed)
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
