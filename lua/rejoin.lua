#!lua flags=allow-oom
-- rejoin: ends the wait for a condition without a notification, and queues for the lock.
-- KEYS  obj
-- ARGV  version and run id, token
-- Reply rejoined, or notified: a notification was faster, and the token queues for the lock or holds it; or gone
-- Safe to repeat. O(log n).
---- include lib/lease.lua
---- include lib/settle.lua
---- include lib/waiting.lua
---- include lib/close.lua
local token = ARGV[2]
local object = open(KEYS[1], { token })
settle(object)
local reply = 'gone'
if object.values[token] then
  local entry = own_entry(object, token)
  local wait = wait_of(token, entry.names)
  if wait and call('ZREM', object.waits, wait) == 1 then
    local priority = priority_of(entry.names)
    entry.names = '-'
    keep_entry(object, token, entry)
    enqueue(object, token, entry, priority)
    reply = 'rejoined'
    advance(object)
  else
    reply = entry.names == '-' and 'rejoined' or 'notified'
  end
end
close(object)
return reply
