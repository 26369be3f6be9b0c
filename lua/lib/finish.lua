-- Finish: ends leases and queue entries.

---- include lib/recovery.lua
---- include lib/condition.lua

-- Counts anew what is held, by those who can still be seen to hold: after some of it has gone without being told of. What
-- of a pool's resources nobody holds any more is free. O(n) in the leases, and the resources of a pool.
local function recount(object)
  local held = 0
  for _, token in ipairs(call('ZRANGE', object.holders, 0, -1)) do
    local entry = find_entry(object, token)
    -- What another lease has that cannot be read is not known before that has ended, too: until then nothing is freed.
    if not entry then return end
    held = held + entry.permits
  end
  object.held = held
  if object.pool then pool().find_unheld(object) end
end

-- Ends a lease or a place in the queue. `how` is a word of the protocol: none where its owner ends it, "dropped" where its
-- client does because nobody takes it up, and otherwise what its client is told: "expired", "withdrawn", "superseded",
-- "reclaimed", "taken", "refused". `why` is the text of whoever ends it, which is only passed on; of what is refused, the
-- error that a new request would get.
local function finish(object, token, how, why)
  local entry = find_entry(object, token)
  budget = budget - 1
  object.values[token] = nil
  call('HDEL', object.obj, 't:' .. token)
  call('ZREM', object.expiry, token)
  local fence = entry and how == 'expired' and entry.grace > 0 and call('ZSCORE', object.holders, token)
  local was_held = call('ZREM', object.holders, token) == 1
  if not entry then
    -- Of what cannot be read, all that is left of it goes, too (but for its wait, which a notification finds); and what it
    -- held has to be found by what the others hold.
    local waited = call('ZREM', object.queue, token) > 0
    if was_held then
      object.changed = true
      recount(object)
    end
    return was_held and 'released' or waited and 'left' or nil
  end
  object.changed = true
  -- In data that may be old, a lease that has run out may have been renewed since: its holder comes back, or knows its end.
  local renewed = was_held and how == 'expired' and recovering(object)
  if how and how ~= 'dropped' and not renewed and entry.channel ~= '-' then
    publish(entry.channel, { was_held and 'lost' or 'gone', token, how, why or '' })
  end
  if was_held then
    if fence then
      -- What cannot check a fencing token is kept from the next holder for a while: under a name that nobody can renew.
      local ends, ghost = now + entry.grace, 'grace-' .. token
      entry.grace, entry.channel = 0, '-'
      store(object, ghost, entry)
      call('ZADD', object.holders, fence, ghost)
      call('ZADD', object.expiry, ends, ghost)
      return 'released'
    end
    object.held = object.held - entry.permits
    if object.pool then
      budget = budget - math.floor(entry.permits / 8)
      pool().give_back(object, entry.names)
    end
  end
  local ticket = object.pool and not was_held and call('ZSCORE', object.queue, token)
  if ticket then call('ZREM', object.selectors, pool().place_in(pool().line_of(entry.names), ticket, token)) end
  local queued = not was_held and call('ZREM', object.queue, token) == 1
  local wait = object.waits and not was_held and wait_of(token, entry.names)
  local waited = wait and call('ZREM', object.waits, wait) == 1
  if not (was_held or queued or waited) then
    -- Its place is gone with all others of its key, by an eviction.
    recount(object)
  end
  if object.waits and string.sub(entry.names, 1, 1) == '@' then
    -- A notification that reached nobody goes to the next: its waiter left, or died or was dropped before it had taken up
    -- its lease.
    local unheard = not waited and (not was_held or how)
    if unheard then
      -- A wait that cannot be read must not leave the counters behind as they were.
      local done, problem = pcall(notify, object, string.match(entry.names, '^@[^#]*'))
      if not done then
        save(object)
        error(problem)
      end
    end
  end
  return was_held and 'released' or 'left'
end
