-- End a hold (ARGV[3]), exactly once. ARGV[4]: JSON of what was used by unit, else 'released'; or 'abandoned': whoever
-- took it does not know whether it was, so that it must not be taken afterwards either. Returns {1} if it was open.
local hold_id, how = ARGV[3], ARGV[4]
local record = call('HGET', KEYS[2], hold_id)
if not record or record == '' then
  if not record and how == 'abandoned' then
    call('HSET', KEYS[2], hold_id, '')
    call('PEXPIRE', KEYS[2], HOLDS_KEPT_MS)
  end
  return {0}
end
local now, wall = instants(nil)
local step = {now = now, wall = wall}
local actuals = string.sub(how, 1, 1) == '{' and cjson.decode(how) or nil
end_hold(unpack_row(record), actuals, how ~= 'released' and how ~= 'abandoned')
save_all(step)
if how == 'abandoned' then
  call('HSET', KEYS[2], hold_id, '')
else
  call('HDEL', KEYS[2], hold_id)
end
return {1}
