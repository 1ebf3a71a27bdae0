-- Shared by every script on a session: its key, and the time in milliseconds by the server's clock, so
-- that instances need no synchronised clocks.
local key = KEYS[1]
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local function integer(value)
  return string.format('%.0f', value)
end

-- `integer(now)` of the server's own digits, in half the time.
local function now_text()
  return clock[1] .. string.sub('00000' .. clock[2], -6, -4)
end
