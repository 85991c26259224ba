-- Limits as they are asked for, and units put on their counters as part of a hold.
-- A limit as the caller wrote it: [number of its key, kind, capacity, amount, unit, microseconds of the window or until
-- which the period lasts, least amount, mark below which a refusal ends, lapsed]; the last three may be left out.
local function limit_of(row)
  local kind = row[2]
  local capacity = int(row[3])
  local limit = {
    key = KEYS[row[1]], kind = kind, capacity = capacity, amount = int(row[4]), unit = row[5],
    window_us = 0, resets_us = 0, lapsed = row[9] and int(row[9]) or 0,
    room = type(capacity) == 'number' and capacity or LARGE, -- of the capacity, what is a number
  }
  if kind == 'r' then
    limit.window_us = row[6]
  else
    limit.resets_us = row[6]
  end
  if row[7] then
    limit.amount_min = int(row[7])
  end
  if row[8] then
    limit.resume_below = int(row[8])
  end
  return limit
end

-- Units of the newest slice as part of a hold. A request is never corrected, so there is nothing to remember of it.
local function hold_slice(window, slice, limit, amount, step)
  if limit.unit ~= 'request' then
    if amount == 0 then
      slice.awaited = slice.awaited + 1
    end
    step.parts[#step.parts + 1] = {window.key, window.next - 1, told(amount), limit.unit}
  end
end

-- Put units on a tally that have been found to fit: settled if they are requests, else part of the hold.
local function hold_tally(tally, limit, taken, step)
  local era = tally.eras and tally.eras[#tally.eras]
  if limit.unit == 'request' then
    tally.settled = add(tally.settled, taken)
    if era then
      era.settled = add(era.settled, taken)
    end
  else
    tally.held, tally.open = add(tally.held, taken), tally.open + 1
    if era then
      era.held, era.open = add(era.held, taken), era.open + 1
    end
    step.parts[#step.parts + 1] = {tally.key, era and era.id or 0, told(taken), limit.unit}
  end
  if tally.is_new then
    tally.resets_us = limit.resets_us
  end
  tally.is_changed = true
end

local function hold_gauge(gauge, limit, amount, step)
  gauge.held, gauge.open = add(gauge.held, amount), gauge.open + 1
  gauge.is_changed = true
  step.parts[#step.parts + 1] = {gauge.key, 0, told(amount), limit.unit}
end

-- The holds of an account go with the account, a week after it last took something.
local function keep_holds(latest, now)
  if not latest or now - tonumber(latest) > DAY_MS * 1000 then
    call('PEXPIRE', KEYS[2], HOLDS_KEPT_MS)
  end
end
