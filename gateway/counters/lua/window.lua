-- A rolling window: slices in the order in which they leave it, numbered from `first` up to `next` (exclusive). The newest,
-- which most calls need and no other, lies with the sums; the others in a hash of their own, by their numbers. Instants
-- are microseconds. No number comes again while a hold may still name it: a new window begins with the instant it is made.
local EXACT_REQUESTS_MAX = 512
local BUCKETS = 60
local WINDOW_GRACE_MS = 60000
local FIELDS_AT_ONCE = 1000

local function new_window(key)
  return {kind = 'w', key = key, first = 0, next = 0, used = 0, held = 0, is_new = true}
end

local function stored_window(key, row)
  local window = {
    kind = 'w', key = key, first = row[2], next = row[3], used = int(row[4]), held = int(row[5]), oldest_leaves_at = row[6],
  }
  if row[7] then
    window.newest = {leaves_at = row[7], units = int(row[8]), held = int(row[9]), awaited = row[10]}
  end
  return window
end

local function slices_key(window)
  return window.key .. ':slices'
end

local function slice_of(window, number)
  if number == window.next - 1 then
    return window.newest
  end
  local slice = window.slices and window.slices[number]
  if not slice then
    local row = unpack_row(call('HGET', slices_key(window), number))
    slice = {leaves_at = row[1], units = int(row[2]), held = int(row[3]), awaited = row[4]}
    window.slices = window.slices or {}
    window.slices[number] = slice
  end
  return slice
end

-- That slice is no longer to be found in the hash.
local function drop_slice(window, number)
  window.gone = window.gone or {}
  window.gone[#window.gone + 1] = number
  if window.slices then
    window.slices[number] = nil
  end
end

local function forget_all(window)
  if window.next - window.first > 1 then
    window.is_emptied, window.slices, window.gone = true, nil, nil
  end
  window.first, window.newest, window.used, window.held = window.next, nil, 0, 0
end

local function forget_past(window, now)
  local newest = window.newest
  if not newest then
    return
  end
  if newest.leaves_at <= now then
    forget_all(window)
    return
  end
  while window.oldest_leaves_at <= now do
    local slice = slice_of(window, window.first)
    window.used, window.held = sub(window.used, slice.units), sub(window.held, slice.held)
    drop_slice(window, window.first)
    window.first = window.first + 1
    window.oldest_leaves_at = slice_of(window, window.first).leaves_at
  end
end

-- Forget the newest slices that are and stay empty: the window resets when the last unit leaves.
local function trim(window)
  while window.newest and window.newest.units == 0 and window.newest.awaited == 0 do
    window.newest, window.next = nil, window.next - 1
    if window.first < window.next then
      local number = window.next - 1
      window.next = window.next + 1 -- it still lies in the hash
      local slice = slice_of(window, number)
      window.next = window.next - 1
      drop_slice(window, number)
      window.newest = slice
    end
  end
end

-- When units admitted then have left: exactly, or with the whole of their sub-bucket.
local function leaves_at(admitted_at, window_us, capacity, unit)
  if unit ~= 'token' and not more(capacity, EXACT_REQUESTS_MAX) then
    return admitted_at + window_us
  end
  local width = window_us / BUCKETS
  return math.max(admitted_at, math.ceil((floor(admitted_at / width) + 1) * width)) + window_us
end

-- Slices leave in order. Units that would leave before the newest slice join it: late is safe, early is not.
local function add_slice(window, instant, units, held, now)
  window.used, window.held = add(window.used, units), add(window.held, held)
  window.is_changed = true
  local slice = window.newest
  if slice and slice.leaves_at >= instant then
    slice.units, slice.held = add(slice.units, units), add(slice.held, held)
    return slice
  end
  if slice then
    window.slices = window.slices or {}
    window.slices[window.next - 1] = slice
    slice.is_changed = true
  else
    window.oldest_leaves_at = instant
    if window.is_new then
      window.first, window.next, window.is_new = now, now, false
    end
  end
  window.newest = {leaves_at = instant, units = units, held = held, awaited = 0}
  window.next = window.next + 1
  return window.newest
end

-- What has left the window already is past correcting.
local function end_window(window, number, taken, actual)
  if number < window.first then
    return
  end
  local slice = slice_of(window, number)
  if taken == 0 then
    slice.awaited = slice.awaited - 1
  end
  local more_units = sub(actual, taken)
  slice.held, window.held = sub(slice.held, taken), sub(window.held, taken)
  slice.units, window.used = add(slice.units, more_units), add(window.used, more_units)
  slice.is_changed, window.is_changed = true, true
  trim(window)
end

local function save_slices(window, kept_ms)
  local key = slices_key(window)
  if window.is_emptied then
    call('UNLINK', key)
  end
  if window.gone then -- before others are written: the number of one that was trimmed may have come again
    for from = 1, #window.gone, FIELDS_AT_ONCE do
      call('HDEL', key, unpack(window.gone, from, math.min(from + FIELDS_AT_ONCE - 1, #window.gone)))
    end
  end
  if window.slices then
    local fields = {}
    for number, slice in pairs(window.slices) do
      if slice.is_changed then
        fields[#fields + 1] = number
        fields[#fields + 1] =
          pack({slice.leaves_at, told(slice.units), told(slice.held), slice.awaited})
      end
    end
    for from = 1, #fields, FIELDS_AT_ONCE do
      call('HSET', key, unpack(fields, from, math.min(from + FIELDS_AT_ONCE - 1, #fields)))
    end
    if #fields > 0 then
      call('PEXPIRE', key, kept_ms)
    end
  end
end

local function save_window(window, now)
  local newest = window.newest
  if not newest then
    call('DEL', window.key, slices_key(window))
    return
  end
  local kept_ms = math.ceil(math.max(0, newest.leaves_at - now) / 1000) + WINDOW_GRACE_MS
  save_slices(window, kept_ms)
  local row = {
    'w', window.first, window.next, told(window.used), told(window.held), window.oldest_leaves_at, newest.leaves_at,
    told(newest.units), told(newest.held), newest.awaited,
  }
  call('SET', window.key, pack(row), 'PX', kept_ms)
end
