-- ARGV: the sealed payload.
local letter, reason = state()
if not letter then
  return {'unknown'}
end
if letter ~= 'p' then
  return not_pending(letter, reason)
end
-- Carries the newest subscription, which may deliver the payload before it has read the store.
publish('p' .. (get('r') or '0') .. ':' .. ARGV[3])
redis.call('HSET', key, 's', 'a', 'y', ARGV[3], 'ya', integer(now))
return {'done'}
