-- ARGV: the session token's digest or '', mode (poll, paced, attach, claim), the subscription or '' or
-- for a paced poll its interval, the grace in milliseconds, or '' and the reader when this delivery
-- ends the session; for a paced poll how much earlier it may come, by how much it lengthens the interval else, and the
-- maximum interval.
local letter, reason, expected, stored, newest, expires, profile, client =
  state('k', 's', 'r', 'x', 'm', 'n')
if not letter then
  return {'unknown'}
end
if not authorized(expected, ARGV[4]) then
  return {'unauthorized'}
end
if letter == 'g' then
  if stored ~= 'g' then
    close(reason)
  end
  return {'gone', reason}
end
if letter == 'f' then
  local failure = redis.call('HMGET', key, 'fe', 'fd')
  return {'failed', failure[1], failure[2]}
end
local mode, subscription, grace = ARGV[5], ARGV[6], ARGV[7]
if letter == 'p' then
  if mode == 'attach' then
    redis.call('HSET', key, 'r', subscription)
  elseif mode == 'paced' then
    local paced = redis.call('HMGET', key, 'pl', 'pi')
    local interval = tonumber(paced[2] or ARGV[6])
    redis.call('HSET', key, 'pl', now_text())
    if paced[1] and now - tonumber(paced[1]) + tonumber(ARGV[9]) < interval then
      interval = math.min(interval + tonumber(ARGV[10]), tonumber(ARGV[11]))
      redis.call('HSET', key, 'pi', integer(interval))
      return {'too_early', integer(interval)}
    end
  end
  return {'pending', integer(tonumber(expires) - now), client or ''}
end
if mode == 'claim' and newest ~= subscription then
  return {'superseded'}
end
local found = redis.call('HMGET', key, 'y', 'ya')
if letter == 'd' and grace == '' and profile == 'device' then
  -- A stream has it.
  return {'gone', 'acknowledged'}
end
local age = integer(now - tonumber(found[2]))
if grace == '' then
  -- The token stays, out of reach, for a reader that hands it back.
  redis.call('HSET', key, 's', 'g', 'w', 'acknowledged', 'h', ARGV[8])
  redis.call('HDEL', key, 'i', 'du', 'b', 'o', 'c', 'pl', 'pi')
else
  if mode == 'attach' then
    redis.call('HSET', key, 'r', subscription)
  end
  if letter == 'a' then
    start_grace(grace, expires)
  end
end
return {'token', found[1], age}
