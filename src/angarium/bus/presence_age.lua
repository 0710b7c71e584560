-- How long the server remembers already: nodes need a while to tell it everything again.
-- KEYS[1] when it began. Returns milliseconds.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local began = redis.call('GET', KEYS[1])
if not began then
  redis.call('SET', KEYS[1], string.format('%.0f', now))
  return 0
end
return now - tonumber(began)
