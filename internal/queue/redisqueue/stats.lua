-- Counts the messages that wait and those in the hands of workers, at one instant. KEYS: ready list, back zset, leases zset. ARGV: prefix of the
-- held hashes, which are in the same slot.
local claimed = 0
for _, worker in ipairs(redis.call('ZRANGE', KEYS[3], 0, -1)) do
  claimed = claimed + redis.call('HLEN', ARGV[1] .. worker)
end
return {redis.call('LLEN', KEYS[1]) + redis.call('ZCARD', KEYS[2]), claimed}
