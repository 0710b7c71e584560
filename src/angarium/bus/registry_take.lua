-- A device's new connection: the epoch grows even when the entry, or all of Redis, was lost.
-- KEYS[1] entries of the user; ARGV device, node, seconds kept. Returns the epoch as text.
local time = redis.call('TIME')
local epoch = time[1] * 1000000 + time[2]
local held = redis.call('HGET', KEYS[1], ARGV[1])
if held then
  local former = tonumber(string.match(held, '^(%d+)|'))
  if former and former >= epoch then
    epoch = former + 1
  end
end
local text = string.format('%.0f', epoch)
redis.call('HSET', KEYS[1], ARGV[1], text .. '|' .. ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[3])
return text
