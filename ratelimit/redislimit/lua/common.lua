local spread, unpack, pack, sub, byte, call, max, min = unpack, struct.unpack, struct.pack, string.sub, string.byte, redis.call, math.max, math.min
local pos, k
local PENDING, UNTIL_PENDING = 9000000000000000, '(9000000000000000'
local TAIL = '>I8I8I4I8I2'

local reserve -- of this call: lease, life and the name of the decision
local blocked -- the name of the decision that must be looked up first
local MOVED = '' -- in place of a name: the counter is another master's
local force -- it cannot be looked up: what was reserved counts as charged

local function write(key, state, ttl)
  states[key], ttls[key] = state, ttl or KEPT
end

-- millis is a TTL for so many µs: never early.
local function millis(us)
  us = max(0, us + 999)
  return (us - us % 1000) / 1000 + slack
end

-- muldiv is floor(a*b/c) and what is left, for a < 2^53, b < 2^35 and c < 2^45: b is taken seven bits at a time where the product is too large.
local function muldiv(a, b, c)
  if a * b < 9007199254740992 then
    local r = a * b % c
    return (a * b - r) / c, r
  end
  local ra = a % c
  local q, r = 0, 0
  local digit = 268435456 -- 2^28
  while digit >= 1 do
    local t = r * 128 + ra * (((b - b % digit) / digit) % 128)
    r = t % c
    q = q * 128 + (t - r) / c
    digit = digit / 128
  end
  return (a - ra) / c * b + q, r
end

-- tail returns the reservations of a state, whose own part has so many bytes. Those that are so old that nothing of them can still count are
-- left out. Where the oldest has lapsed, the call is postponed.
local function tail(state, size)
  local from = size + 1
  while from <= #state do
    local till, expiry, _, _, len, next = unpack(TAIL, state, from)
    if expiry > now then
      if till <= now and not force then
        blocked = sub(state, next, next + len - 1)
      end
      break
    end
    from = next + len
  end
  return sub(state, from)
end

local function reservation(n, at)
  return pack(TAIL, now + reserve[1], now + reserve[2], n, at, #reserve[3]) .. reserve[3]
end

