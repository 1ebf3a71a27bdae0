-- ARGV: error, error description.
local letter, reason = state()
if not letter then
  return {'unknown'}
end
if letter ~= 'p' then
  return not_pending(letter, reason)
end
publish('c')
redis.call('HSET', key, 's', 'f', 'fe', ARGV[4], 'fd', ARGV[5])
return {'done'}
