-- Records a delivery at each key. ARGV, for each: the session token's digest or '', the subscription, the
-- grace in milliseconds.
for index = 1, #KEYS do
  key = KEYS[index]
  local at = 1 + 3 * index
  if state() == 'a' and authorized(ARGV[at]) and get('r') == ARGV[at + 1] then
    start_grace(ARGV[at + 2], get('x'))
  end
end
return {'noted'}
