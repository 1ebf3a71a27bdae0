-- ARGV: the session token's digest or ''.
local letter, reason, expected = state('k')
if not letter then
  return {'unknown'}
end
if not authorized(expected, ARGV[4]) then
  return {'unauthorized'}
end
if letter == 'g' then
  redis.call('HDEL', key, 'h', 'y', 'ya', 'e')
  return {'already', reason}
end
publish('c')
if letter == 'p' then
  close('cancelled')
  return {'cancelled'}
end
close('acknowledged')
if letter == 'f' then
  return {'failed'}
end
return {'acknowledged'}
