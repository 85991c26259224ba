-- What a limit has room for, how it stands, and how long it takes until it has room.
local function window_state(window, limit, step)
  forget_past(window, step.now)
  return {sub(window.used, window.held), window.held, window.newest and window.newest.leaves_at - step.now or 0, 0}
end

local function take_window(window, limit, step)
  local now = step.now
  forget_past(window, now)
  local amount, is_request = limit.amount, limit.unit == 'request'
  if amount == 0 then
    if is_request then
      return window_state(window, limit, step)
    end
  elseif more(add(window.used, amount), limit.capacity) then
    return nil
  end
  local slice = window.newest
  local instant
  if slice and slice.leaves_at > now + limit.window_us then
    instant = slice.leaves_at -- the sub-bucket of the call before has not ended
  else
    instant = leaves_at(now, limit.window_us, limit.capacity, limit.unit)
  end
  slice = add_slice(window, instant, amount, is_request and 0 or amount, now)
  hold_slice(window, slice, limit, amount, step)
  return {sub(window.used, window.held), window.held, slice.leaves_at - now, amount}
end

-- How long until the amount fits, and whether only holds are in the way; nil if it fits.
local function window_wait(window, limit, step)
  forget_past(window, step.now)
  local amount, capacity = limit.amount, limit.capacity
  local missing = sub(add(window.used, amount), capacity)
  if amount == 0 or not more(missing, 0) then
    return nil
  end
  if more(amount, capacity) then
    return INFINITE, false
  end
  local instant, number = step.now, window.first
  while number < window.next and more(missing, 0) do
    local slice = slice_of(window, number)
    missing, instant, number = sub(missing, slice.units), slice.leaves_at, number + 1
  end
  local wait = instant - step.now
  if window.held ~= 0 and not more(add(sub(window.used, window.held), amount), capacity) then
    return math.min(wait, HELD_RETRY_US), true
  end
  return wait, false
end

-- What is settled, and so much more that lapsed units count as used.
local function settled_of(tally, limit)
  if limit.lapsed == 0 then
    return tally.settled
  end
  return max(tally.settled, sub(limit.lapsed, tally.held))
end

-- What would be settled if every open call ended without having used any.
local function settled_alone(tally, limit)
  return max(tally.eras and used_in(tally.eras, false) or tally.settled, limit.lapsed)
end

-- The most that may be used after this call: less than the capacity while an earlier refusal lasts.
local function ceiling(tally, limit)
  local refused_at = tally.refused_at
  if not refused_at or not limit.resume_below then
    return limit.capacity
  end
  if refused_at ~= REFUSED_BEFORE and more(limit.capacity, refused_at) then
    return limit.capacity
  end
  return min(limit.capacity, sub(limit.resume_below, 1))
end

-- How much of the amount may be taken while so much is settled and held; nil where that is too little.
local function takeable(tally, limit, settled, held)
  local amount = limit.amount
  if amount == 0 then
    return 0
  end
  local left = sub(sub(ceiling(tally, limit), settled), held)
  if not limit.amount_min then
    return not more(amount, left) and amount or nil
  end
  if more(held, 0) then
    left = half(left)
  end
  local taken = max(0, min(amount, left))
  return not less(taken, min(amount, limit.amount_min)) and taken or nil
end

-- At least so many units are used from now on.
local function lapse(tally, units)
  if tally.open > 0 then
    local eras = tally.eras
    if not eras then
      eras = {{id = 1, floor = 0, settled = tally.settled, held = tally.held, open = tally.open}}
      tally.eras = eras
    end
    eras[#eras + 1] = {id = eras[#eras].id + 1, floor = units, settled = 0, held = 0, open = 0}
  end
  tally.settled = max(tally.settled, sub(units, tally.held))
  tally.lapsed = units
end

local function reset_us(limit, step)
  return math.max(0, limit.resets_us - step.wall)
end

-- Where twice the amount fits, all of it does, whether it may shrink or not: so most calls are decided.
local function has_plenty(tally, limit)
  local amount, settled, held = limit.amount, tally.settled, tally.held
  return not tally.refused_at and limit.lapsed == 0 and not tally.eras
    and type(amount) == 'number' and type(settled) == 'number' and type(held) == 'number'
    and 2 * amount <= limit.room - settled - held
end

local function take_tally(tally, limit, step)
  local taken = limit.amount
  if not has_plenty(tally, limit) then
    taken = takeable(tally, limit, settled_of(tally, limit), tally.held)
    if not taken then
      return nil
    end
    if more(limit.lapsed, tally.lapsed) then
      lapse(tally, limit.lapsed)
    end
    if limit.resume_below and taken ~= 0 then
      tally.refused_at = nil
    end
  end
  hold_tally(tally, limit, taken, step)
  return {tally.settled, tally.held, reset_us(limit, step), taken}
end

local function tally_state(tally, limit, step)
  return {settled_of(tally, limit), tally.held, reset_us(limit, step), 0}
end

-- As of a window. Where the period has passed on the wall clock the wait is 0, though nothing fits.
local function tally_wait(tally, limit, step)
  if takeable(tally, limit, settled_of(tally, limit), tally.held) then
    return nil
  end
  local least = limit.amount_min and min(limit.amount, limit.amount_min) or limit.amount
  if more(least, limit.capacity) then
    return INFINITE, false
  end
  if more(tally.held, 0) and takeable(tally, limit, settled_alone(tally, limit), 0) then
    return HELD_RETRY_US, true
  end
  return limit.resets_us == 0 and INFINITE or reset_us(limit, step), false
end

local function take_gauge(gauge, limit, step)
  local amount = limit.amount
  if amount ~= 0 and more(add(gauge.held, amount), limit.capacity) then
    return nil
  end
  hold_gauge(gauge, limit, amount, step)
  return {0, gauge.held, 0, amount}
end

local function gauge_state(gauge)
  return {0, gauge.held, 0, 0}
end

local function gauge_wait(gauge, limit)
  local amount = limit.amount
  if amount == 0 or not more(add(gauge.held, amount), limit.capacity) then
    return nil
  end
  if more(amount, limit.capacity) then
    return INFINITE, false
  end
  return HELD_RETRY_US, true
end

-- {settled, held, microseconds until it resets, taken}, after it was taken; nil for no room.
local function take_one(limit, step)
  local counter = counter_of(limit.key, limit.kind)
  if counter.kind == 'w' then
    return take_window(counter, limit, step)
  elseif counter.kind == 't' then
    return take_tally(counter, limit, step)
  end
  return take_gauge(counter, limit, step)
end

local function state_of(limit, step)
  local counter = counter_of(limit.key, limit.kind)
  if counter.kind == 'w' then
    return window_state(counter, limit, step)
  elseif counter.kind == 't' then
    return tally_state(counter, limit, step)
  end
  return gauge_state(counter)
end

local function wait_of(limit, step)
  local counter = counter_of(limit.key, limit.kind)
  if counter.kind == 'w' then
    return window_wait(counter, limit, step)
  elseif counter.kind == 't' then
    return tally_wait(counter, limit, step)
  end
  return gauge_wait(counter, limit)
end

local function tell(answer, state)
  local last = #answer
  answer[last + 1], answer[last + 2], answer[last + 3] = told(state[1]), told(state[2]), state[3]
  answer[last + 4] = told(state[4])
end
