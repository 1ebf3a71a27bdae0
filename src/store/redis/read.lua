-- ARGV: the session token's digest or '', mode (poll, attach, claim), the reader or '', the grace
-- in milliseconds or '' for read-once.
local letter, reason = state()
if not letter then
  return {'unknown'}
end
if not authorised(ARGV[3]) then
  return {'unauthorized'}
end
if letter == 'g' then
  if get('s') ~= 'g' then
    bury(reason)
  end
  return {'gone', reason}
end
if letter == 'f' then
  local failure = redis.call('HMGET', key, 'fe', 'fd')
  return {'failed', failure[1], failure[2]}
end
local mode, reader, grace = ARGV[4], ARGV[5], ARGV[6]
if letter == 'p' then
  if mode == 'attach' then
    redis.call('HSET', key, 'r', reader)
  end
  return {'pending', integer(tonumber(get('x')) - now)}
end
if mode == 'claim' and get('r') ~= reader then
  return {'superseded'}
end
local found = redis.call('HMGET', key, 'y', 'ya', 'x')
local age = integer(now - tonumber(found[2]))
if grace == '' then
  bury('acknowledged')
else
  if mode == 'attach' then
    redis.call('HSET', key, 'r', reader)
  end
  if letter == 'a' then
    -- The first delivery starts the grace; later ones do not extend it.
    local last = math.min(now + tonumber(grace), tonumber(found[3]))
    redis.call('HSET', key, 's', 'd', 'du', integer(last))
  end
end
return {'token', found[1], age}
