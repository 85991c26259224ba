-- The holds, in KEYS[2], of processes that are gone: each is ended as if all it took had been used, since nobody can say
-- better any more. ARGV[3]: what the names of processes begin with. Returns {1, how many}.
local now, wall = instants(nil)
local step = {now = now, wall = wall}
local are_there = {}

local function is_there(process)
  if are_there[process] == nil then
    are_there[process] = call('EXISTS', ARGV[3] .. process) == 1
  end
  return are_there[process]
end

local ended = {}
local fields = call('HGETALL', KEYS[2])
for number = 1, #fields, 2 do
  local hold_id, record = fields[number], fields[number + 1]
  if hold_id ~= LATEST and record ~= '' then
    local parts = unpack_row(record)
    if not is_there(parts[1]) then
      end_hold(parts, nil, true)
      ended[#ended + 1] = hold_id
    end
  end
end
save_all(step)
for from = 1, #ended, FIELDS_AT_ONCE do
  call('HDEL', KEYS[2], unpack(ended, from, math.min(from + FIELDS_AT_ONCE - 1, #ended)))
end
return {1, #ended}
