-- ARGV: the transit token's digest, the backend in the place of a dialog, what it presents (token, or
-- dialog for something that does not expire before the session), then the clients whose sessions it
-- may enter.
local letter, reason, transit, expires, entered, client = state('t', 'tx', 'tu', 'n')
local is_theirs = false
for index = 7, #ARGV do
  is_theirs = is_theirs or client == ARGV[index]
end
if not letter or not is_theirs or transit ~= ARGV[4] then
  return {'unknown'}
end
if letter ~= 'p' then
  return not_pending(letter, reason)
end
if entered and entered ~= ARGV[5] then
  return {'used'}
end
if not entered then
  if ARGV[6] == 'token' and now >= tonumber(expires) then
    return {'transit_expired'}
  end
  redis.call('HSET', key, 'tu', ARGV[5])
end
return described('admitted')
