-- May this node make the one probe?
-- KEYS[1] breakers; ARGV name, node, milliseconds a probe may take, milliseconds until a
-- node that may not asks again, seconds kept.
-- Returns 'go', 'wait' with milliseconds, or 'closed' with the entry's stamp.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local held = redis.call('HGET', KEYS[1], ARGV[1])
local stamp, till, probe, prober
if held then
  stamp, till, probe, prober = string.match(held, '^(%d+)|(%-?%d+)|(%d+)|(.*)$')
end
if stamp then
  if till == '-1' then
    return { 'closed', stamp }
  end
  if tonumber(till) > now then
    return { 'wait', tonumber(till) - now }
  end
  if tonumber(probe) > now and prober ~= ARGV[2] then
    return { 'wait', math.min(tonumber(probe) - now, tonumber(ARGV[4])) }
  end
end
if not stamp then
  -- The server forgot that it is open.
  stamp = string.format('%.0f', now)
  till = stamp
end
probe = now + tonumber(ARGV[3])
local entry = string.format('%s|%s|%.0f|%s', stamp, till, probe, ARGV[2])
redis.call('HSET', KEYS[1], ARGV[1], entry)
redis.call('EXPIRE', KEYS[1], ARGV[5])
return { 'go' }
