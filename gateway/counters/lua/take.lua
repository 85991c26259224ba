-- Take one limit of every group, or nothing. Without a hold id (ARGV[3]) it only looks. ARGV[4]: JSON of the groups;
-- ARGV[5]: the process that asks.
-- Returns {1, then for each group: number of the limit taken, settled, held, reset, taken}; or
-- {0, number of the group that is told, settled, held, reset, wait or -1, whether only holds are in the way,
--  then the numbers of all groups without room}; or {-2} where the hold is open, {-3} where it ended before it began.
local hold_id = ARGV[3]
local is_preview = hold_id == ''
local latest
if not is_preview then
  local record
  record, latest = unpack(call('HMGET', KEYS[2], hold_id, LATEST))
  if record then
    return {record == '' and -3 or -2}
  end
end
local now, wall = instants(latest)
local groups = cjson.decode(ARGV[4])
read_rows(KEYS, 3)

local function take_each(step)
  local answer = {1}
  for number, group in ipairs(groups) do
    local state, chosen
    for choice, row in ipairs(group) do
      state, chosen = take_one(limit_of(row), step), choice
      if state then
        break
      end
    end
    if not state then
      return answer, number
    end
    answer[#answer + 1] = chosen
    tell(answer, state)
  end
  return answer, nil
end

-- How long until one limit of the group has room, told of its last one; nil if one has room now.
local function judge(group, number, step)
  local shortest, is_held, limit = INFINITE, false, nil
  for _, row in ipairs(group) do
    limit = limit_of(row)
    local wait, is_held_here = wait_of(limit, step)
    if not wait then
      return nil
    end
    shortest, is_held = math.min(shortest, wait), is_held or is_held_here
  end
  return {number = number, wait = shortest, is_held = is_held, state = state_of(limit, step)}
end

-- The first group without room is judged while the earlier ones still have theirs: they may share its counter.
local function judge_from(first, step)
  local verdicts = {judge(groups[first], first, step)}
  counters = {} -- what the earlier groups took was never written
  for number = first + 1, #groups do
    verdicts[#verdicts + 1] = judge(groups[number], number, step)
  end
  return verdicts
end

local function refusal(verdicts)
  local longest = verdicts[1]
  for _, verdict in ipairs(verdicts) do
    if verdict.wait > longest.wait then
      longest = verdict
    end
  end
  local wait = longest.wait == INFINITE and -1 or longest.wait
  local answer = {0, longest.number, told(longest.state[1]), told(longest.state[2]), longest.state[3], wait}
  answer[#answer + 1] = longest.is_held and 1 or 0
  for _, verdict in ipairs(verdicts) do
    answer[#answer + 1] = verdict.number
  end
  return answer
end

local function remember_refusal(group, step)
  for _, row in ipairs(group) do
    local limit = limit_of(row)
    local tally = limit.resume_below and counter_of(limit.key, limit.kind)
    if tally and tally.kind == 't' then
      tally.refused_at, tally.is_changed = limit.capacity, true
      if tally.is_new then
        tally.resets_us = limit.resets_us
      end
    end
  end
  save_all(step)
end

local step = {now = now, wall = wall, parts = {ARGV[5]}}
local answer, unsatisfied = take_each(step)
if unsatisfied then
  local verdicts = judge_from(unsatisfied, step)
  if not is_preview then
    remember_refusal(groups[unsatisfied], step)
  end
  return refusal(verdicts)
end
if not is_preview then
  save_all(step)
  call('HSET', KEYS[2], hold_id, pack(step.parts), LATEST, now)
  keep_holds(latest, now)
end
return answer
