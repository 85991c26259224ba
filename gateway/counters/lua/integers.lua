-- Whole numbers, exact far beyond 2^63: Lua's own are doubles, exact only to 2^53, which is nine million dollars.
-- One from -LARGE up to LARGE is a number; any other is {high, low}, worth high * LIMB + low, with 0 <= low < LIMB.
-- In that form it is only ever touched by what follows.
local LIMB = 1000000000
local HIGH = 9007199
local LARGE = HIGH * LIMB
local type, floor, format, match, sub_text = type, math.floor, string.format, string.match, string.sub

local function whole(high, low)
  local carry = floor(low / LIMB)
  low = low - carry * LIMB
  if low < 0 then -- a quotient that was rounded up
    carry, low = carry - 1, low + LIMB
  end
  high = high + carry
  if high >= -HIGH and high < HIGH then
    return high * LIMB + low
  end
  return {high, low}
end

local function limbs(a)
  if type(a) == 'table' then
    return a[1], a[2]
  end
  local high = floor(a / LIMB)
  local low = a - high * LIMB
  if low < 0 then
    high, low = high - 1, low + LIMB
  end
  return high, low
end

-- Of a number, or of decimal digits.
local function int(value)
  if type(value) == 'number' then
    return value
  end
  if #value <= 15 then
    return tonumber(value)
  end
  local sign, digits = match(value, '^(-?)(%d+)$')
  local high, low = tonumber(sub_text(digits, 1, -10)) or 0, tonumber(sub_text(digits, -9))
  if sign == '-' then
    high, low = -high, -low
  end
  return whole(high, low)
end

local function text(a)
  if type(a) == 'number' then
    return format('%.0f', a)
  end
  local high, low = a[1], a[2]
  if high >= 0 then
    return format('%.0f%09.0f', high, low)
  end
  if low > 0 then
    high, low = high + 1, LIMB - low
  end
  return format('-%.0f%09.0f', -high, low)
end

-- As a reply carries it: what an integer of the protocol can hold, else digits.
local function told(a)
  if type(a) == 'number' then
    return a
  end
  return text(a)
end

local function add(a, b)
  if type(a) == 'number' and type(b) == 'number' then
    local sum = a + b
    if sum >= -LARGE and sum < LARGE then
      return sum
    end
  end
  local a_high, a_low = limbs(a)
  local b_high, b_low = limbs(b)
  return whole(a_high + b_high, a_low + b_low)
end

local function sub(a, b)
  if type(a) == 'number' and type(b) == 'number' then
    local difference = a - b
    if difference >= -LARGE and difference < LARGE then
      return difference
    end
  end
  local a_high, a_low = limbs(a)
  local b_high, b_low = limbs(b)
  return whole(a_high - b_high, a_low - b_low)
end

local function less(a, b)
  if type(a) == 'number' and type(b) == 'number' then
    return a < b
  end
  if type(a) == 'number' then
    return b[1] >= 0
  elseif type(b) == 'number' then
    return a[1] < 0
  end
  return a[1] < b[1] or (a[1] == b[1] and a[2] < b[2])
end

local function more(a, b)
  if type(a) == 'number' and type(b) == 'number' then
    return a > b
  end
  return less(b, a)
end

local function max(a, b)
  if less(a, b) then
    return b
  end
  return a
end

local function min(a, b)
  if less(b, a) then
    return b
  end
  return a
end

-- Rounded down.
local function half(a)
  if type(a) == 'number' then
    return floor(a / 2)
  end
  local high = floor(a[1] / 2)
  return whole(high, floor((a[2] + (a[1] - 2 * high) * LIMB) / 2))
end
