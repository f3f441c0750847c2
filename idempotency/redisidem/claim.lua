-- KEYS[i]: records. ARGV: nonce, afterlife in ms, then for each key: fingerprint, lease in us.
-- Record, a string that expires: state, token, end of the lease in us, fingerprint; then
--   for 'F', in flight: the nonce of the claim
--   for 'S', in flight with steps: until when they are kept in us, the nonce after its length, and each step: name and
--     result, both after their length
--   for 'C', completed: the status and the response.
-- Answer, one for each key: {1, token, name, result, …} won, {2, status, response} completed, {3, us left} in flight,
-- {4} mismatch.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local afterlife = tonumber(ARGV[2])

-- steps returns until when the steps of a record are kept, the nonce before them, and where they begin.
local function steps(record, state)
  if state == 'S' then
    return struct.unpack('>I8I4c0', record, 50)
  end
  return 0, string.sub(record, 50)
end

local function won(token, record, from)
  local answer = {1, token}
  while from and from <= #record do
    local name, result
    name, result, from = struct.unpack('>I4c0I4c0', record, from)
    answer[#answer + 1] = name
    answer[#answer + 1] = result
  end
  return answer
end

local answers = {}
for i, key in ipairs(KEYS) do
  local print, lease = ARGV[2 * i + 1], tonumber(ARGV[2 * i + 2])
  local nonce = ARGV[1] .. i
  local token, kept, from = now, 0, nil
  local answer
  local record = redis.call('GET', key)
  if record then
    local state, held, till, was = struct.unpack('>c1I8I8c32', record)
    local mine
    if state ~= 'C' then
      kept, mine, from = steps(record, state)
    end
    if state ~= 'C' and till <= now and (was == print or kept <= now) then
      -- Abandoned or released: the next token, even if the clock was set back.
      token = math.max(now, held + 1)
    elseif was ~= print then
      answer = {4}
    elseif state == 'C' then
      answer = {2, (struct.unpack('>i4', record, 50)), string.sub(record, 54)}
    elseif mine == nonce then
      -- This very call has come before and its reply was lost: the client that sends it again is the owner.
      answer = won(held, record, from)
    else
      answer = {3, till - now}
    end
  end
  if not answer then
    local life = math.ceil(lease / 1000) + afterlife
    if kept > now then
      local list = string.sub(record, from)
      redis.call('SET', key, struct.pack('>c1I8I8c32I8I4', 'S', token, now + lease, print, kept, #nonce) .. nonce .. list,
        'PX', string.format('%.0f', math.max(life, math.ceil((kept - now) / 1000))))
      answer = won(token, list, 1)
    else
      redis.call('SET', key, struct.pack('>c1I8I8c32', 'F', token, now + lease, print) .. nonce,
        'PX', string.format('%.0f', life))
      answer = {1, token}
    end
  end
  answers[i] = answer
end
return answers
