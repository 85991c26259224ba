-- Fill a window, KEYS[3], anew. ARGV[3]: JSON of [its microseconds, capacity, unit]; ARGV[4]: JSON of [age in microseconds,
-- units], of units above 0. Returns {1}, or {-5} where the counter is no window.
read_rows(KEYS, 3)
local window = counter_of(KEYS[3], 'r')
if window.kind ~= 'w' then
  return {-5}
end
local now, wall = instants(call('HGET', KEYS[2], LATEST))
local window_us, capacity, unit = unpack(cjson.decode(ARGV[3]))
capacity = int(capacity)

forget_all(window)
local slices = {}
for number, admitted in ipairs(cjson.decode(ARGV[4])) do
  slices[number] = {leaves_at(now - math.max(0, admitted[1]), window_us, capacity, unit), int(admitted[2])}
end
table.sort(slices, function(a, b) return a[1] < b[1] end)
for _, slice in ipairs(slices) do
  if slice[1] > now then
    add_slice(window, slice[1], slice[2], 0, now)
  end
end
save_window(window, now)
return {1}
