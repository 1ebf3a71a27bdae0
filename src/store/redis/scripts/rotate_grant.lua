-- KEYS[1]: the grant, a string: the generation of its newest refresh token, or `x` when it was ended.
-- ARGV: the generation presented, the lifetime of the next one, how long an end is remembered.
local stored = redis.call('GET', KEYS[1])
if not stored then
  return {'unknown'}
end
if stored == 'x' then
  return {'ended'}
end
local presented = tonumber(ARGV[1])
if presented < tonumber(stored) then
  redis.call('SET', KEYS[1], 'x', 'PX', ARGV[3])
  return {'reused'}
end
redis.call('SET', KEYS[1], string.format('%.0f', presented + 1), 'PX', ARGV[2])
return {'rotated'}
