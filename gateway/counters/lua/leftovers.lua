-- The holds, in KEYS[2], of processes that are gone. ARGV[3]: what the names of processes begin with. Returns {1, then for
-- each: its id, and 1 where it took credits alone, as what takes credits away does without a call}.
local are_there = {}

local function is_there(process)
  if are_there[process] == nil then
    are_there[process] = call('EXISTS', ARGV[3] .. process) == 1
  end
  return are_there[process]
end

local function is_of_credits(parts)
  for number = 2, #parts do -- the first says whose hold it is
    if parts[number][4] ~= 'credit' then
      return false
    end
  end
  return #parts > 1
end

local answer = {1}
local fields = call('HGETALL', KEYS[2])
for number = 1, #fields, 2 do
  local hold_id, record = fields[number], fields[number + 1]
  if hold_id ~= LATEST and record ~= '' then
    local parts = unpack_row(record)
    if not is_there(parts[1]) then
      answer[#answer + 1] = hold_id
      answer[#answer + 1] = is_of_credits(parts) and 1 or 0
    end
  end
end
return answer
