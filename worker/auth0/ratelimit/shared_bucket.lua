-- The bucket of bucket.py, atomically, for all processes. KEYS[1]: a hash of numbers.
-- ARGV: now ('' for the server's clock), rate, burst, left, then
--   'take', keep, horizon, remaining, limit, slot, at   (remaining '' where nothing was seen)
--   'pause', seconds
local now
if ARGV[1] == '' then
  local time = redis.call('TIME')
  now = tonumber(time[1]) + tonumber(time[2]) / 1e6
else
  now = tonumber(ARGV[1])
end
local rate, most, left = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
-- What is no hash is nobody's bucket; it would keep all processes from sharing one.
local kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'hash' and kind ~= 'none' then redis.call('DEL', KEYS[1]) end
local held = redis.call('HMGET', KEYS[1], 'level', 'at', 'slots', 'pause', 'limit')
local level, slots, pause, shown = held[1] or 0, held[3] or 0, held[4] or 0, held[5] or 0
-- Whoever may write to Redis could stop all calls for ever by one of these: none is believed for longer than this.
local max_pause = 900
local function number_in(value, least, greatest)
  value = tonumber(value)
  if not value or value ~= value then return least end
  return math.min(greatest, math.max(least, value))
end
level = number_in(level, -math.max(most, rate * max_pause), most)
slots = number_in(slots, 0, 2^53)
pause = number_in(pause, 0, now + max_pause)
shown = number_in(shown, 0, 1e9)
local function burst_now()
  if shown < 1 then return most end
  return math.min(most, math.max(1, math.min(shown * (1 - left), shown - 1)))
end
local burst = burst_now()

local since = math.max(number_in(held[2] or now, 0, now), pause)
level = math.min(burst, level + math.max(0, now - since) * rate)

local wait, number = 0, 0
if ARGV[5] == 'pause' then
  level = math.min(level, 0)
  pause = math.max(pause, now + math.min(max_pause, tonumber(ARGV[6])))
else
  local keep, horizon = tonumber(ARGV[6]), tonumber(ARGV[7])
  if ARGV[8] ~= '' and tonumber(ARGV[10]) <= slots then
    local remaining, limit, slot, at = tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[11])
    if limit >= 1 then shown = limit end
    burst = burst_now()
    local gained = math.max(0, now - math.max(at, pause)) * rate
    level = math.min(level, burst, remaining - limit * left + gained - (slots - slot))
  end
  local lacking = math.max(0, math.min(1 + keep, burst) - level)
  wait = math.max(0, pause - now) + lacking / rate
  if wait <= horizon then
    level = level - 1
    slots = slots + 1
    number = slots
  end
end

local function exact(value) return string.format('%.6f', value) end
redis.call('HSET', KEYS[1], 'level', exact(level), 'at', exact(now), 'slots', slots, 'pause', exact(pause), 'limit', exact(shown))
redis.call('PEXPIRE', KEYS[1], 86400000 + math.floor(math.max(0, pause - now) * 1000))
return { exact(wait), number, exact(now + wait), exact(pause) }
