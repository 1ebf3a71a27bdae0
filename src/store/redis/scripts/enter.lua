-- ARGV: enter or peek, what the dialog presents (id, token, or dialog for the token of a dialog that
-- was opened in time), the transit token's digest or '', the dialog or ''.
local enters, entry, digest, dialog = ARGV[4] == 'enter', ARGV[5], ARGV[6], ARGV[7]
local letter, reason, transit, expires, entered, profile = state('t', 'tx', 'tu', 'm')
if not letter then
  return {'unknown'}
end
if entry == 'id' then
  if transit or profile ~= 'legacy' then
    return {'unknown'}
  end
elseif not transit or transit ~= digest then
  return {'unknown'}
end
if entered and entered ~= dialog then
  if not enters then
    return {'used'}
  end
  if letter ~= 'g' then
    publish('c')
    close('replayed')
  end
  return {'replayed'}
end
if entry == 'token' and not entered and now >= tonumber(expires) then
  return {'transit_expired'}
end
if letter ~= 'p' then
  return not_pending(letter, reason)
end
if enters and not entered then
  redis.call('HSET', key, 'tu', dialog)
end
return described('admitted')
