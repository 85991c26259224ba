-- The end of a hold on its counters: of each unit what `actuals` say was used; where they do not, all that was taken if
-- `is_used`, else nothing.
local function end_hold(parts, actuals, is_used)
  local keys = {}
  for number = 2, #parts do -- the first says whose hold it is
    keys[number - 1] = parts[number][1]
  end
  read_rows(keys, 1)
  for number = 2, #parts do
    local part = parts[number]
    local key, place, taken, unit = part[1], part[2], int(part[3]), part[4]
    local actual = is_used and taken or 0
    if actuals and actuals[unit] then
      actual = max(0, int(actuals[unit]))
    end
    if rows[key] then -- else it is long over
      local counter = counter_of(key)
      if counter.kind == 'w' then
        end_window(counter, place, taken, actual)
      elseif counter.kind == 't' then
        end_tally(counter, place, taken, actual)
      else
        end_gauge(counter, taken)
      end
    end
  end
end
