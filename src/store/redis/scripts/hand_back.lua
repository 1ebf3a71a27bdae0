-- ARGV: the reader that had the token once.
local letter, reason, reader, expires = state('h', 'x')
if letter ~= 'g' or reason ~= 'acknowledged' or reader ~= ARGV[4] or now >= tonumber(expires) then
  return {'nothing'}
end
publish('c')
redis.call('HSET', key, 's', 'a')
redis.call('HDEL', key, 'w', 'h')
return {'done'}
