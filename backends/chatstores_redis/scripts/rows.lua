-- The index of the first row whose ordinal is not below the given one. A damaged row has no
-- ordinal: the next that has one stands for it.
local function index_of(ordinal)
  local low, high = 0, redis.call('LLEN', rows)
  while low < high do
    local middle = math.floor((low + high) / 2)
    local at, found = middle, nil
    while at < high and not found do
      found = tonumber(string.match(redis.call('LINDEX', rows, at), '^%d+'))
      at = at + 1
    end
    if found and found < ordinal then
      low = at
    else
      high = middle
    end
  end
  return low
end
