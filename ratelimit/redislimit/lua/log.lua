-- Sliding logs.
if not score then
  sets()
end

-- entries returns the time that the log goes by, the sums before its first entry that counts and with its last, when that was, and whether the
-- clock was set back so far that all counts from now on. from is what is over.
local function entries(key, len)
  local member, at = last(key)
  if not member then
    return {at = now, base = 0, sum = 0}
  end
  local _, sum = unpack('>I8I8', member)
  local l = {at = max(now, at), last = at, sum = sum, member = member}
  if at - now > len then
    local first = call('ZRANGE', key, 0, 0)[1]
    return {at = now, last = now, base = 0, sum = sum - unpack('>I8I8', first), collapsed = true}
  end
  l.from = score(l.at - len)
  local first = call('ZRANGEBYSCORE', key, '(' .. l.from, UNTIL_PENDING, 'WITHSCORES', 'LIMIT', 0, 1)
  if not first[1] then
    return {at = now, base = 0, sum = 0, from = l.from}
  end
  l.base, l.first, l.firstat = unpack('>I8', first[1]), first[1], tonumber(first[2])
  return l
end

-- enough is when enough of a log has run out for so many units.
local function enough(key, l, missing)
  if l.collapsed then
    return now
  end
  local _, sum = unpack('>I8I8', l.first)
  if sum - l.base >= missing then
    return l.firstat
  end
  local lo = call('ZCOUNT', key, '-inf', l.from) + 1
  local hi = call('ZCOUNT', key, '-inf', UNTIL_PENDING) - 1
  while lo < hi do
    local mid = (lo + hi - (lo + hi) % 2) / 2
    _, sum = unpack('>I8I8', call('ZRANGE', key, mid, mid)[1])
    if sum - l.base >= missing then
      hi = mid
    else
      lo = mid + 1
    end
  end
  return tonumber(call('ZRANGE', key, lo, lo, 'WITHSCORES')[2])
end

-- collapse puts all to now, where entries has found that it is to be.
local function collapse(key, l)
  if l.collapsed then
    call('ZREMRANGEBYSCORE', key, '-inf', score(now))
    l.member = pack('>I8I8', 0, l.sum)
    call('ZADD', key, score(now), l.member)
    call('ZREMRANGEBYSCORE', key, '(' .. score(now), UNTIL_PENDING)
  end
end

-- forget removes what is over.
local function forget(key, l)
  if l.from then
    call('ZREMRANGEBYSCORE', key, '-inf', l.from)
  end
end

local function push(key, l, n)
  local before, same = l.sum, l.last == l.at and l.member
  if same then
    before = unpack('>I8', same)
  end
  l.sum, l.last = l.sum + n, l.at
  call('ZADD', key, score(l.at), pack('>I8I8', before, l.sum))
  if same then
    call('ZREM', key, same)
  end
end

local function logged(l, charged, allowed, wait)
  return pack('>BI4I8I4I8I8', allowed, charged, l.at, l.sum - l.base, l.last or 0, wait or 0)
end

return function(key, kind)
  local len, rate, n, least, at, next = unpack('>I8I4I4I4i8', calls, pos)
  pos = next
  local l = entries(key, len)
  local free = rate - (l.sum - l.base)
  if kind == 3 then -- Return
    return nil, true, function()
      collapse(key, l)
      forget(key, l)
      local given = l.last and giveback(key, at, n) or 0
      if given > 0 then
        l.sum = l.sum - given
        local _, left = last(key, true)
        l.last = left
      end
      if l.last then
        call('PEXPIRE', key, millis(l.last + len - now))
      end
      return logged(l, 0, 1)
    end
  end
  if kind == 1 then -- Charge
    n = min(n, max(0, 2 * rate - (l.sum - l.base)))
  elseif least > 0 then
    n = max(least, min(n, free))
  end
  if kind ~= 1 and n > free then
    local answer = logged(l, 0, 0, n <= rate and enough(key, l, n - free))
    if kind == 2 or not l.collapsed then
      return answer, false
    end
    return answer, false, function()
      collapse(key, l)
      call('PEXPIRE', key, millis(len))
    end
  end
  if kind == 2 then -- Peek
    return logged(l, 0, 1), true
  end
  return logged(l, 0, 1), true, function()
    collapse(key, l)
    if n > 0 then
      push(key, l, n)
    end
    if reserve and kind == 0 then
      call('ZADD', key, PENDING, reservation(n, l.at))
    end
    forget(key, l)
    if l.last then
      call('PEXPIRE', key, millis(l.last + len - now))
    end
    return logged(l, n, 1)
  end
end
