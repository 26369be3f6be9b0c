#!lua flags=allow-oom
-- downgrade: makes a lease smaller without giving it back, and grants what that frees.
-- KEYS  obj holders queue expiry
-- ARGV  run id, controller's channel, token, permits to keep
-- Reply held, or gone: the token does not hold
-- Safe to repeat. O(log n).
---- core.lua
local token, permits = ARGV[3], tonumber(ARGV[4])
local o = open(0, #KEYS, ARGV[1], ARGV[2], { token })
settle(o)
local held = o.values[token] and call('ZSCORE', o.holders, token)
if held then
  local e = own(o, token)
  if permits < e.permits then
    o.held = o.held - e.permits + permits
    o.changed = true
    e.permits = permits
    store(o, token, e)
    advance(o)
  end
end
close(o)
return held and 'held' or 'gone'
