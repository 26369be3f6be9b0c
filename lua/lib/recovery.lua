-- Recovery: after a loss of data a declared object grants nothing until the controller has declared it again.

---- include lib/object.lua

-- Returns whether the object recovers. A declared object that the controller has not declared in this life of the
-- server may have lost its newest leases (restart, failover, old snapshot). Until the controller has declared it
-- again, and for one lease after that, nothing is granted, and holders that know their fencing token are readmitted.
local function recovering(object) return object.declared and (object.run ~= here or now < object.recover) end

-- Publishes that a client asks for a declared object that is missing: the controller may have to declare it (again).
local function missing(object) announce(object, 'missing') end

-- Compares the data with the newest fencing token that a client has seen of a declared object. Data that has not
-- granted it is older, even if this is the server process under which the object was declared: it may have been cut
-- off while another one was the master (a failback). The object then recovers, for all clients, until the controller
-- has declared it again.
local function outdated(object, seen)
  if not object.declared or object.last >= seen then return end
  object.run, object.last, object.changed = false, seen, true
  missing(object)
end
