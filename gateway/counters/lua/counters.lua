-- The counters of a step, by key. All that it may need are read at once; nothing is written before `save_all`, so that a
-- step that fails leaves no trace. A counter is kept as a MessagePack array that begins with its kind.
local rows, counters = {}, {}
local STORED = {w = stored_window, t = stored_tally, g = stored_gauge}
local NEW = {r = new_window, c = new_tally, b = new_tally, g = new_gauge}

local function read_rows(keys, first)
  if #keys < first then
    return
  end
  for number, row in ipairs(call('MGET', unpack(keys, first))) do
    rows[keys[first + number - 1]] = row
  end
end

-- The counter of that name, whatever its kind; a new one of the kind that is asked for where there is none.
local function counter_of(key, kind)
  local counter = counters[key]
  if not counter then
    if rows[key] then
      local row = unpack_row(rows[key])
      counter = STORED[row[1]](key, row)
    else
      counter = NEW[kind](key)
    end
    counters[key] = counter
  end
  return counter
end

local function save_all(step)
  for _, counter in pairs(counters) do
    if counter.is_changed then
      if counter.kind == 'w' then
        save_window(counter, step.now)
      elseif counter.kind == 't' then
        save_tally(counter, step.wall)
      else
        save_gauge(counter)
      end
    end
  end
end
