-- ARGV: the publish command, a channel that nobody has. What transitions, marks and grants need, on
-- keys of its own.
redis.call('HSET', key, 's', 'p')
redis.call('PEXPIREAT', key, integer(now + 1000))
redis.call('HMGET', key, 's', 'x')
redis.call('HINCRBY', key, 'c', 1)
redis.call('HDEL', key, 's')
local mark = key .. ':mark'
redis.call('SET', mark, '1', 'PX', '1000', 'NX')
redis.call('GET', mark)
redis.call('EXISTS', mark)
redis.call('DEL', mark)
redis.call(ARGV[1], ARGV[2], 'c')
return {'ready'}
