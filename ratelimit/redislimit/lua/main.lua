local spread, unpack, pack, sub, call = unpack, struct.unpack, struct.pack, string.sub, redis.call
local calls, keys = ARGV[1], KEYS
-- The time, and as it is answered. Keys outlive what they are for by 1 to 5 s: a key that came and went with every call would cost more, and so does
-- every change of a TTL.
local now, told, slack = nil, nil, 5000
if ARGV[2] then
  now, told, slack = tonumber(ARGV[2]), '0 ' .. ARGV[2] .. ' ', 3600000
else
  local time = call('TIME')
  now, told = time[1] * 1000000 + time[2], time[1] .. ' ' .. time[2] .. ' '
end

-- take decides the most frequent call, a Take of one unit of a bucket: from the state of the bucket, or from what is newer of it, the answer, what is
-- new of the state, and its TTL and the rest of it where these change. nil: there is something unusual about it.
local function take(now, slack, limit, per, rate, full, fullfrac, state, due)
  local us, frac, till = 0, 0, 0
  if state then
    if #state ~= 36 or string.sub(state, 1, 16) ~= limit then
      return nil -- it is another limit's, or has reservations
    end
    us, frac, till = struct.unpack('>I8I4I8', state, 17)
    if due then
      us, frac = struct.unpack('>I8I4', due)
    end
    us = us - now
    if us < 0 then
      us, frac = 0, 0
    elseif us > full then
      return nil
    end
  end
  local costfrac = per % rate
  local to, tofrac = us + (per - costfrac) / rate, frac + costfrac
  if tofrac >= rate then
    to, tofrac = to + 1, tofrac - rate
  end
  if to > full or to == full and tofrac > fullfrac then
    return struct.pack('>BI4I8I4', 0, 0, now + us, frac)
  end
  due = struct.pack('>I8I4', now + to, tofrac)
  if now + to + 1000000 <= till then
    return '\1\0\0\0\1' .. due, due
  end
  local ttl = (to + 1000 - (to + 1000) % 1000) / 1000 + slack
  return '\1\0\0\0\1' .. due, due, string.format('%d', ttl), struct.pack('>I8', now + ttl * 1000)
end

local TAKE_ONE = '\1\0\21' -- one op, no mode, its code
local limit, per, rate, full, fullfrac, _

-- One such call alone needs none of the tables.
if #calls == 31 and sub(calls, 1, 3) == TAKE_ONE then
  local key = keys[1]
  limit, per, rate, _, full, fullfrac = sub(calls, 4, 19), unpack('>I8I4I4I8I4', calls, 4)
  local state = redis.pcall('GET', key)
  if type(state) ~= 'table' then
    local found, due, ttl, till = take(now, slack, limit, per, rate, full, fullfrac, state)
    if ttl then
      call('PSETEX', key, ttl, limit .. due .. till)
    elseif due then
      call('SETRANGE', key, '16', due)
    end
    if found then
      return told .. found
    end
  end
end

-- By key: states, false where there is none; dues, what is new of the state of a bucket; and the TTLs of what else was changed, KEPT to let one be.
local states, dues, ttls, KEPT = {}, {}, {}, 'kept'
for from = 1, #keys, 1000 do
  local to = math.min(from + 999, #keys)
  local read = redis.pcall('MGET', spread(keys, from, to))
  if read.err then -- one has expired since the server looked where they are
    return {err = 'TRYAGAIN ' .. read.err}
  end
  for i = from, to do
    states[keys[i]] = read[i - from + 1]
  end
end

local answers = {told}
local general
local pos, k, head = 1, 0, nil
while pos <= #calls do
  local packed, found = sub(calls, pos, pos + 30), nil
  if packed ~= head and sub(packed, 1, 3) == TAKE_ONE then
    head, limit = packed, sub(packed, 4, 19)
    per, rate, _, full, fullfrac = unpack('>I8I4I4I8I4', packed, 4)
  end
  if packed == head then
    local key = keys[k + 1]
    local state, due, ttl, till = states[key], nil, nil, nil
    found, due, ttl, till = take(now, slack, limit, per, rate, full, fullfrac, state, dues[key])
    if found then
      pos, k = pos + 31, k + 1
    end
    if ttl then
      states[key], dues[key], ttls[key] = limit .. due .. till, nil, ttl
    elseif due and ttls[key] then
      states[key] = limit .. due .. sub(state, 29)
    elseif due then
      dues[key] = due
    end
  end
  if not found then -- general knows nothing of dues
    for key, due in pairs(dues) do
      states[key], dues[key], ttls[key] = sub(states[key], 1, 16) .. due .. sub(states[key], 29), nil, KEPT
    end
    general = general or define(calls, keys, now, slack, states, ttls, KEPT)
    found, pos, k = general(pos, k)
  end
  answers[#answers + 1] = found
end

for key, due in pairs(dues) do
  call('SETRANGE', key, '16', due)
end
for key, ttl in pairs(ttls) do
  local state = states[key]
  if not state then
    call('DEL', key)
  elseif ttl == KEPT then
    call('SET', key, state, 'KEEPTTL')
  else
    call('PSETEX', key, ttl, state)
  end
end
return table.concat(answers)
