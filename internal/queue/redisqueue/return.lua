-- Gives back what the worker still holds of the named claims.
-- KEYS: held hash of the worker, back zset. ARGV: "id:attempts", ...
-- A server at its maxmemory lets a script write only if its first write asks for no memory. This one changes nothing and asks
-- for nothing; without it a full server could not take messages back.
redis.call('ZREM', KEYS[2], '')

for i = 1, #ARGV, 1000 do
  local claims = {unpack(ARGV, i, math.min(i + 999, #ARGV))}
  local bodies = redis.call('HMGET', KEYS[1], unpack(claims))
  for j, body in ipairs(bodies) do
    if body then
      -- The member is added before the field is removed: an error in between doubles a message and loses none.
      redis.call('ZADD', KEYS[2], string.match(claims[j], '^%d+'), claims[j] .. ':' .. body)
      redis.call('HDEL', KEYS[1], claims[j])
    end
  end
end
