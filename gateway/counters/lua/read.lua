-- How limits stand. ARGV[3]: JSON of them. Returns {1, then for each: settled, held, reset, 0}.
local now, wall = instants(call('HGET', KEYS[2], LATEST))
local step = {now = now, wall = wall}
local answer = {1}
read_rows(KEYS, 3)
for _, row in ipairs(cjson.decode(ARGV[3])) do
  tell(answer, state_of(limit_of(row), step))
end
return answer
