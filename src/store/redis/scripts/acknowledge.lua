-- ARGV: the session token's digest or '', the id of the event.
local letter, reason, expected, event = state('k', 'e')
if not letter then
  return {'unknown'}
end
if not authorized(expected, ARGV[4]) then
  return {'unauthorized'}
end
if letter == 'g' then
  return {'already', reason}
end
-- Version 0.1 stores no id; then a delivered session is the only one that can be acknowledged.
if event == ARGV[5] or (not event and letter == 'd') then
  publish('c')
  close('acknowledged')
  return {'acknowledged'}
end
return {'other_event'}
