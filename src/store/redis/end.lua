-- ARGV: the session token's digest or ''.
local letter, reason = state()
if not letter then
  return {'unknown'}
end
if not authorised(ARGV[3]) then
  return {'unauthorized'}
end
if letter == 'g' then
  return {'already', reason}
end
tell('c')
if letter == 'p' then
  bury('cancelled')
  return {'cancelled'}
end
bury('acknowledged')
if letter == 'f' then
  return {'failed'}
end
return {'acknowledged'}
