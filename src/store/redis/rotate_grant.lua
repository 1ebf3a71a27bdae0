-- KEYS[1]: the grant, a string: the generation of its newest refresh token, or `x` when ended.
-- ARGV: the generation presented, the life of the next one, how long an end is remembered.
local kept = redis.call('GET', KEYS[1])
if not kept then
  return {'unknown'}
end
if kept == 'x' then
  return {'ended'}
end
local presented = tonumber(ARGV[1])
if presented < tonumber(kept) then
  redis.call('SET', KEYS[1], 'x', 'PX', ARGV[3])
  return {'reused'}
end
redis.call('SET', KEYS[1], string.format('%.0f', presented + 1), 'PX', ARGV[2])
return {'rotated'}
