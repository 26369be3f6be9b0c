#!lua flags=allow-oom
-- withdraw: takes a declared object away. The controller's script.
-- KEYS  obj holders queue expiry [resources free]
-- ARGV  run id, controller's channel, how, keep ms
--       drain   waiters are sent away, nothing new is granted, the keys go with the last lease
--       delete  holders and waiters are told, the keys go now
--       retain  everything stays as it is for keep ms
-- Reply how many permits or resources are still being drained; nil when nothing is left to do
-- Safe to repeat. O(n) in what is sent away.
---- core.lua
local o = open(0, #KEYS, ARGV[1], ARGV[2])
if not o.exists then return false end
settle(o)
local how = ARGV[3]

if how == 'retain' then
  o.retained = now + tonumber(ARGV[4])
  call('HSET', o.obj, 'retained', int(o.retained))
  close(o)
  return false
end
o.draining = 1
call('HSET', o.obj, 'draining', 1)
for _, token in ipairs(call('ZRANGE', o.queue, 0, -1)) do finish(o, token, 'withdrawn') end
if how == 'delete' then
  for _, token in ipairs(call('ZRANGE', o.holders, 0, -1)) do finish(o, token, 'withdrawn') end
end
if o.held == 0 then
  call('UNLINK', unpack(KEYS))
  return false
end
close(o)
return o.held
