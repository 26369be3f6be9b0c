-- Close: saves an object after the work of a script.

---- include lib/queue.lua

local function nobody_waits(object) return call('EXISTS', object.queue, object.waits or object.queue) == 0 end

local function drop(object) call('UNLINK', unpack(keys_of(object))) end

-- Publishes `again` to the first waiters whose entries have not expired, so that one of them calls again for the work
-- that this call has left. The caller learns of it from the reply.
local function call_again(object)
  local first = call('ZRANGE', object.queue, 0, FAR - 1)
  local tries = 3
  for _, token in ipairs(first) do
    if tonumber(call('ZSCORE', object.expiry, token) or 0) > now then
      for _, own_token in ipairs(object.tokens) do
        if token == own_token then return end
      end
      local entry = find_entry(object, token)
      if entry and push(object, entry, { 'again', token }) > 0 then return end
      tries = tries - 1
      if tries == 0 then return end
    end
  end
end

-- Saves the counters, drops the keys of an unused first-user object or sets their ends, and publishes `changed` to
-- the controller. Scripts do so after their own work; observe reads the object afterwards, because closing may remove
-- it. Returns true if that has removed the object.
local function close(object)
  if not object.exists then return true end
  local lasting = (object.declared or object.kept) and not object.draining
  if object.changed and not lasting and object.held == 0 and nobody_waits(object) then
    drop(object)
    if object.draining then
      -- A client must not mistake the end of the object for a loss of data.
      call('HSET', object.obj, 'drained', 1)
      call('PEXPIREAT', object.obj, int(now + 86400000))
      announce(object, 'changed')
    end
    return true
  end
  -- A declared object that has moved to another server of a cluster waits until the controller declares it there.
  local tells = object.watched and (object.changed or object.declared and object.run ~= here)
  if tells then object.watched = nil end
  if object.changed == true or object.unsaved or tells then save(object) end
  if object.more or object.overdue then call_again(object) end
  if object.retained then
    for _, key in ipairs(keys_of(object)) do
      call('PEXPIREAT', key, int(object.retained))
    end
  elseif not (object.declared or object.kept) then
    -- The keys of an object that no client touches again must end, as its leases do. If nothing was added, and they
    -- live for longer than the longest lease, they outlive all leases already; but not the grace behind a lease that was
    -- renewed (`graced`).
    if object.changed or object.graced or call('PTTL', object.obj) <= object.ttl then
      local ttl = int(object.ttl * 2 + 1000)
      call('PEXPIRE', object.obj, ttl)
      call('PEXPIRE', object.holders, ttl)
      call('PEXPIRE', object.expiry, ttl)
      if object.ticket > 0 then
        call('PEXPIRE', object.queue, ttl)
        if object.waits then call('PEXPIRE', object.waits, ttl) end
        if object.pool then call('PEXPIRE', object.selectors, ttl) end
      end
    end
  end
  if tells then announce(object, 'changed') end
end
