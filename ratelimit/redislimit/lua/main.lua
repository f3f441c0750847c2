local spread, unpack, pack, sub, call = unpack, struct.unpack, struct.pack, string.sub, redis.call
local calls, keys = ARGV[1], KEYS
local now, slack = nil, 1000 -- slack: ms by which a TTL is longer than it has to be; a key that came and went with every call would cost more
if ARGV[2] then
  now, slack = tonumber(ARGV[2]), 3600000
else
  local time = call('TIME')
  now = time[1] * 1000000 + time[2]
end

-- States are by key, false where there is none; ttls are those of what was changed, false to let one be; changed are the keys, in the order of the
-- first change.
local states, ttls, changed = {}, {}, {}
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

-- The most frequent call, a Take of one unit of a bucket, is decided here where there is nothing unusual about it, all others by general.
local general
local pos, k = 1, 0
local TAKE_ONE = '\1\0\21' -- one op, no mode, its code
local limits = {} -- of such calls, by how they are packed

local answers = {pack('>I8', now)}
for n = 2, 1000000 do
  if pos > #calls then
    break
  end
  local found
  local packed = sub(calls, pos, pos + 30)
  local l = limits[packed]
  if not l and sub(packed, 1, 3) == TAKE_ONE then
    local per, rate, _, full, fullfrac = unpack('>I8I4I4I8I4', packed, 4)
    l = {sub(packed, 4, 19), rate, full, fullfrac, (per - per % rate) / rate, per % rate}
    limits[packed] = l
  end
  if l then
    local key, full, rate = keys[k + 1], l[3], l[2]
    local state = states[key]
    local us, frac = 0, 0
    if state then
      if #state ~= 28 or sub(state, 1, 16) ~= l[1] then
        us = -1 -- another limit's, or it has reservations
      else
        us, frac = unpack('>I8I4', state, 17)
        us = us - now
        if us < 0 then
          us, frac = 0, 0
        elseif us > full then
          us = -1
        end
      end
    end
    if us >= 0 then
      pos, k = pos + 31, k + 1
      local to, tofrac = us + l[5], frac + l[6]
      if tofrac >= rate then
        to, tofrac = to + 1, tofrac - rate
      end
      if to > full or to == full and tofrac > l[4] then
        found = pack('>BI4I8I4', 0, 0, now + us, frac)
      else
        local due = pack('>I8I4', now + to, tofrac)
        found = '\1\0\0\0\1' .. due
        if ttls[key] == nil then
          changed[#changed + 1] = key
        end
        states[key], ttls[key] = l[1] .. due, (to + 1000 - (to + 1000) % 1000) / 1000 + slack
      end
    end
  end
  if not found then
    general = general or define(calls, keys, now, slack, states, ttls, changed)
    found, pos, k = general(pos, k)
  end
  answers[n] = found
end

for i = 1, #changed do
  local key = changed[i]
  local state, ttl = states[key], ttls[key]
  if not state then
    call('DEL', key)
  elseif ttl then
    call('PSETEX', key, ttl, state)
  else
    call('SET', key, state, 'KEEPTTL')
  end
end
return table.concat(answers)
