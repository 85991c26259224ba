-- A gauge: what is in use right now. Nothing settles: all of it comes back, whatever was used.
local function new_gauge(key)
  return {kind = 'g', key = key, held = 0, open = 0}
end

local function stored_gauge(key, row)
  return {kind = 'g', key = key, held = int(row[2]), open = row[3]}
end

local function end_gauge(gauge, taken)
  gauge.held, gauge.open, gauge.is_changed = sub(gauge.held, taken), gauge.open - 1, true
end

local function save_gauge(gauge)
  if gauge.open == 0 then
    call('DEL', gauge.key)
    return
  end
  call('SET', gauge.key, pack({'g', told(gauge.held), gauge.open}), 'PX', HOLDS_KEPT_MS)
end
