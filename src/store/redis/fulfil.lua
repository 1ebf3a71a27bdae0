-- ARGV: the sealed payload.
local letter, reason = state()
if not letter then
  return {'unknown'}
end
if letter ~= 'p' then
  return not_pending(letter, reason)
end
-- Named with the reader of this moment, which may hand it on before it asks the store.
tell('p' .. (get('r') or '0') .. ':' .. ARGV[3])
redis.call('HSET', key, 's', 'a', 'y', ARGV[3], 'ya', integer(now))
return {'done'}
