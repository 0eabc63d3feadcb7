-- Append: ARGV[3..] are id, message, id, message ...
local answer = known()
if answer then
  return answer
end

-- Those that are there already, with the same content or another.
local skip, wanted, there, other = {}, 0, 0, nil
for at = 3, #ARGV, 2 do
  wanted = wanted + 1
  local ordinal = live and redis.call('HGET', ids, ARGV[at])
  if ordinal then
    local row = redis.call('LINDEX', rows, index_of(tonumber(ordinal)))
    if row == ordinal .. ' ' .. ARGV[at + 1] then
      skip[ARGV[at]] = true
      there = there + 1
    else
      other = ARGV[at]
    end
  end
end

if wanted > 0 and there == wanted then
  return unchanged()
elseif expected and expected ~= actual then
  return unchanged('conflict')
elseif other then
  return unchanged('other_content', other)
elseif wanted == 0 then
  return unchanged()
end
begin()
return changed(add(3, skip))
