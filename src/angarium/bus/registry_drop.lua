-- An entry goes, if it still is the one of this epoch.
-- KEYS[1] entries of the user; ARGV device, epoch. Returns 1 or 0.
local held = redis.call('HGET', KEYS[1], ARGV[1])
if held and string.match(held, '^(%d+)|') == ARGV[2] then
  return redis.call('HDEL', KEYS[1], ARGV[1])
end
return 0
