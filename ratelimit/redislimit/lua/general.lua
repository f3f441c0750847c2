local handlers = {}

-- decide finds out about an op: the answer, whether it is allowed, and what is to be written: a state and its TTL, false for nothing any more, or a
-- function that writes and returns the answer. nil: nothing is written.
local function decide(code, key, kind, several)
  local number = (code - kind) / 16
  local handler = handlers[number]
  if not handler then
    handler = class(number)
    handlers[number] = handler
  end
  if kind ~= 4 then
    return handler(key, kind, several)
  end
  local before = blocked -- a Reset forgets reservations too
  local answer = handler(key, kind)
  if blocked ~= MOVED then
    blocked = before
  end
  if number <= 2 then
    return answer, true, false
  end
  return answer, true, function()
    call('DEL', key)
  end
end

local function put(key, value, ttl)
  if type(value) == 'function' then
    return value()
  end
  write(key, value, ttl)
end

-- all decides a call of several ops: everything is found out before anything is written. What a take that is refused by itself writes is that the clock was
-- set back, and no charge. Were it left out,
--   the clock is set back an hour: a bucket that was hardly used is to be full in an hour, which counts as empty
--   every call to it and to others is refused, and leaves it as it is, for an hour
local function all(ops, several)
  local found, charges, values, ttl, refused = {}, {}, {}, {}, false
  for i = 1, ops do
    local code, ok = byte(calls, pos), nil
    local kind = code % 16
    pos = pos + 1
    found[i], ok, values[i], ttl[i] = decide(code, keys[k + i], kind, several)
    charges[i] = kind % 5 == 0 and ok
    refused = refused or kind % 5 == 0 and not ok
  end
  for i = 1, blocked and 0 or ops do
    if values[i] ~= nil and not (refused and several and charges[i]) then
      found[i] = put(keys[k + i], values[i], ttl[i]) or found[i]
    end
  end
  k = k + ops
  return table.concat(found)
end

-- The general way to decide a call, from a place in calls and behind a place in keys: the answer, and the places behind the call.
return function(atcall, atkey)
  pos, k = atcall, atkey
  local ops, mode, code = byte(calls, pos, pos + 2)
  local found
  blocked = nil
  if ops == 1 and mode == 0 then
    pos, k, reserve, force = pos + 3, k + 1, nil, false
    local key, kind, value, ttl, _ = keys[k], code % 16, nil, nil, nil
    found, _, value, ttl = decide(code, key, kind)
    if value ~= nil and not blocked then
      found = put(key, value, ttl) or found
    end
  else
    pos, reserve, force = pos + 2, nil, mode >= 4
    if mode % 2 == 1 then
      local lease, life, name
      lease, life, name, pos = unpack('>I8I8I2c0', calls, pos)
      reserve = {lease, life, name}
    end
    found = all(ops, mode % 4 >= 2)
  end
  return blocked and pack('>c1I2', 'p', #blocked) .. blocked or found, pos, k
end
