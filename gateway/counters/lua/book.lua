-- Change what is settled on a tally, KEYS[3]. ARGV[3]: 'add' or 'set'; ARGV[4]: how much; ARGV[5]: the microsecond at which
-- its period ends, 0 for a balance, or empty to leave that; ARGV[6]: '1' if it is to refuse as it did before (when set).
-- Returns {1}, or {-4} where the counter settles nothing.
read_rows(KEYS, 3)
local tally = counter_of(KEYS[3], 'c')
if tally.kind ~= 't' then
  return {-4}
end
local _, wall = instants(nil)
local units = int(ARGV[4])
if ARGV[3] == 'set' then
  units = sub(units, tally.settled)
  tally.refused_at = ARGV[6] == '1' and REFUSED_BEFORE or nil
end
book(tally, units)
if ARGV[5] ~= '' then
  tally.resets_us = tonumber(ARGV[5])
end
save_tally(tally, wall)
return {1}
