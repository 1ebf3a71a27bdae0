-- ARGV: profile, info, session token's digest or '', lifetime, tombstone, transit token's digest or
-- '', its lifetime. The key expires once, as set here; no transition extends it. Its name is the
-- digest of fresh random bytes, so it cannot exist yet.
local ttl = tonumber(ARGV[6])
local fields = {'s', 'p', 'm', ARGV[3], 'i', ARGV[4], 'x', integer(now + ttl)}
if ARGV[5] ~= '' then
  fields[9], fields[10] = 'k', ARGV[5]
end
if ARGV[8] ~= '' then
  local last = #fields
  fields[last + 1], fields[last + 2] = 't', ARGV[8]
  fields[last + 3], fields[last + 4] = 'tx', integer(now + tonumber(ARGV[9]))
end
redis.call('HSET', key, unpack(fields))
redis.call('PEXPIREAT', key, integer(now + ttl + tonumber(ARGV[7])))
return {'created'}
