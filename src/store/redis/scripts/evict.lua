-- ARGV: the reason.
local letter = state()
if not letter or letter == 'g' then
  return {'nothing'}
end
publish('c')
close(ARGV[4])
return {'evicted'}
