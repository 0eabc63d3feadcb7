-- Append: ARGV[3..] are id, message, id, message ...
local answer = known()
if answer then
  return answer
end

-- The most usual case by itself: one message, and it is new.
if #ARGV == 4 and live and (not expected or expected == S.version) then
  local ordinal = string.format('%.0f', S.last_ordinal + 1)
  if redis.call('HSETNX', ids, ARGV[3], ordinal) == 1 then
    redis.call('RPUSH', rows, ordinal .. ' ' .. ARGV[4])
    S.last_ordinal = S.last_ordinal + 1
    return changed(1)
  end
end
