-- ARGV: the sealed payload, the id of its event.
local letter, reason, profile, newest = state('m', 'r')
if not letter then
  return {'unknown'}
end
if letter ~= 'p' then
  return not_pending(letter, reason)
end
if profile == 'device' then
  -- Of a stream and a poll one alone gets the token, so both ask for it.
  publish('c')
else
  -- Carries the newest subscription, which may deliver the payload before it has read the store.
  publish('p' .. (newest or '0') .. ':' .. ARGV[4])
end
redis.call('HSET', key, 's', 'a', 'y', ARGV[4], 'ya', now_text(), 'e', ARGV[5])
return {'done'}
