-- Shared by all scripts on a session that is there. KEYS[1] is the session's hash, ARGV[1] the
-- command that publishes (PUBLISH, or SPUBLISH in a cluster), ARGV[2] the session's channel.
--
-- Fields: s state (p pending, a authenticated, d delivered, f failed, g gone), m profile,
-- i info as JSON, k digest of the session token, t digest of the transit token, tx when that
-- expires, tu set once it was used, x when the session expires, r the reader, y payload,
-- ya when it was stored, du until when it may be read again, fe/fd failure, w why gone.
local function get(field)
  return redis.call('HGET', key, field)
end

-- The state with time taken into account: nil, or the letter and, when gone, the reason.
local function state()
  local found = redis.call('HMGET', key, 's', 'x', 'du', 'w')
  if not found[1] then
    return nil
  end
  if found[1] == 'g' then
    return 'g', found[4]
  end
  if now >= tonumber(found[2]) then
    return 'g', 'expired'
  end
  if found[1] == 'd' and now >= tonumber(found[3]) then
    return 'g', 'expired'
  end
  return found[1]
end

-- Published before anything is written: a refusal leaves the session as it was, and nobody hears
-- a message before the script has ended.
local function tell(message)
  redis.call(ARGV[1], ARGV[2], message)
end

-- What is left of a session that is over: why, and what recognises its tokens.
local function bury(reason)
  redis.call('HSET', key, 's', 'g', 'w', reason)
  redis.call('HDEL', key, 'i', 'y', 'ya', 'du', 'r', 'fe', 'fd')
end

local function authorised(digest)
  local expected = get('k')
  return not expected or expected == digest
end

-- The answer that carries a state which a transition did not allow.
local function not_pending(letter, reason)
  if letter == 'f' then
    local failure = redis.call('HMGET', key, 'fe', 'fd')
    return {'not_pending', letter, failure[1], failure[2]}
  end
  return {'not_pending', letter, reason or '', ''}
end
