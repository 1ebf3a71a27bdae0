-- ARGV: error, error description.
local letter, reason = state()
if not letter then
  return {'unknown'}
end
if letter ~= 'p' then
  return not_pending(letter, reason)
end
publish('c')
redis.call('HSET', key, 's', 'f', 'fe', ARGV[3], 'fd', ARGV[4])
return {'done'}
