-- ARGV: profile, info, session token's digest or '', life, tombstone, transit token's digest or
-- '', its life. The key's own expiry is set here and never again. Its name is a digest of fresh
-- random bytes, so nothing can be there.
local life = tonumber(ARGV[6])
local fields = {'s', 'p', 'm', ARGV[3], 'i', ARGV[4], 'x', integer(now + life)}
if ARGV[5] ~= '' then
  fields[9], fields[10] = 'k', ARGV[5]
end
if ARGV[8] ~= '' then
  local last = #fields
  fields[last + 1], fields[last + 2] = 't', ARGV[8]
  fields[last + 3], fields[last + 4] = 'tx', integer(now + tonumber(ARGV[9]))
end
redis.call('HSET', key, unpack(fields))
redis.call('PEXPIREAT', key, integer(now + life + tonumber(ARGV[7])))
return {'created'}
