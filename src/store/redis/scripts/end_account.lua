-- KEYS[1]: the account, a string: the time up to which everything granted to it has ended, in
-- milliseconds since the Unix epoch. ARGV: such a time, how long it is remembered. The later counts.
local stored = tonumber(redis.call('GET', KEYS[1]) or '0')
local at = math.max(stored, tonumber(ARGV[1]))
redis.call('SET', KEYS[1], string.format('%.0f', at), 'PX', ARGV[2])
return {'ended'}
