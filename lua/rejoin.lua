#!lua flags=allow-oom
-- rejoin: ends the wait for a condition without a notification, and queues for the lock.
-- KEYS  obj holders queue expiry waits
-- ARGV  run id, controller's channel, token
-- Reply rejoined, or notified: a notification was faster, and the token queues for the lock or holds it; or gone
-- Safe to repeat. O(log n).
---- core.lua
local token = ARGV[3]
local o = open(0, #KEYS, ARGV[1], ARGV[2], { token })
settle(o)
local reply = 'gone'
if o.values[token] then
  local e = own(o, token)
  local wait = wait_of(token, e.names)
  if wait and call('ZREM', o.waits, wait) == 1 then
    local priority = priority_of(e.names)
    e.names = '-'
    enqueue(o, token, e, priority)
    keep(o, token, e)
    reply = 'rejoined'
    advance(o)
  else
    reply = e.names == '-' and 'rejoined' or 'notified'
  end
end
close(o)
return reply
