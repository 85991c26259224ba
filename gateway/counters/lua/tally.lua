-- A tally of a calendar period or a balance: what is settled and what is held; whether it has refused where its limit
-- asks for that; and what lapsed while calls were open.
--
-- Eras: a balance is cut wherever units lapse under open calls. What is used is counted era by era: the floor or what was
-- used before, whichever is more, and on top of it what the era's own calls used. So an open hold stands in for lapsed
-- units only until it ends. An era is {id, floor, settled, held, open}; the first one holds whoever was there before.
local PERIOD_GRACE_MS = 2 * DAY_MS
local BALANCE_KEPT_MS = 400 * DAY_MS -- twice as long as an epoch lasts, and a new one seeds all balances
local REFUSED_BEFORE = 'ever' -- stands for the capacity at which it refused where that is not known

local function new_tally(key)
  return {kind = 't', key = key, settled = 0, held = 0, open = 0, lapsed = 0, resets_us = 0, is_new = true}
end

local function stored_tally(key, row)
  local tally = {
    kind = 't', key = key, settled = int(row[2]), held = int(row[3]), open = row[4], lapsed = int(row[5]),
    resets_us = row[6],
  }
  local refused_at, eras = row[7], row[8]
  if refused_at then
    tally.refused_at = refused_at == REFUSED_BEFORE and REFUSED_BEFORE or int(refused_at)
  end
  if eras then
    tally.eras = {}
    for number, era in ipairs(eras) do
      tally.eras[number] =
        {id = era[1], floor = int(era[2]), settled = int(era[3]), held = int(era[4]), open = era[5]}
    end
  end
  return tally
end

local function used_in(eras, with_holds)
  local used = 0
  for _, era in ipairs(eras) do
    used = add(max(used, era.floor), era.settled)
    if with_holds then
      used = add(used, era.held)
    end
  end
  return used
end

-- Make one of each era without open calls and its successor: the sums come out the same.
local function merge_ended(eras)
  local number = 1
  while number < #eras do
    local ended, era = eras[number], eras[number + 1]
    if ended.open > 0 then
      number = number + 1
    else
      era.floor = max(ended.floor, sub(era.floor, ended.settled))
      era.settled = add(era.settled, ended.settled)
      table.remove(eras, number)
    end
  end
end

local function era_of(tally, id)
  for _, era in ipairs(tally.eras) do
    if era.id == id then
      return era
    end
  end
  return tally.eras[1] -- admitted before the first of them was cut off
end

local function end_tally(tally, place, taken, actual)
  tally.held, tally.open = sub(tally.held, taken), tally.open - 1
  tally.is_changed = true
  if not tally.eras then
    tally.settled = add(tally.settled, actual)
    return
  end
  local era = era_of(tally, place)
  era.held, era.open, era.settled = sub(era.held, taken), era.open - 1, add(era.settled, actual)
  merge_ended(tally.eras)
  tally.settled = sub(used_in(tally.eras, true), tally.held)
  if tally.open == 0 then
    tally.eras = nil
  end
end

-- Add units to what is settled; negative ones are given back, never below 0.
local function book(tally, units)
  units = max(units, sub(0, tally.settled))
  tally.settled = add(tally.settled, units)
  if tally.eras then
    local era = tally.eras[#tally.eras]
    era.settled = add(era.settled, units)
  end
  if less(units, 0) then
    tally.lapsed = 0 -- what came back may have been lapsed: the next call has to look again
  end
  tally.is_changed = true
end

local function save_tally(tally, wall)
  local refused_at = tally.refused_at
  if tally.open == 0 and tally.settled == 0 and not refused_at then
    call('DEL', tally.key)
    return
  end
  local eras = false
  if tally.eras then
    eras = {}
    for number, era in ipairs(tally.eras) do
      eras[number] = {era.id, told(era.floor), told(era.settled), told(era.held), era.open}
    end
  end
  if refused_at and refused_at ~= REFUSED_BEFORE then
    refused_at = told(refused_at)
  end
  local kept_ms = BALANCE_KEPT_MS
  if tally.resets_us > 0 then
    kept_ms = math.ceil(math.max(0, tally.resets_us - wall) / 1000) + PERIOD_GRACE_MS
  end
  local row = {
    't', told(tally.settled), told(tally.held), tally.open, told(tally.lapsed), tally.resets_us, refused_at or false, eras,
  }
  call('SET', tally.key, pack(row), 'PX', kept_ms)
end
