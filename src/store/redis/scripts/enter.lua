-- ARGV: the transit token's digest, or '' to enter by the session ID.
local letter, reason = state()
if not letter then
  return {'unknown'}
end
if ARGV[3] == '' then
  if get('m') ~= 'legacy' then
    return {'unknown'}
  end
  if letter ~= 'p' then
    return not_pending(letter, reason)
  end
else
  local transit = redis.call('HMGET', key, 't', 'tu', 'tx')
  if not transit[1] or transit[1] ~= ARGV[3] then
    return {'unknown'}
  end
  if transit[2] then
    if letter ~= 'g' then
      publish('c')
      close('replayed')
    end
    return {'replayed'}
  end
  if now >= tonumber(transit[3]) then
    return {'transit_expired'}
  end
  if letter ~= 'p' then
    return not_pending(letter, reason)
  end
  redis.call('HSET', key, 'tu', '1')
end
local found = redis.call('HMGET', key, 'i', 'k')
return {'admitted', found[1], found[2] or ''}
