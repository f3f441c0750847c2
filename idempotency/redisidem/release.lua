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
    if state ~= 'C' and held == token then
      -- Not deleted, so that the next token grows from this one: the record becomes an abandoned claim with the token
      -- after the owner's, which nobody was ever given.
      local head, life = struct.pack('>c1I8I8c32', 'F', held + 1, now, print), tonumber(ARGV[1])
      if state == 'S' then
        local kept, _, from = struct.unpack('>I8I4c0', record, 50)
        head = struct.pack('>c1I8I8c32I8I4', 'S', held + 1, now, print, kept, 0) .. string.sub(record, from)
        life = math.max(life, math.ceil((kept - now) / 1000))
      end
      redis.call('SET', key, head, 'PX', string.format('%.0f', life))
      answers[i] = 0
    end
  end
end
return answers
