#!lua flags=allow-oom
-- downgrade: makes a lease smaller without giving it back, and grants what that frees.
-- KEYS  obj
-- ARGV  version and run id, token, permits to keep
-- Reply held, or gone: the token does not hold
-- Safe to repeat. O(log n).
---- include lib/lease.lua
---- include lib/settle.lua
---- include lib/close.lua
local token, permits = ARGV[2], tonumber(ARGV[3])
local object = open(KEYS[1], { token })
settle(object)
local held = object.values[token] and call('ZSCORE', object.holders, token)
if held then
  local entry = own_entry(object, token)
  if permits < entry.permits then
    object.held = object.held - entry.permits + permits
    object.changed = true
    entry.permits = permits
    store(object, token, entry)
    advance(object)
  end
end
close(object)
return held and 'held' or 'gone'
