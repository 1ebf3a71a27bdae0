-- ARGV: the reader that had the token once.
local letter, reason = state()
if letter ~= 'g' or reason ~= 'acknowledged' or get('h') ~= ARGV[4] or now >= tonumber(get('x')) then
  return {'nothing'}
end
publish('c')
redis.call('HSET', key, 's', 'a')
redis.call('HDEL', key, 'w', 'h')
return {'done'}
