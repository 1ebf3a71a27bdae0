-- ARGV: the sealed payload.
local letter, reason = state()
if not letter then
  return {'unknown'}
end
if letter ~= 'p' then
  return not_pending(letter, reason)
end
tell('p' .. ARGV[3])
redis.call('HSET', key, 's', 'a', 'y', ARGV[3], 'ya', integer(now))
return {'done'}
