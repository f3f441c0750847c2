-- Token buckets and GCRA.
local function span(n, per, rate)
  return muldiv(per, n, rate)
end

local function units(us, frac, per, rate)
  local whole, rest = muldiv(us, rate, per)
  rest = rest + frac + per - 1
  return whole + (rest - rest % per) / per
end

-- twice tells whether a span is longer than two of another.
local function twice(us, frac, full, fullfrac, rate)
  local two, twofrac = 2 * full, 2 * fullfrac
  if twofrac >= rate then
    two, twofrac = two + 1, twofrac - rate
  end
  return us > two or us == two and frac > twofrac
end

-- adopt returns what is owed under a limit to the bucket of another one.
local function adopt(state, us, frac, per, rate, burst)
  local oldper, oldrate, oldburst = unpack('>I8I4I4', state)
  if oldper == per and oldrate == rate then
    return us, frac
  end
  local used, full, fullfrac = burst, span(oldburst, oldper, oldrate)
  if not twice(us, frac, full, fullfrac, oldrate) then
    used = min(burst, units(us, frac, oldper, oldrate))
  end
  return span(used, per, rate)
end

-- limits are those that were met in this run, by how they are packed: the part that a state keeps of one, its numbers, and the price of a unit.
local limits = {}

local function limitof(packed)
  local per, rate, burst, full, fullfrac = unpack('>I8I4I4I8I4', packed)
  local l = {sub(packed, 1, 16), per, rate, burst, full, fullfrac, (per - per % rate) / rate, per % rate}
  limits[packed] = l
  return l
end

-- owed packs what a bucket owes, with how long that is kept, and before its reservations.
local function owed(limit, us, frac, rest)
  local ttl = millis(us + 1)
  return limit .. pack('>BI8I4I8', 0, now + us, frac, now + ttl * 1000) .. rest, ttl
end

return function(key, kind)
  local packed = sub(calls, pos, pos + 27)
  local l = limits[packed] or limitof(packed)
  local limit, per, rate, burst, full, fullfrac, cost, costfrac = spread(l)
  local n, least, ahead = 1, 0, 0
  if kind == 5 then -- Take of one unit, as most are
    pos, kind = pos + 28, 0
  else
    cost, costfrac, n, least, ahead, pos = unpack('>I8I4I4I4I8', calls, pos + 28)
  end
  local state, us, frac, rest, mended = states[key], 0, 0, '', false
  if state and #state >= 37 then
    local due, duefrac = unpack('>I8I4', state, 18)
    if #state > 37 then
      rest = tail(state, 37)
    end
    if due >= now then
      us, frac = due - now, duefrac
      if sub(state, 1, 16) ~= limit then
        us, frac = adopt(state, us, frac, per, rate, burst)
      end
      if us >= 2 * full and twice(us, frac, full, fullfrac, rate) then
        us, frac, mended = full, fullfrac, true
      end
    end
  end
  if kind == 3 then -- Return
    if ahead > 0 then -- when the bucket was to be full: see plan.before
      local behind = max(0, now + us + (frac > 0 and 1 or 0) - ahead)
      local most, mostfrac = us, frac
      if us > full or us == full and frac > fullfrac then
        most, mostfrac = full, fullfrac
      end
      if most < behind then
        cost, costfrac = 0, 0
      elseif cost > most - behind or cost == most - behind and costfrac > mostfrac then
        cost, costfrac = most - behind, mostfrac
      end
    end
    us, frac, n = us - cost, frac - costfrac, 0
    if frac < 0 then
      us, frac = us - 1, frac + rate
    end
    if us < 0 then
      us, frac = 0, 0
    end
  else
    if kind == 1 then -- Charge
      n = min(n, max(0, 2 * burst - units(us, frac, per, rate)))
      cost, costfrac = span(n, per, rate)
    elseif least > 0 then
      n = max(least, min(n, burst - units(us, frac, per, rate)))
      cost, costfrac = span(n, per, rate)
    end
    local to, tofrac = us + cost, frac + costfrac
    if tofrac >= rate then
      to, tofrac = to + 1, tofrac - rate
    end
    if kind ~= 1 then
      local refused = n > burst
      if not refused and (to > full or to == full and tofrac > fullfrac) then
        local wait = to - full
        if tofrac > fullfrac then
          wait = wait + 1
        end
        refused = wait > ahead or twice(to, tofrac, full, fullfrac, rate)
      end
      if refused then
        local answer = pack('>BI4I8I4', 0, 0, now + us, frac)
        if kind == 0 and mended then -- the clock was set back: the bucket is to be full a refill from now, not when the clock is back
          return answer, false, owed(limit, us, frac, rest)
        end
        return answer, false
      end
      if kind == 2 then -- Peek
        return pack('>BI4I8I4', 1, n, now + to, tofrac), true
      end
    end
    us, frac = to, tofrac
  end
  if reserve and kind == 0 then
    rest = rest .. reservation(n, now + us + (frac > 0 and 1 or 0))
  end
  return pack('>BI4I8I4', 1, n, now + us, frac), true, owed(limit, us, frac, rest)
end
