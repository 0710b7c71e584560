-- A node says that it lives. Time is the server's, so the nodes' clocks do not matter.
-- KEYS[1] nodes by the end of their lease; ARGV node or '', milliseconds.
-- Returns whether the node's lease still ran, then every live node.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
local ran = 0
if ARGV[1] ~= '' then
  if redis.call('ZSCORE', KEYS[1], ARGV[1]) then
    ran = 1
  end
  redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), ARGV[1])
end
return { ran, redis.call('ZRANGE', KEYS[1], 0, -1) }
