local forgotten = {}

-- decision keeps or looks up the outcome of a call that has reservations elsewhere: 'c' for committed, 'a' for aborted. The first to ask decides.
return function(key)
  local what, ttl, next = unpack('>c1I8', calls, pos)
  pos = next
  if forgotten[key] then
    blocked = MOVED
    return '', false
  end
  return nil, true, function()
    if what == 'f' then
      call('DEL', key)
      forgotten[key] = true
      return 'f'
    end
    if call('SET', key, what, 'NX', 'PX', ttl) then
      return what
    end
    return call('GET', key)
  end
end
