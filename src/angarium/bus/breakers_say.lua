-- A breaker opened or closed at a node, or its probe ended without an outcome.
-- KEYS[1] breakers; ARGV name, node, word, milliseconds it stays open, seconds kept.
-- An entry is stamp|until|probe until|prober, milliseconds in the server's time, `until` -1
-- when closed. `lost` is said by who remembers what the server forgot: it replaces nothing.
-- Returns the entry's stamp.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local held = redis.call('HGET', KEYS[1], ARGV[1])
local stamp, till, probe, prober
if held then
  stamp, till, probe, prober = string.match(held, '^(%d+)|(%-?%d+)|(%d+)|(.*)$')
end
local word = ARGV[3]
if stamp and word == 'lost' then
  return stamp
end
if word == 'released' then
  if not stamp or prober ~= ARGV[2] then
    return stamp or '0'
  end
  probe, prober = 0, ''
else
  stamp = math.max(now, (tonumber(stamp) or 0) + 1)
  till = word == 'closed' and -1 or now + tonumber(ARGV[4])
  probe, prober = 0, ''
end
stamp = string.format('%.0f', stamp)
local entry = string.format('%s|%.0f|%.0f|%s', stamp, till, probe, prober)
redis.call('HSET', KEYS[1], ARGV[1], entry)
redis.call('EXPIRE', KEYS[1], ARGV[5])
return stamp
