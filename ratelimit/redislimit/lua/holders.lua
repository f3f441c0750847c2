-- Concurrency limits.
if not score then
  sets()
end

-- expire forgets the leases that are over.
local function expire(key, extra)
  if extra > 0 then
    for _, member in ipairs(call('ZRANGEBYSCORE', key, 0, score(now))) do
      extra = drop(key, extra, sub(member, 2))
    end
  else
    call('ZREMRANGEBYSCORE', key, 0, score(now))
  end
  return extra
end

local function shown(key, allowed, charged, used, wait, written)
  local _, till = last(key, written)
  return pack('>BI4I4I8I8', allowed, charged, used, max(0, till or 0), wait or 0)
end

-- room is when enough leases are over for so many units.
local function room(key, extra, missing)
  if extra == 0 then
    local i = call('ZCOUNT', key, '-inf', score(now)) + missing - 1
    return tonumber(call('ZRANGE', key, i, i, 'WITHSCORES')[2])
  end
  local list = call('ZRANGEBYSCORE', key, '(' .. score(now), UNTIL_PENDING, 'WITHSCORES')
  local i = 1
  while true do
    missing = missing - sizeof(key, extra, sub(list[i], 2))
    if missing <= 0 then
      return tonumber(list[i + 1])
    end
    i = i + 2
  end
end

return function(key, kind, several)
  local len, rate, n, holder, next = unpack('>I8I4I4I2c0', calls, pos)
  pos = next
  last(key) -- for its reservations
  if blocked == MOVED then
    return '', false
  end
  local extra = -(call('ZSCORE', key, '') or 0)
  local used = call('ZCOUNT', key, '(' .. score(now), UNTIL_PENDING) + extra
  if extra > 0 then
    for _, member in ipairs(call('ZRANGEBYSCORE', key, 0, score(now))) do
      used = used - (sizeof(key, extra, sub(member, 2)) - 1)
    end
  end
  if kind == 3 then -- Return
    return nil, true, function()
      local till = call('ZSCORE', key, 'L' .. holder)
      if till and tonumber(till) > now then
        used = used - sizeof(key, extra, holder)
        call('ZADD', key, score(now), 'L' .. holder)
      end
      expire(key, extra)
      return shown(key, 1, 0, used, nil, true)
    end
  end
  local mine = kind == 0 and call('ZSCORE', key, 'L' .. holder)
  mine = mine and tonumber(mine) > now
  if used + n > rate and (several or not mine) then
    return shown(key, 0, 0, used, n <= rate and room(key, extra, used + n - rate)), false
  end
  if kind == 2 then -- Peek
    return shown(key, 1, 0, used), true
  end
  return shown(key, 1, 0, used), true, function()
    call('ZADD', key, score(now + len), 'L' .. holder)
    if extra > 0 and not mine then
      extra = shrink(key, extra, holder) -- of a lease that was over
    end
    extra = expire(key, extra)
    local _, till = last(key)
    call('PEXPIRE', key, millis(till - now))
    if mine then
      return shown(key, 1, 0, used)
    end
    if n > 1 then
      call('ZADD', key, -n, 'N' .. holder)
      setextra(key, extra + n - 1)
    end
    if reserve then
      call('ZADD', key, PENDING, reservation(n, now) .. holder)
    end
    return shown(key, 1, n, used + n)
  end
end
