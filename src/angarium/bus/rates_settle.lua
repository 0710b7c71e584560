-- Of each principal: when its bucket will be full again, in the server's time.
-- KEYS principals; ARGV milliseconds of a token, most milliseconds ahead, then for each
-- principal tokens spent and the level of the node's bucket. Returns tokens used, as texts.
local time = redis.call('TIME')
local now = time[1] * 1000 + time[2] / 1000
local token, most = tonumber(ARGV[1]), tonumber(ARGV[2])
local used = {}
for n, key in ipairs(KEYS) do
  local full = math.max(now, tonumber(redis.call('GET', key) or now) or now)
  full = full + ARGV[2 * n + 1] * token
  full = math.min(now + most, math.max(full, now + ARGV[2 * n + 2] * token))
  if full > now then
    redis.call('SET', key, string.format('%.3f', full), 'PX', math.ceil(full - now))
  end
  used[n] = string.format('%.6f', (full - now) / token)
end
return used
