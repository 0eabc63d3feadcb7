-- The most usual command by itself, before anything is made that it does not need: one new message,
-- first attempt, to a live session that has no ttl, while its memory of commands need not turn.
-- Nothing is written before all of that is known; in every other case the general way follows.
-- The answer: version, added.
if packed and #ARGV == 4 then
  local command, expected, ttl, age = struct.unpack('<c8ddd', ARGV[2])
  local version, epoch, last_ordinal, born, updated, expires, dead, repeats, half, since,
    since_version, forgotten, overtaken = struct.unpack(STATE, packed)
  if dead == 0 and expires == 0 and ttl == 0 and age == 0 and now_ms > overtaken
    and (expected < 0 or expected == version)
    and now_ms > since and now_ms - since < REMEMBER_MS and version + 1 - since_version < REMEMBER
    and redis.call('HSETNX', ids, ARGV[3], string.format('%.0f', last_ordinal + 1)) == 1 then
    local listed = updated - updated % MINUTE
    last_ordinal, version, updated = last_ordinal + 1, version + 1, math.max(now, updated)
    redis.call('RPUSH', rows, string.format('%.0f', last_ordinal) .. ' ' .. ARGV[4])
    if updated - updated % MINUTE ~= listed then
      redis.call('ZADD', bucket .. ':t', string.format('%.0f', updated - updated % MINUTE), key)
    end
    redis.call('APPEND', bucket .. ':c' .. half .. ':' .. key,
      struct.pack(RECORD, command, version, 1, 0, 0))
    redis.call('HSET', head, 's', struct.pack(STATE, version, epoch, last_ordinal, born, updated,
      expires, dead, repeats, half, since, since_version, forgotten, overtaken))
    return { version, 1 }
  end
end
