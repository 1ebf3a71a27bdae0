-- ARGV: the maximum.
local letter, reason = state()
if not letter then
  return {'unknown'}
end
if letter ~= 'p' then
  return not_pending(letter, reason)
end
local remaining = tonumber(ARGV[4]) - tonumber(get('c') or '0') - 1
if remaining < 0 then
  return {'exhausted'}
end
redis.call('HINCRBY', key, 'c', 1)
return described('allowed', integer(remaining))
