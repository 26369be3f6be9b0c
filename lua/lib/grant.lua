-- Grant: decides whether a request can be granted, and grants it.

---- include lib/entry.lua
---- include lib/pool.lua

-- Returns whether a request can be granted now, and takes the resources of a pool for it.
local function fits(object, entry, earlier)
  if not object.pool then return entry.permits <= object.limit - object.held end
  local chosen = pool().choose(object, entry, earlier)
  if not chosen then return false end
  entry.names = table.concat(chosen, ',')
  for _, name in ipairs(object.newest and chosen or {}) do
    object.taken[name] = true
  end
  return true
end

-- Returns the error of a request that can never be granted as the object is now, for a new request and for one that
-- waits. A limit of 0 is no such reason: a request waits until there is more. Data of an earlier life of the server
-- may be old, and no request is refused by its limit.
local function refusal(object, permits, names)
  if object.draining then return 'NOTDECLARED ' .. object_name(object) end
  if object.declared and object.run ~= here then return nil end
  if permits > object.limit and object.limit > 0 then return 'TOOLARGE ' .. int(object.limit) end
  if object.prefix and string.sub(names, 1, 1) == '?' then return 'NOPROPERTIES ' .. object_name(object) end
  local unreadable
  if object.pool and string.sub(names, 1, 1) == '=' then
    for name in string.gmatch(string.sub(names, 2), '[^,]+') do
      if not pool().properties_of(object, name) then
        unreadable = unreadable or name
      elseif not pool().in_service(object, name) then
        return 'NORESOURCE ' .. name
      end
    end
  elseif object.unreadable and permits > object.limit - object.unreadable.count then
    unreadable = object.unreadable.first
  end
  if unreadable then
    return 'DAMAGED ' .. object.resources .. ' has properties of ' .. unreadable .. ' that cannot be read'
  end
end

local function available(object) return object.pool and pool().unused(object) or object.limit - object.held end

-- Returns the reply and the push of a grant. It is never unpacked, because Lua's stack has no room for the resources
-- of a large lease. A stored end lies too late if the server's clock was set back after it was written. The reply
-- never exceeds the length of the lease, because `unwind` cuts the stored end to that.
local function describe(object, fence, ends, entry, token)
  local out = {
    'granted',
    fence,
    now,
    math.min(ends, now + entry.lease),
    entry.lease,
    entry.since,
    object.declared and 1 or 0,
    entry.permits,
  }
  if token then table.insert(out, 2, token) end
  if object.pool then
    for name in string.gmatch(entry.names, '[^,]+') do
      out[#out + 1] = name
      -- The values of a push are lines. Between the tokens of JSON a line break may be replaced by a space.
      out[#out + 1] = (string.gsub(string.sub(pool().record_of(object, name), 2), '[\r\n]', ' '))
    end
  end
  return out
end

-- Grants a request. Returns its reply, or publishes the grant if the request waited in the queue.
local function grant(object, token, entry, ends, waited)
  entry.since = now
  -- Fencing tokens of a declared object follow the floor that the controller keeps in etcd. Those of other objects
  -- follow the clock.
  object.last = object.declared and object.last + 1 or math.max(object.last + 1, now_us)
  budget = budget - 2 - (object.pool and entry.permits / 4 or 0)
  object.held = object.held + entry.permits
  object.changed = true
  if entry.max_hold > 0 then ends = math.min(ends, now + entry.max_hold) end
  set_end(object, token, ends)
  store(object, token, entry)
  call('ZADD', object.holders, int(object.last), token)
  if not waited then return describe(object, object.last, ends, entry) end
  push(object, entry, describe(object, object.last, ends, entry, token))
end
