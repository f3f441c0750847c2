-- Fixed windows and sliding counters.
local FIXED = 4 -- ratelimit.FixedWindow

-- advance brings a window up to date, and returns how much of it is over, and whether the clock was set back so far that all counts from now on.
local function advance(len, rate, algorithm, number, prev, cur)
  local elapsed = now % len
  local this = (now - elapsed) / len
  local gone, mended = this - number, false
  if gone == -1 then
    elapsed = 0
  elseif gone < 0 then
    number, mended = this, true
  elseif gone > 0 then
    if algorithm == FIXED then
      prev, cur = 0, max(0, cur - min(gone, 2) * rate)
    elseif gone == 1 then
      prev, cur = cur, 0
    else
      prev, cur = 0, 0
    end
    number = this
  end
  return number, prev, cur, elapsed, mended
end

local function used(len, prev, cur, elapsed)
  if prev == 0 then
    return cur
  end
  local whole, rest = muldiv(len - elapsed, prev, len)
  return cur + whole + (rest > 0 and 1 or 0)
end

local function adoptwindow(state, len, rate, algorithm, number, prev, cur)
  local oldlen, oldrate, oldalgorithm = unpack('>I8I4I4', state)
  if oldlen ~= len then
    local _, p, c, elapsed = advance(oldlen, oldrate, oldalgorithm, number, prev, cur)
    number, prev, cur = (now - now % len) / len, 0, used(oldlen, p, c, elapsed)
  end
  if algorithm == FIXED then
    prev = 0 -- it was a sliding counter's
  end
  return number, min(prev, rate), min(cur, rate)
end

return function(key, kind)
  local len, rate, algorithm, n, least, at, next = unpack('>I8I4I4I4I4i8', calls, pos)
  local limit = sub(calls, pos, pos + 15)
  pos = next
  local state, number, prev, cur, rest, elapsed = states[key], 0, 0, 0, '', nil
  if state and #state >= 32 then
    number, prev, cur = unpack('>I8I4I4', state, 17)
    if #state > 32 then
      rest = tail(state, 32)
    end
    if sub(state, 1, 16) ~= limit then
      number, prev, cur = adoptwindow(state, len, rate, algorithm, number, prev, cur)
    end
  end
  local mended
  number, prev, cur, elapsed, mended = advance(len, rate, algorithm, number, prev, cur)
  local ahead = now < number * len and 1 or 0
  local answer
  if kind == 3 then -- Return
    local when = (at - at % len) / len
    if when == number then
      cur = max(0, cur - n)
    elseif when == number - 1 then
      prev = max(0, prev - n)
    end
    answer = pack('>BI4I4I4B', 1, 0, cur, prev, ahead)
  elseif kind == 1 then -- Charge
    n = min(n, max(0, 2 * rate - cur))
    cur = cur + n
    answer = pack('>BI4I4I4B', 1, n, cur, prev, ahead)
  else
    local free = rate - used(len, prev, cur, elapsed)
    if least > 0 then
      n = max(least, min(n, free))
    end
    if n > free then
      answer = pack('>BI4I4I4B', 0, 0, cur, prev, ahead)
      if kind == 2 or not mended then
        return answer, false
      end
    else
      cur = cur + n
      answer = pack('>BI4I4I4B', 1, n, cur, prev, ahead)
      if kind == 2 then -- Peek
        return answer, true
      end
      if reserve and kind == 0 then
        rest = rest .. reservation(n, now)
      end
    end
  end
  local till = (number + 1) * len -- when nothing counts any more
  if cur > 0 then
    till = till + (algorithm == FIXED and (cur - 1 - (cur - 1) % rate) / rate * len or len)
  end
  return answer, byte(answer) == 1, limit .. pack('>I8I4I4', number, prev, cur) .. rest, millis(till - now)
end
