-- ARGV: the reason.
local letter = state()
if not letter or letter == 'g' then
  return {'nothing'}
end
tell('c')
bury(ARGV[3])
return {'evicted'}
