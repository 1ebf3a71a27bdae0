-- ARGV: the publish command, a channel that nobody has. What a transition needs, on a key of its own.
redis.call('HSET', key, 's', 'p')
redis.call('PEXPIREAT', key, integer(now + 1000))
redis.call('HGET', key, 's')
redis.call('HMGET', key, 's', 'x')
redis.call('HDEL', key, 's')
redis.call(ARGV[1], ARGV[2], 'c')
return {'ready'}
