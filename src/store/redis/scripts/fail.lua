-- ARGV: error, error description.
local letter, reason, client = state('n')
if not letter then
  return {'unknown', ''}
end
if letter ~= 'p' then
  local answer = not_pending(letter, reason)
  table.insert(answer, client or '')
  return answer
end
publish('c')
redis.call('HSET', key, 's', 'f', 'fe', ARGV[4], 'fd', ARGV[5])
return {'done', client or ''}
