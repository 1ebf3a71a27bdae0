-- ARGV: lifetime, tombstone, lifetime of the transit token or '', then fields and values. The key
-- expires once, as set here; no transition extends it. Its name is the digest of fresh random bytes,
-- so it cannot exist yet.
local expires = now + tonumber(ARGV[1])
local fields = {'s', 'p', 'x', integer(expires)}
if ARGV[3] ~= '' then
  fields[5], fields[6] = 'tx', integer(now + tonumber(ARGV[3]))
end
for index = 4, #ARGV do
  fields[#fields + 1] = ARGV[index]
end
redis.call('HSET', key, unpack(fields))
redis.call('PEXPIREAT', key, integer(expires + tonumber(ARGV[2])))
return {'created'}
