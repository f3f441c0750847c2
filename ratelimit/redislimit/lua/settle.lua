-- What was decided on reservations is carried out at each counter.
if not score then
  sets()
end

-- settlestring removes a reservation from a state, and gives back what it has charged if that is to be.
local function settlestring(key, size, name, give)
  local state = states[key]
  local from = size + 1
  while state and from <= #state do
    local _, _, n, at, len, next = unpack(TAIL, state, from)
    if sub(state, next, next + len - 1) == name then
      local own = sub(state, 1, size)
      if give and size == 37 then
        local per, rate, _, _, us, frac = unpack('>I8I4I4BI8I4', state)
        local cost, costfrac = muldiv(per, n, rate)
        if at - now < cost then -- the rest has come back by itself, and may be others' by now
          cost, costfrac = max(0, at - now), 0
        end
        us, frac = us - cost, frac - costfrac
        if frac < 0 then
          us, frac = us - 1, frac + rate
        end
        own = sub(state, 1, 17) .. pack('>I8I4', max(0, us), us < 0 and 0 or frac) .. sub(state, 30, 37)
      elseif give then
        local length, _, _, number, prev, cur = unpack('>I8I4I4I8I4I4', state)
        local when = (at - at % length) / length
        if when == number then
          cur = max(0, cur - n)
        elseif when == number - 1 then
          prev = max(0, prev - n)
        end
        own = sub(state, 1, 16) .. pack('>I8I4I4', number, prev, cur)
      end
      write(key, own .. sub(state, size + 1, from - 1) .. sub(state, next + len), ttls[key])
      return
    end
    from = next + len
  end
end

local function settleset(key, holding, name, give)
  local pending = redis.pcall('ZRANGEBYSCORE', key, PENDING, PENDING)
  if moved(pending) then -- there is nothing left of it
    return
  end
  for _, member in ipairs(pending) do
    local _, _, n, at, len, next = unpack(TAIL, member)
    if sub(member, next, next + len - 1) == name then
      if give and holding then
        drop(key, -(call('ZSCORE', key, '') or 0), sub(member, next + len))
      elseif give then
        giveback(key, at, n)
      end
      call('ZREM', key, member)
      return
    end
  end
end

-- settle carries out a decision at a counter: 'c' for committed, 'a' for aborted.
return function(key)
  local what, class, name, next = unpack('>c1c1I2c0', calls, pos)
  pos = next
  return nil, true, function()
    local give = what == 'a'
    if class == 'b' or class == 'w' then
      settlestring(key, class == 'b' and 37 or 32, name, give)
    else
      settleset(key, class == 'c', name, give)
    end
    return 's'
  end
end
