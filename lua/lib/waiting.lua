-- Waiting: when a client that waits comes again.

---- include lib/condition.lua

-- Renews a queue entry.
local function keep_entry(object, token, entry) set_end(object, token, now + entry.ttl) end

-- If the server's clock is set back, the lease of a dead holder would block the queue until the clock has caught up.
-- No lease or entry lasts longer from now than the longest that the object has had (`ttl`), so ends beyond that are
-- cut to it. That is never less than what a holder counts on. Called only when a client is kept waiting.
local function unwind(object)
  local latest = call('ZRANGE', object.expiry, -1, -1, 'WITHSCORES')[2]
  local bound = now + object.ttl + 1000
  if latest and tonumber(latest) > bound then
    local late = call('ZRANGE', object.expiry, -100, -1, 'WITHSCORES')
    for i = 1, #late, 2 do
      if tonumber(late[i + 1]) > bound then set_end(object, late[i], now + object.ttl) end
    end
    object.more = object.more or #late == 200 and tonumber(late[2]) > bound
  end
  if object.recover > bound then
    object.recover = now + object.ttl
    object.unsaved = true
  end
end

-- Returns the milliseconds until the next event that may change the holders: an expiry, or the end of a recovery. 0
-- means at once, because this call has left work.
local function wake(object)
  unwind(object)
  local next_at = tonumber(call('ZRANGE', object.expiry, 0, 0, 'WITHSCORES')[2] or 0)
  if object.recover > now and (next_at == 0 or object.recover < next_at) then next_at = object.recover end
  return object.more and 0 or math.max(0, next_at - now)
end

-- Returns the position of a token among the waiters, and the life of its entry if that is in the queue. Waiters for a
-- condition stand behind all waiters for the lock.
local function position(object, token, entry)
  local rank = call('ZRANK', object.queue, token)
  if rank then return rank + 1, entry.ttl end
  local wait = object.waits and wait_of(token, entry.names)
  return call('ZCARD', object.queue) + (wait and call('ZRANK', object.waits, wait) or 0) + 2, nil
end

-- Returns after how many milliseconds a waiter calls again. One call does the work for all waiters, so the head of
-- the queue calls when the next lease expires. Another waiter calls when all entries before it have expired, because
-- it is the head then, and otherwise a little later than those before it, so that an expiry does not wake all waiters
-- at once. All waiters renew their entries anyway, which bounds how long dead entries can block one.
local function wake_at(object, soonest, at, ttl)
  local spaced = soonest + (at - 1) * SPACING
  if at == 1 or at > FAR or not ttl then return int(spaced) end
  -- The nearest entry comes first: the end of a live one is far away.
  local head_at, bound = soonest, math.min(spaced, ttl / 3)
  for rank = at - 2, 0, -1 do
    local before = call('ZRANGE', object.queue, rank, rank)[1]
    head_at = math.max(head_at, tonumber(before and call('ZSCORE', object.expiry, before) or 0) - now)
    if head_at >= bound then return int(spaced) end
  end
  return int(head_at)
end
