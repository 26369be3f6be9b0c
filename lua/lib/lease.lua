-- Lease: the entry of the token that a call is about, and the bounds of what a request asks for.

---- include lib/entry.lua

-- Returns the entry of the caller's token, which has a value. A lease whose value cannot be read lasts until it
-- expires or is released, because its holder may still work under it.
local function own_entry(object, token)
  local entry = parse_entry(object.values[token])
  if not entry then
    damaged('-', 'what ' .. object.obj .. ' has of this lease cannot be read; that goes when the lease has run out')
  end
  return entry
end

-- Applies the bounds of the declaration to a request. A length of 0 means the declared length, and a longest hold of
-- 0 means none. A pool that programs keep has no declaration: 30 seconds.
local function bounded(object, lease, max_hold)
  if lease == 0 then lease = object.lease > 0 and object.lease or 30000 end
  if object.lease > 0 then lease = math.min(lease, object.lease) end
  if object.max_hold > 0 then max_hold = max_hold == 0 and object.max_hold or math.min(max_hold, object.max_hold) end
  return lease, max_hold
end
