-- Records a delivery at each key. ARGV, for each: the session token's digest or '', the subscription, the
-- grace in milliseconds.
for index = 1, #KEYS do
  key = KEYS[index]
  local at = 1 + 3 * index
  local letter, _, expected, newest, expires = state('k', 'r', 'x')
  if letter == 'a' and authorized(expected, ARGV[at]) and newest == ARGV[at + 1] then
    start_grace(ARGV[at + 2], expires)
  end
end
return {'noted'}
