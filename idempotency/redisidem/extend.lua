-- KEYS[i]: records, see claim.lua. ARGV: afterlife in ms, then for each key: token, lease in us, the step's name or '', its
-- result, how long to keep it in us.
-- Answer, one for each key: 0 done, 1 lost.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local afterlife = tonumber(ARGV[1])

local function has(list, name)
  local at = 1
  while at <= #list do
    local one, _
    one, _, at = struct.unpack('>I4c0I4c0', list, at)
    if one == name then
      return true
    end
  end
  return false
end

local answers = {}
for i, key in ipairs(KEYS) do
  local at = 5 * i - 3
  local token, lease, name, result, keep =
    tonumber(ARGV[at]), tonumber(ARGV[at + 1]), ARGV[at + 2], ARGV[at + 3], tonumber(ARGV[at + 4])
  answers[i] = 1
  local record = redis.call('GET', key)
  if record then
    local state, held, till, print = struct.unpack('>c1I8I8c32', record)
    if state ~= 'C' and held == token then
      local kept, nonce, list = 0, string.sub(record, 50), ''
      if state == 'S' then
        local from
        kept, nonce, from = struct.unpack('>I8I4c0', record, 50)
        list = string.sub(record, from)
      end
      if name ~= '' then
        kept = math.max(kept, now + keep)
        if not has(list, name) then
          list = list .. struct.pack('>I4', #name) .. name .. struct.pack('>I4', #result) .. result
        end
      end
      local head = struct.pack('>c1I8I8c32', 'F', held, now + lease, print)
      if list ~= '' then
        head = struct.pack('>c1I8I8c32I8I4', 'S', held, now + lease, print, kept, #nonce)
      end
      redis.call('SET', key, head .. nonce .. list,
        'PX', string.format('%.0f', math.max(math.ceil(lease / 1000) + afterlife, math.ceil((kept - now) / 1000))))
      answers[i] = 0
    end
  end
end
return answers
