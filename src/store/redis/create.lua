-- ARGV: profile, info, session token's digest or '', life, tombstone, transit token's digest or
-- '', its life. The key's own expiry is set here and never again.
local life = tonumber(ARGV[6])
redis.call('DEL', key)
redis.call('HSET', key, 's', 'p', 'm', ARGV[3], 'i', ARGV[4], 'x', integer(now + life))
if ARGV[5] ~= '' then
  redis.call('HSET', key, 'k', ARGV[5])
end
if ARGV[8] ~= '' then
  redis.call('HSET', key, 't', ARGV[8], 'tx', integer(now + tonumber(ARGV[9])))
end
redis.call('PEXPIREAT', key, integer(now + life + tonumber(ARGV[7])))
return {'created'}
