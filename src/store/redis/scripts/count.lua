-- KEYS[1]: a count. ARGV: what is added, how long a count lasts in milliseconds.
local sum = redis.call('GET', KEYS[1])
if not sum then
  if tonumber(ARGV[1]) < 0 then
    -- Taken back too late: the count has ended.
    return {'counted', '0'}
  end
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
  return {'counted', ARGV[1]}
end
sum = string.format('%.0f', tonumber(sum) + tonumber(ARGV[1]))
redis.call('SET', KEYS[1], sum, 'KEEPTTL')
return {'counted', sum}
