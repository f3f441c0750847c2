-- KEYS[i]: records, see claim.lua. ARGV: afterlife in ms, then for each key: token.
-- Answer, one for each key: 0 done, 1 lost.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local answers = {}
for i, key in ipairs(KEYS) do
  local token = tonumber(ARGV[i + 1])
  answers[i] = 1
  local record = redis.call('GET', key)
  if record then
    local state, held, till, print = struct.unpack('>c1I8I8c32', record)
    if state == 'F' and held == token then
      -- Not deleted, so that the next token grows from this one: the record becomes an abandoned claim with the token
      -- after the owner's, which nobody was ever given.
      redis.call('SET', key, struct.pack('>c1I8I8c32', 'F', held + 1, now, print), 'PX', ARGV[1])
      answers[i] = 0
    end
  end
end
return answers
