-- KEYS[i]: records, see claim.lua. ARGV for each key: token, TTL in ms, status, response.
-- Answer, one for each key: 0 done, 1 lost.
local answers = {}
for i, key in ipairs(KEYS) do
  local token, ttl, status, response =
    tonumber(ARGV[4 * i - 3]), ARGV[4 * i - 2], tonumber(ARGV[4 * i - 1]), ARGV[4 * i]
  answers[i] = 1
  local record = redis.call('GET', key)
  if record then
    local state, held, till, print = struct.unpack('>c1I8I8c32', record)
    if held == token then
      answers[i] = 0
      if state ~= 'C' then
        redis.call('SET', key, struct.pack('>c1I8I8c32i4', 'C', held, till, print, status) .. response, 'PX', ttl)
      end
    end
  end
end
return answers
