-- What logs, holders and decisions need of sorted sets, defined when one of them is first needed.
local score, moved, last, giveback, sizeof, setextra, shrink, drop

local function sets()
  function score(x)
    return string.format('%.0f', x)
  end

  -- moved tells whether a command failed since the key is another master's.
  function moved(reply)
    return type(reply) == 'table' and reply.err and string.find(reply.err, 'non local key', 1, true)
  end

  -- pending looks at the reservations in a set, the oldest first.
  local function pending(key)
    for _, member in ipairs(call('ZRANGEBYSCORE', key, PENDING, PENDING)) do
      local till, expiry, _, _, len, next = unpack(TAIL, member)
      if expiry <= now then
        call('ZREM', key, member)
      elseif till <= now and not force then
        blocked = sub(member, next, next + len - 1)
        return
      end
    end
  end

  -- last returns the last entry of a set whose score is below that of reservations, if need be after a look at those. written: the call itself may
  -- have emptied the set.
  function last(key, written)
    local r = redis.pcall('ZRANGE', key, -1, -1, 'WITHSCORES')
    if moved(r) then
      if not written then
        blocked = MOVED
      end
      return nil
    end
    if r.err then -- another type: not ours
      call('DEL', key)
      return nil
    end
    if r[2] and tonumber(r[2]) >= PENDING then
      pending(key)
      r = redis.pcall('ZREVRANGEBYSCORE', key, UNTIL_PENDING, '-inf', 'WITHSCORES', 'LIMIT', 0, 1)
      if moved(r) then
        blocked = MOVED
        return nil
      end
    end
    return r[1], tonumber(r[2])
  end

  -- giveback takes n units out of the entry of a time, if it still is there: all that follow are written anew, some hundreds at a time.
  function giveback(key, at, n)
    local list = call('ZRANGEBYSCORE', key, score(at), UNTIL_PENDING, 'WITHSCORES')
    if tonumber(list[2]) ~= at then
      return 0
    end
    local before, sum = unpack('>I8I8', list[1])
    n = min(n, sum - before)
    for from = 1, #list, 1000 do
      local old, new, kept = {}, {}, {}
      for i = from, min(from + 999, #list), 2 do
        before, sum = unpack('>I8I8', list[i])
        old[#old + 1] = list[i]
        if i > 1 then
          before = before - n
        end
        if sum - n > before then
          local member = pack('>I8I8', before, sum - n)
          new[#new + 1] = list[i + 1]
          new[#new + 1] = member
          kept[member] = true
        end
      end
      if new[1] then
        call('ZADD', key, spread(new))
      end
      local gone = {}
      for i = 1, #old do
        if not kept[old[i]] then
          gone[#gone + 1] = old[i]
        end
      end
      if gone[1] then
        call('ZREM', key, spread(gone))
      end
    end
    return n
  end

  -- sizeof is how many units a holder has.
  function sizeof(key, extra, holder)
    return extra > 0 and -(call('ZSCORE', key, 'N' .. holder) or -1) or 1
  end

  function setextra(key, extra)
    if extra > 0 then
      call('ZADD', key, -extra, '')
    else
      call('ZREM', key, '')
    end
  end

  -- shrink leaves a holder one unit, and returns the units beyond one each that are left.
  function shrink(key, extra, holder)
    local more = sizeof(key, extra, holder) - 1
    if more > 0 then
      call('ZREM', key, 'N' .. holder)
      extra = extra - more
      setextra(key, extra)
    end
    return extra
  end

  -- drop forgets a holder, and returns the units beyond one each that are left.
  function drop(key, extra, holder)
    extra = shrink(key, extra, holder)
    call('ZREM', key, 'L' .. holder, 'N' .. holder)
    return extra
  end
end
