-- Waiting: when a client that waits comes again.

---- include lib/condition.lua

-- How long a place is kept for its client without a word from it.
local function keep_entry(object, token, entry) call('ZADD', object.expiry, int(now + entry.place), token) end

-- A server clock that was set back would keep the lease of a dead holder, and everybody behind it, until the clock has
-- caught up. But nothing may last longer from now than the longest span that the object has known: what does is cut to
-- it, which is never less than its holder counts on. Asked for only where somebody is kept waiting.
local function unwind(object)
  local latest = call('ZRANGE', object.expiry, -1, -1, 'WITHSCORES')[2]
  local bound = now + object.ttl + 1000
  if latest and tonumber(latest) > bound then
    local late = call('ZRANGE', object.expiry, -100, -1, 'WITHSCORES')
    for i = 1, #late, 2 do
      if tonumber(late[i + 1]) > bound then call('ZADD', object.expiry, now + object.ttl, late[i]) end
    end
    object.more = object.more or #late == 200 and tonumber(late[2]) > bound
  end
  if object.recover > bound then
    object.recover = now + object.ttl
    call('HSET', object.obj, 'recover', int(object.recover))
  end
end

-- Milliseconds until the next thing that may change who holds: an expiry, or the end of a recovery. 0: at once, for some of
-- that is left to be done.
local function wake(object)
  unwind(object)
  local next_at = tonumber(call('ZRANGE', object.expiry, 0, 0, 'WITHSCORES')[2] or 0)
  if object.recover > now and (next_at == 0 or object.recover < next_at) then next_at = object.recover end
  return object.more and 0 or math.max(0, next_at - now)
end

-- At which of those who wait a token stands, and how long its place runs if that is in the queue: who waits for a condition
-- stands behind all who wait for the lock.
local function position(object, token, entry)
  local rank = call('ZRANK', object.queue, token)
  if rank then return rank + 1, entry.place end
  local wait = object.waits and wait_of(token, entry.names)
  return call('ZCARD', object.queue) + (wait and call('ZRANK', object.waits, wait) or 0) + 2, nil
end

-- When a place should come back. One call does the work for all, so that the head comes when there is something to do.
-- Another one comes when all before it have run out, for then it is the head; and otherwise a little later than those
-- before it: were all to come at once, an expiry would wake a herd. All renew their places anyway, which bounds how long
-- those before it can keep it.
local function wake_at(object, soonest, at, place)
  local spaced = soonest + (at - 1) * SPACING
  if at == 1 or at > FAR or not place then return int(spaced) end
  -- Nearest first: one that lives has its end far away.
  local head_at, bound = soonest, math.min(spaced, place / 3)
  for rank = at - 2, 0, -1 do
    local before = call('ZRANGE', object.queue, rank, rank)[1]
    head_at = math.max(head_at, tonumber(before and call('ZSCORE', object.expiry, before) or 0) - now)
    if head_at >= bound then return int(spaced) end
  end
  return int(head_at)
end
