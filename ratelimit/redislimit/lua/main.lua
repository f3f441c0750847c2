local spread, unpack, pack, sub, byte, call = unpack, struct.unpack, struct.pack, string.sub, string.byte, redis.call
local calls, keys = ARGV[1], KEYS
-- The time, and as it is answered. Keys outlive what they are for by 1 s: one that came and went with every call would cost more. Buckets that are in use
-- do by 1 to 16 s, since every change of a TTL costs too.
local now, told, slack, inuse = nil, nil, 1000, 16000
if ARGV[2] then
  now, told, slack, inuse = tonumber(ARGV[2]), '0 ' .. ARGV[2] .. ' ', 3600000, 3600000
else
  local time = call('TIME')
  now, told = time[1] * 1000000 + time[2], time[1] .. ' ' .. time[2] .. ' '
end

-- missing ends the answer where a key has expired since the server looked in which slot they are, and that one migrates. An error would say that nothing
-- was done.
local function missing(answers, err)
  if answers[2] then
    return table.concat(answers)
  end
  return {err = 'TRYAGAIN ' .. err}
end

-- Takes of one unit of a bucket, as most calls are, come first: of each limit so many keys, and how often each is taken from. There is nothing to be
-- found out before others are written, so each is written at once: 13 bytes of the state where the rest will do.
local answers = {told}
local pos, k = 2, 0
for _ = 1, byte(calls) do
  local limit, per, rate, _, full, fullfrac, n = sub(calls, pos, pos + 15), unpack('>I8I4I4I8I4I2', calls, pos)
  local costfrac = per % rate
  local cost = (per - costfrac) / rate
  local read = redis.pcall('MGET', spread(keys, k + 1, k + n))
  if read.err then
    return missing(answers, read.err)
  end
  pos = pos + 29
  for i = 1, n do
    local state, us, frac, till = read[i], 0, 0, 0
    if state then
      if #state == 37 and sub(state, 1, 16) == limit then
        us, frac, till = unpack('>I8I4I8', state, 18)
        us = us - now
        if us < 0 then
          us, frac = 0, 0
        end
      else
        us = full + 1
      end
    end
    if us > full then -- another limit's, or with reservations, or the clock was set back: not for here, nor what comes behind
      return table.concat(answers)
    end
    local times, taken = byte(calls, pos + i), 0
    while taken < times do
      local to, tofrac = us + cost, frac + costfrac
      if tofrac >= rate then
        to, tofrac = to + 1, tofrac - rate
      end
      if to > full or to == full and tofrac > fullfrac then
        break
      end
      us, frac, taken = to, tofrac, taken + 1
    end
    local found = pack('>BI8I4', taken, now + us, frac)
    answers[#answers + 1] = found
    if taken > 0 and now + us + 1000000 <= till then
      call('SETRANGE', keys[k + i], '16', found)
    elseif taken > 0 then
      local ttl = (us + 1000 - (us + 1000) % 1000) / 1000 + (state and inuse or slack)
      call('PSETEX', keys[k + i], string.format('%d', ttl), limit .. found .. pack('>I8', now + ttl * 1000))
    end
  end
  pos, k = pos + 1 + n, k + n
end
if k == #keys then
  return table.concat(answers)
end

-- The others. By key: states, false where there is none; and the TTLs of those that were changed, KEPT to let one be.
local states, ttls, KEPT = {}, {}, 'kept'
for from = k + 1, #keys, 1000 do
  local to = math.min(from + 999, #keys)
  local read = redis.pcall('MGET', spread(keys, from, to))
  if read.err then
    return missing(answers, read.err)
  end
  for i = from, to do
    states[keys[i]] = read[i - from + 1]
  end
end

local general = define(calls, keys, now, slack, states, ttls, KEPT)
while pos <= #calls do
  answers[#answers + 1], pos, k = general(pos, k)
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
