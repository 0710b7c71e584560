-- An entry is written again, unless a newer connection took its place.
-- KEYS[1] entries of the user; ARGV device, node, epoch, seconds kept. Returns 1 or 0.
local held = redis.call('HGET', KEYS[1], ARGV[1])
if held then
  local other = tonumber(string.match(held, '^(%d+)|'))
  if other and other > tonumber(ARGV[3]) then
    return 0
  end
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3] .. '|' .. ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[4])
return 1
