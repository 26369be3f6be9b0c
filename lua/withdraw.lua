#!lua flags=allow-oom
-- withdraw: takes a declared object away. The controller's script.
-- KEYS  obj holders queue expiry [resources free selectors]
-- ARGV  run id, controller's channel, how, keep ms
--       drain   waiters are sent away, nothing new is granted, the keys go with the last lease; but for the word that this was
--               so, for a day or until it is withdrawn again
--       delete  holders and waiters are told, the keys go now
--       retain  everything stays as it is for keep ms
-- Reply how many permits or resources are still being drained, and how many tokens are left to be sent away: call again at
--       once until there are none; nil when nothing is left to do
-- Safe to repeat. O(log n) for each that is sent away, of which one call does not do many.
---- core.lua
local o = open(0, #KEYS, ARGV[1], ARGV[2])
if not o.exists then
  call('UNLINK', o.obj)
  return false
end
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
local left = 0
for _, key in ipairs({ o.queue, how == 'delete' and o.holders or nil }) do
  -- One in each call, at least: what has expired may have used up the budget.
  for i, token in ipairs(call('ZRANGE', key, 0, math.max(0, math.floor(budget)))) do
    if i > 1 and budget <= 0 then break end
    finish(o, token, 'withdrawn')
  end
  left = left + call('ZCARD', key)
end
if o.held == 0 and left == 0 then
  call('UNLINK', unpack(KEYS))
  return false
end
close(o)
return { o.held, left }
