-- Lease: the entry of the token that a call is about, and the bounds of what a request asks for.

---- include lib/entry.lua

-- What stands under the token of the caller, which has a value. A lease whose value cannot be read goes on until it runs
-- out, or is given back: its holder may still work under it.
local function own_entry(object, token)
  local entry = parse_entry(object.values[token])
  if not entry then damaged('-', 'what ' .. object.obj .. ' has of this lease cannot be read; that goes when the lease has run out') end
  return entry
end

-- What a declaration says bounds what a request asks for; 0 is the declared length, and no longest hold. A pool that
-- programs keep says nothing: half a minute.
local function bounded(object, lease, max_hold)
  if lease == 0 then lease = object.lease > 0 and object.lease or 30000 end
  if object.lease > 0 then lease = math.min(lease, object.lease) end
  if object.max_hold > 0 then max_hold = max_hold == 0 and object.max_hold or math.min(max_hold, object.max_hold) end
  return lease, max_hold
end
