-- Recovery: after a loss of data a declared object grants nothing until the controller has declared it again.

---- include lib/object.lua

-- A declared object that this server process has not been told of anew may have lost its newest leases (restart,
-- failover, old snapshot). Until the controller has declared it again, and for one lease after that, nothing new is
-- granted, while holders that still know their fencing token are let in again.
local function recovering(object) return object.declared and (object.run ~= object.here or now < object.recover) end

-- Somebody asks for a declared object that is not there: the controller may have to declare it (again).
local function missing(object) publish(object.events, { 'missing', object_name(object) }) end

-- A client says the newest fencing token that it has seen of a declared object. Data that has not granted it is older, also
-- where the server process is the one that the object was declared under: it may have been cut off while another one was the
-- master (a failback). So the object recovers, for everybody, until the controller has declared it again.
local function outdated(object, seen)
  if not object.declared or object.last >= seen then return end
  object.run, object.last, object.changed = false, seen, true
  call('HDEL', object.obj, 'run')
  missing(object)
end
