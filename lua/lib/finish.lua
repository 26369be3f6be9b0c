-- Finish: ends leases and queue entries.

---- include lib/recovery.lua
---- include lib/condition.lua

-- Recomputes `held` from the holders that are still readable, after a lease was lost without being ended, and frees
-- the resources of a pool that no holder has. O(n) in the leases, and in the resources of a pool.
local function recount(object)
  local held = 0
  for _, token in ipairs(call('ZRANGE', object.holders, 0, -1)) do
    local entry = find_entry(object, token)
    -- The resources of another unreadable lease are not known until that lease ends. Nothing is freed before.
    if not entry then return end
    held = held + entry.permits
  end
  object.held = held
  if object.pool then pool().find_unheld(object) end
end

-- Counts again where permits are held without a holder: a script that has ended half-way, for want of memory or of a right, may
-- have left the counter as it was, and so may a loss of part of the data.
local function correct_held(object)
  if object.held > 0 and call('ZCARD', object.holders) == 0 then
    object.changed = true
    recount(object)
  end
end

-- Ends a lease or a queue entry. `how` is one of the protocol's causes: nil if its owner ends it, "dropped" if its
-- client does because no caller takes it up, and else the cause that is published to its client: "expired",
-- "withdrawn", "superseded", "reclaimed", "taken" or "refused". `why` is free text, which is passed on; with
-- "refused" it is the error that a new request would get.
local function finish(object, token, how, why)
  local entry = find_entry(object, token)
  budget = budget - 1
  object.values[token] = nil
  call('HDEL', object.obj, 't:' .. token)
  call('ZREM', object.expiry, token)
  local fence = entry and how == 'expired' and entry.grace > 0 and call('ZSCORE', object.holders, token)
  local was_held = call('ZREM', object.holders, token) == 1
  if not entry then
    -- The entry cannot be read: the rest of it is removed, except for its member of `waits`, which the next
    -- notification removes. The resources that it held are found by those of the other holders.
    local waited = call('ZREM', object.queue, token) > 0
    if was_held then
      object.changed = true
      recount(object)
    end
    return was_held and 'released' or waited and 'left' or nil
  end
  object.changed = true
  -- The data may be old, and the lease may have been renewed since: its holder is readmitted, or knows that it has
  -- ended.
  local renewed = was_held and how == 'expired' and recovering(object)
  if how and how ~= 'dropped' and not renewed and entry.channel ~= '-' then
    push(object, entry, { was_held and 'lost' or 'gone', token, how, why or '' })
  end
  if was_held then
    if fence then
      -- A grace keeps the next holder out for a while, for resources that cannot check a fencing token. The lease
      -- goes on under a token that no client can renew.
      local ends, ghost = now + entry.grace, 'grace-' .. token
      entry.grace, entry.channel = 0, '-'
      set_end(object, ghost, ends)
      store(object, ghost, entry)
      call('ZADD', object.holders, fence, ghost)
      return 'released'
    end
    object.held = object.held - entry.permits
    if object.pool then
      budget = budget - math.floor(entry.permits / 4)
      pool().give_back(object, entry.names)
    end
  end
  local ticket = object.pool and not was_held and call('ZSCORE', object.queue, token)
  if ticket then call('ZREM', object.selectors, pool().member_of(pool().line_of(entry.names), ticket, token)) end
  local queued = not was_held and call('ZREM', object.queue, token) == 1
  local wait = object.waits and not was_held and wait_of(token, entry.names)
  local waited = wait and call('ZREM', object.waits, wait) == 1
  if not (was_held or queued or waited) then
    -- The entry was not in its sorted set: an eviction has removed the whole key.
    recount(object)
  end
  if object.waits and string.sub(entry.names, 1, 1) == '@' then
    -- A notification that did not reach its waiter goes to the next one. Its waiter left, died, or was dropped before
    -- it took up its lease.
    local unheard = not waited and (not was_held or how)
    if unheard then
      -- The counters are saved even if the next wait cannot be read.
      local done, problem = pcall(notify, object, string.match(entry.names, '^@[^#]*'))
      if not done then
        save(object)
        error(problem)
      end
    end
  end
  return was_held and 'released' or 'left'
end
