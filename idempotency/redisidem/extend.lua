-- KEYS[i]: records, see claim.lua. ARGV: afterlife in ms, then for each key: token, lease in us.
-- Answer, one for each key: 0 done, 1 lost.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local afterlife = tonumber(ARGV[1])
local answers = {}
for i, key in ipairs(KEYS) do
  local token, lease = tonumber(ARGV[2 * i]), tonumber(ARGV[2 * i + 1])
  answers[i] = 1
  local record = redis.call('GET', key)
  if record then
    local state, held, till, print = struct.unpack('>c1I8I8c32', record)
    if state == 'F' and held == token then
      redis.call('SET', key, struct.pack('>c1I8I8c32', 'F', held, now + lease, print) .. string.sub(record, 50),
        'PX', string.format('%.0f', math.ceil(lease / 1000) + afterlife))
      answers[i] = 0
    end
  end
end
return answers
