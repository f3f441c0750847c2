-- KEYS[i]: records. ARGV: nonce, afterlife in ms, then for each key: fingerprint, lease in us.
-- Record, a string that expires: state 'F' (in flight) or 'C' (completed), token, end of the lease in us, fingerprint;
-- then for 'F' the nonce of the claim, for 'C' the status and the response.
-- Answer, one for each key: {1, token} won, {2, status, response} completed, {3, us left} in flight, {4} mismatch.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local afterlife = tonumber(ARGV[2])
local answers = {}
for i, key in ipairs(KEYS) do
  local print, lease = ARGV[2 * i + 1], tonumber(ARGV[2 * i + 2])
  local nonce = ARGV[1] .. i
  local token = now
  local answer
  local record = redis.call('GET', key)
  if record then
    local state, held, till, was = struct.unpack('>c1I8I8c32', record)
    if state == 'F' and till <= now then
      -- Abandoned or released: the next token, even if the clock was set back.
      token = math.max(now, held + 1)
    elseif was ~= print then
      answer = {4}
    elseif state == 'C' then
      answer = {2, (struct.unpack('>i4', record, 50)), string.sub(record, 54)}
    elseif string.sub(record, 50) == nonce then
      -- This very call has come before and its reply was lost: the client that sends it again is the owner.
      answer = {1, held}
    else
      answer = {3, till - now}
    end
  end
  if not answer then
    redis.call('SET', key, struct.pack('>c1I8I8c32', 'F', token, now + lease, print) .. nonce,
      'PX', string.format('%.0f', math.ceil(lease / 1000) + afterlife))
    answer = {1, token}
  end
  answers[i] = answer
end
return answers
