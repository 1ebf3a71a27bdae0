-- Shared by every script on a session: its key, and the time in milliseconds by the server's clock, so
-- that instances need no synchronised clocks.
local key = KEYS[1]
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local function integer(value)
  return string.format('%.0f', value)
end
