-- Creates a session at each key. ARGV, for each: lifetime, that with the tombstone's, lifetime of the
-- transit token or '', number of the values that follow, then fields and values. A key expires once, as
-- set here; no transition extends it. Its name is the digest of fresh random bytes, so it cannot exist
-- yet.
local at = 1
for index = 1, #KEYS do
  local key, transit, last = KEYS[index], ARGV[at + 2], at + 3 + ARGV[at + 3]
  local expires = integer(now + ARGV[at])
  if transit == '' then
    redis.call('HSET', key, 's', 'p', 'x', expires, unpack(ARGV, at + 4, last))
  else
    local transit_expires = integer(now + transit)
    redis.call('HSET', key, 's', 'p', 'x', expires, 'tx', transit_expires, unpack(ARGV, at + 4, last))
  end
  redis.call('PEXPIREAT', key, integer(now + ARGV[at + 1]))
  at = last + 1
end
return {'created'}
