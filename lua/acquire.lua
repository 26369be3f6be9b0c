-- acquire: takes a lease, or a queue entry, or neither.
-- KEYS  obj
-- ARGV  version and run id, token, permits, lease ms (0: the declared one), limit (0: must be declared; else the permits of an
--       object that its first user makes), the entry: its life in the queue in ms (0: do not wait), client and holder JSON, with
--       spaces in between; and unless they all are 0: seen (the newest fencing token that this client has seen of the object while
--       it was declared: data without that token is not current, and recovers; and an undeclared object is neither made nor used);
--       and unless they all are 0, 0, 0, "-" and 0: max hold ms (0: none), grace ms, priority, selector (of a pool's resources:
--       see lua/lib/object.lua), takeover (1: take it from its holders), why (a text for them)
-- Reply granted fence now expires [lease since declared permits [resource properties]...]
--       without the rest: for the lease that was asked for, since now, undeclared, for the permits that were asked for
--       queued  now expires wake position newest [parts]
--       busy    now newest [parts]
--       again   now     there may be room when the work that this call has left is done: call again at once
--       newest: the newest fencing token of a declared object, and 0 of another
--       parts: where not all free resources were looked at, the number of calls that look at all of them; each call continues
--       where the last one stopped
-- Error NOTDECLARED, TOOLARGE, NORESOURCE, NOPROPERTIES (a selector of properties, for generated resources)
-- A repeated token gets the outcome of the first call: its lease, or its queue entry.
-- O(log n) in the leases and waiters of the object; a selector of properties looks at up to 500 of the
-- free resources, and the next call continues from there.
local permits, lease, first_limit = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])

-- The fast lane, before the functions of lua/lib are created: an ordinary request for an object that does not exist, which its
-- first user makes. The lease is the one that `grant` would make; it lies in obj alone until another client comes (see `unfold`).
if not ARGV[7] and string.sub(ARGV[1], 1, 2) == '2 ' and permits <= first_limit and lease > 0 then
  local clock = redis.call('TIME')
  local fence = clock[1] * 1000000 + clock[2]
  local now = (fence - fence % 1000) / 1000
  local alone = table.concat({ 'v2', ARGV[2], ARGV[4], clock[1], clock[2], ARGV[3], ARGV[5], ARGV[6] }, ' ')
  if redis.call('SET', KEYS[1], alone, 'NX', 'PXAT', string.format('%d', now + lease * 2 + 1000)) then
    return { 'granted', fence, now, now + lease }
  end
end

---- include lib/lease.lua
---- include lib/settle.lua
---- include lib/waiting.lua
---- include lib/close.lua

local token, seen = ARGV[2], tonumber(ARGV[7] or 0)
local ttl, client, holder = string.match(ARGV[6], '^(%d+) (%S+) (.*)$')
ttl = tonumber(ttl)
local max_hold, grace, priority = tonumber(ARGV[8] or 0), tonumber(ARGV[9] or 0), tonumber(ARGV[10] or 0)
local selector, takeover, why = ARGV[11] or '-', ARGV[12] == '1', ARGV[13]
local object = open(KEYS[1], { token })
local is_new = not object.exists

if seen > 0 then outdated(object, seen) end
if is_new and first_limit == 0 or seen > 0 and not object.declared then
  missing(object)
  return redis.error_reply('NOTDECLARED ' .. object_name(object))
end
if is_new then
  object.exists, object.limit = true, first_limit
else
  settle(object)
end

-- `queued` is the queue entry of the token, if the call leaves it one.
local value, reply, queued = object.values[token], nil, nil
local fence = value and call('ZSCORE', object.holders, token)
if value and not fence and not parse_entry(value) then
  finish(object, token) -- an entry that cannot be read is made anew
  value = nil
end
-- A lease stays held, even if a new request would be refused.
local refused = not fence and refusal(object, permits, selector)
if refused then
  if value then
    finish(object, token)
    advance(object)
  end
  if object.draining then missing(object) end
  close(object)
  return redis.error_reply(refused)
end

if value then
  local entry = own_entry(object, token)
  if fence then
    local ends = tonumber(call('ZSCORE', object.expiry, token))
    if not ends then -- gone with all others of its key
      ends = lease_end(entry)
      call('ZADD', object.expiry, ends, token)
    end
    reply = describe(object, tonumber(fence), ends, entry)
  else
    call('ZADD', object.expiry, now + entry.ttl, token)
    -- The search continues where the last call has stopped.
    if object.pool and string.sub(entry.names, 1, 1) == '?' then reply = advance(object, token) end
    if not reply then queued = entry end
  end
else
  lease, max_hold = bounded(object, lease, max_hold)
  local entry = {
    permits = permits,
    lease = lease,
    ttl = math.min(ttl, lease),
    max_hold = max_hold,
    grace = grace,
    since = now,
    channel = client,
    names = selector,
    holder = holder,
  }
  if takeover then
    for _, other in ipairs(call('ZRANGE', object.holders, 0, -1)) do
      -- An object in its grace has no holder to take it from, and no new holder yet.
      if string.sub(other, 1, 6) ~= 'grace-' then finish(object, other, 'taken', why) end
    end
  end
  local is_first = is_new or takeover or call('ZCARD', object.queue) == 0
  local got
  if is_first and not recovering(object) and fits(object, entry, {}) then
    got = grant(object, token, entry, lease_end(entry))
  else
    -- The search may have found a resource that cannot be read.
    refused = object.unreadable and refusal(object, permits, selector)
    if refused then
      close(object)
      return redis.error_reply(refused)
    end
    if ttl > 0 or (object.pool and not is_first) then
      enqueue(object, token, entry, priority)
      keep_entry(object, token, entry)
      -- The entries before it in a pool may wait for other resources, and a larger priority stands before an entry without room.
      if not is_first then got = advance(object, token) end
    end
  end
  if got then
    reply = got
  elseif ttl > 0 then
    queued = entry
  else
    finish(object, token)
    unwind(object)
    -- The work that is left may free permits.
    reply = { (object.overdue or object.more) and 'again' or 'busy', int(now), newest_of(object), object.parts }
  end
end
if queued then
  local at, place_ms = position(object, token, queued)
  local wakes = wake_at(object, wake(object), at, place_ms)
  reply = { 'queued', int(now), int(now + queued.ttl), wakes, at, newest_of(object), object.parts }
end
close(object)
return reply
