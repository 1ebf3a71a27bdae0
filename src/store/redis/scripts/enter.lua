-- ARGV: enter or peek, what the dialog presents (id, token, or dialog for the token of a dialog that
-- was opened in time), the transit token's digest or '', the dialog or ''.
local enters, entry, digest, dialog = ARGV[4] == 'enter', ARGV[5], ARGV[6], ARGV[7]
local letter, reason = state()
if not letter then
  return {'unknown'}
end
local found = redis.call('HMGET', key, 't', 'tx', 'tu', 'm')
if entry == 'id' then
  if found[1] or found[4] ~= 'legacy' then
    return {'unknown'}
  end
elseif not found[1] or found[1] ~= digest then
  return {'unknown'}
end
if found[3] and found[3] ~= dialog then
  if not enters then
    return {'used'}
  end
  if letter ~= 'g' then
    publish('c')
    close('replayed')
  end
  return {'replayed'}
end
if entry == 'token' and not found[3] and now >= tonumber(found[2]) then
  return {'transit_expired'}
end
if letter ~= 'p' then
  return not_pending(letter, reason)
end
if enters and not found[3] then
  redis.call('HSET', key, 'tu', dialog)
end
return described('admitted')
