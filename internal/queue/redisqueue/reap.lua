-- Gives back all that a worker holds if its lease has run out, and returns how many messages.
-- KEYS: leases zset, held hash of the worker, back zset. ARGV: worker.
--
-- The lease is looked at again: since the worker was found dead it may have claimed and be alive, or another reaper may have
-- been here and the name be new.
local lease = redis.call('ZSCORE', KEYS[1], ARGV[1])
local t = redis.call('TIME')
if not lease or tonumber(lease) > t[1] * 1000 + math.floor(t[2] / 1000) then
  return 0
end
-- A server at its maxmemory lets a script write only if its first write asks for no memory. This one changes nothing and asks
-- for nothing; without it a full server could not take messages back.
redis.call('ZREM', KEYS[3], '')
local held = redis.call('HGETALL', KEYS[2])
for i = 1, #held, 2 do
  redis.call('ZADD', KEYS[3], string.match(held[i], '^%d+'), held[i] .. ':' .. held[i + 1])
end
redis.call('DEL', KEYS[2])
redis.call('ZREM', KEYS[1], ARGV[1])
return #held / 2
