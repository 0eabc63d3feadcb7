-- What every script over a bucket of the index begins with. KEYS[1]: the bucket.
local clock = redis.call('TIME')
local now_ms = math.floor((clock[1] * 1000000 + clock[2]) / 1000)

-- Whether a session of the bucket is there.
local function is_live(key)
  local packed = redis.call('HGET', KEYS[1] .. ':h:' .. key, 's')
  if not packed then
    return false
  end
  local version, _, _, _, _, expires, dead = struct.unpack('<ddddddd', packed)
  return version > 0 and dead == 0 and not (expires > 0 and now_ms > expires)
end
