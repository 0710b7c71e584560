-- Every breaker that a node said something of.
-- KEYS[1] breakers. Returns for each: name, stamp, milliseconds it stays open or -1.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local found = {}
local held = redis.call('HGETALL', KEYS[1])
for n = 1, #held, 2 do
  local stamp, till = string.match(held[n + 1], '^(%d+)|(%-?%d+)|')
  if stamp then
    local left = till == '-1' and -1 or math.max(0, tonumber(till) - now)
    found[#found + 1] = { held[n], stamp, left }
  end
end
return found
