-- One step: whether it may be done at all, and when it is. Every script begins with it.
-- KEYS[1]: what guards the counters; ARGV[1]: what it has to say. ARGV[2]: JSON of [latest, wall] where a clock of the
-- caller's counts, both in microseconds, else an empty text. KEYS[2]: the holds of the account.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return {-1}
end

local call, pack, unpack_row = redis.call, cmsgpack.pack, cmsgpack.unpack
local unpack, ipairs, pairs = unpack, ipairs, pairs
local INFINITE = math.huge
local HELD_RETRY_US = 1000000
local DAY_MS = 86400000
local HOLDS_KEPT_MS = 7 * DAY_MS
local LATEST = '@' -- a field beside the holds: the latest instant at which something was taken
-- A hold is a MessagePack array: the process that has it open, then of each counter {key, place in it, units, unit}. An
-- empty text is one that ended before it began.

-- When it is: for windows, never before `latest`, and on the wall.
local function instants(latest)
  if ARGV[2] ~= '' then
    local given = cjson.decode(ARGV[2])
    return given[1], given[2]
  end
  local time = call('TIME')
  local wall = time[1] * 1000000 + time[2]
  local now = wall
  if latest and tonumber(latest) > now then
    now = tonumber(latest)
  end
  return now, wall
end
