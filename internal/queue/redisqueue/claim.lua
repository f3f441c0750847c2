-- Moves up to n messages into the hands of a worker and renews its lease.
-- KEYS: ready list, back zset, held hash of the worker, leases zset, sequence. ARGV: worker, n, lease in ms.
-- Returns "id:attempts", body, "id:attempts", body, ...
-- A server at its maxmemory lets a script write only if its first write asks for no memory. This one changes nothing and asks
-- for nothing; without it a full server could not renew leases or be drained.
redis.call('ZREM', KEYS[2], '')

local n = tonumber(ARGV[2])
local out = {}

if n > 0 then
  for i, v in ipairs(redis.call('ZPOPMIN', KEYS[2], n)) do
    if i % 2 == 1 then -- members and scores take turns
      local id, attempts, at = string.match(v, '^(%d+):(%d+):()')
      out[#out + 1] = string.format('%s:%d', id, attempts + 1)
      out[#out + 1] = string.sub(v, at)
    end
  end
  local rest = n - #out / 2
  local fresh = rest > 0 and redis.call('LPOP', KEYS[1], rest)
  if fresh then
    -- Messages get their number when they are first claimed, which is in push order; so a push is a bare RPUSH.
    local id = redis.call('INCRBY', KEYS[5], #fresh) - #fresh
    local k = #out
    for i = 1, #fresh do
      out[k + 1] = string.format('%.0f:1', id + i)
      out[k + 2] = fresh[i]
      k = k + 2
    end
  end
  for i = 1, #out, 4000 do -- unpack is bounded by the stack of Lua, 8,000 slots
    redis.call('HSET', KEYS[3], unpack(out, i, math.min(i + 3999, #out)))
  end
end

-- Who holds nothing needs no lease: the polls of idle workers write nothing to the append-only file.
if #out > 0 or redis.call('EXISTS', KEYS[3]) == 1 then
  local t = redis.call('TIME')
  redis.call('ZADD', KEYS[4], t[1] * 1000 + math.floor(t[2] / 1000) + ARGV[3], ARGV[1])
end
return out
