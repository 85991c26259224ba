-- Hold again what a call in flight had taken before its counters were lost, whatever the capacities. ARGV[3]: its id;
-- ARGV[4]: JSON of [microseconds since it was taken, limits with the amounts that it took]; ARGV[5]: whose it is. A request
-- unit, which no hold keeps, is taken again. Returns {1}, or {0} where that was done or the hold has ended before.
local hold_id = ARGV[3]
local record, latest = unpack(call('HMGET', KEYS[2], hold_id, LATEST))
if record then
  return {0}
end
local now, wall = instants(latest)
local step = {now = now, wall = wall, parts = {ARGV[5]}}
local age, limits = unpack(cjson.decode(ARGV[4]))
read_rows(KEYS, 3)

for _, row in ipairs(limits) do
  local limit = limit_of(row)
  local counter = counter_of(limit.key, limit.kind)
  if counter.kind == 'g' then
    hold_gauge(counter, limit, limit.amount, step)
  elseif counter.kind == 't' then
    hold_tally(counter, limit, limit.amount, step)
  else
    forget_past(counter, now)
    local instant = leaves_at(now - age, limit.window_us, limit.capacity, limit.unit)
    local is_awaited = limit.unit ~= 'request'
    if instant > now and (is_awaited or limit.amount ~= 0) then
      local slice = add_slice(counter, instant, limit.amount, is_awaited and limit.amount or 0, now)
      hold_slice(counter, slice, limit, limit.amount, step)
    end
  end
end
save_all(step)
call('HSET', KEYS[2], hold_id, pack(step.parts), LATEST, now)
keep_holds(latest, now)
return {1}
