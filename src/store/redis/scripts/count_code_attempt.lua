-- ARGV: the maximum.
local letter, reason, attempts = state('c')
if not letter then
  return {'unknown'}
end
if letter ~= 'p' then
  return not_pending(letter, reason)
end
local remaining = tonumber(ARGV[4]) - tonumber(attempts or '0') - 1
if remaining < 0 then
  return {'exhausted'}
end
redis.call('HINCRBY', key, 'c', 1)
return described('allowed', integer(remaining))
