-- Shared by every script on a stored session. KEYS[1] is the session's hash, ARGV[1] the command
-- that publishes (PUBLISH, or SPUBLISH in a cluster), ARGV[2] the session's channel, ARGV[3] the
-- caller's surface (native or meet); the arguments of a script's own begin at ARGV[4].
--
-- Fields. Those that version 0.1 reads and writes keep their meaning:
--   s state (p pending, a authenticated, d delivered, f failed, g gone), m profile,
--   i profile and trace as JSON, k digest of the session token, t digest of the transit token,
--   tx its expiry, tu the dialog that entered (0.1: '1'), x expiry of the session, r the newest
--   subscription, y payload, ya when that was stored, du until when it stays readable,
--   fe/fd failure, w why gone;
-- since then: b digest of the creator's browser, o the sealed details, c attempts to type the user
--   code, e id of the token's event, pl when a paced poll came last, pi the interval between them if
--   it was lengthened, h the reader to which the token was delivered once and which may hand it back,
--   n the registered client, which outlives the session.

-- The state with its expiry applied: nil when the session is not there or on the other surface, or
-- the letter, when gone the reason, and the values of the fields that the caller names: a command for all
-- of them, because each takes the server longer than what it does.
local function state(...)
  local found = redis.call('HMGET', key, 's', 'x', 'du', 'w', 'm', ...)
  local letter, reason = found[1], nil
  if not letter or (found[5] == 'meet') ~= (ARGV[3] == 'meet') then
    return nil
  end
  if letter == 'g' then
    reason = found[4]
  elseif now >= tonumber(found[2]) or (letter == 'd' and now >= tonumber(found[3])) then
    letter, reason = 'g', 'expired'
  end
  return letter, reason, unpack(found, 6)
end

-- Called before anything is written: when publishing is refused, the session is unchanged. No
-- subscriber receives a message before the script has ended.
local function publish(message)
  redis.call(ARGV[1], ARGV[2], message)
end

-- The first delivery starts the grace; later ones do not extend it.
local function start_grace(grace, expires)
  local ends = math.min(now + tonumber(grace), tonumber(expires))
  redis.call('HSET', key, 's', 'd', 'du', integer(ends))
end

-- Ends the session: keeps the reason and what identifies its tokens, drops the rest.
local function close(reason)
  redis.call('HSET', key, 's', 'g', 'w', reason)
  redis.call('HDEL', key, 'i', 'y', 'ya', 'du', 'r', 'fe', 'fd', 'b', 'o', 'c', 'e', 'pl', 'pi')
end

local function authorized(expected, digest)
  return not expected or expected == digest
end

-- The answer with what is known of the session.
local function described(word, number)
  local found = redis.call('HMGET', key, 'i', 'k', 'b', 'o')
  return {word, number or '', found[1], found[2] or '', found[3] or '', found[4] or ''}
end

-- The answer when a transition needs a pending session and this one is in another state.
local function not_pending(letter, reason)
  if letter == 'f' then
    local failure = redis.call('HMGET', key, 'fe', 'fd')
    return {'not_pending', letter, failure[1], failure[2]}
  end
  return {'not_pending', letter, reason or '', ''}
end
