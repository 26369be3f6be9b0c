-- Queue: adds entries to the queue of an object.

---- include lib/entry.lua
---- include lib/pool.lua

-- Adds a token to the queue, behind all entries of the same priority. A step of priority is worth 2^42 tickets, which
-- a thousand requests a second use up in 139 years.
local function enqueue(object, token, entry, priority)
  object.ticket = object.ticket + 1
  object.changed = true
  store(object, token, entry)
  local ticket = object.ticket - priority * 4398046511104
  call('ZADD', object.queue, int(ticket), token)
  if object.pool then
    call('ZADD', object.selectors, 0, pool().member_of(pool().line_of(entry.names), ticket, token))
  end
end

-- Milliseconds between the calls of two entries that wait for the same expiry, and the rank from which on entries do not look
-- at those before them.
local SPACING, FAR = 5, 128
