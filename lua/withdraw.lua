#!lua flags=allow-oom
-- withdraw: withdraws a declared object. The controller's script.
-- KEYS  obj
-- ARGV  version and run id, how, keep ms
--       drain   waiters are refused, nothing new is granted, the keys are removed with the last lease, except for a mark that
--               this was so, for a day or until it is withdrawn again
--       delete  holders and waiters are notified, the keys are removed now
--       retain  everything stays as it is for keep ms
-- Reply the number of permits or resources that are still drained, and of tokens that are left to be ended: call again at
--       once until there are none; nil when nothing is left to do
-- Safe to repeat. O(log n) for each token that is ended, of which one call does not end many.
---- include lib/settle.lua
---- include lib/close.lua
local object = open(KEYS[1])
if not object.exists then
  call('UNLINK', object.obj)
  return false
end
settle(object)
local how = ARGV[2]

if how == 'retain' then
  object.retained = now + tonumber(ARGV[3])
  object.unsaved = true
  call('HSET', object.obj, 'retained', int(object.retained))
  close(object)
  return false
end
object.draining, object.unsaved = true, true
local left = 0
for _, key in ipairs({ object.queue, how == 'delete' and object.holders or nil }) do
  -- One in each call, at least: what has expired may have used up the budget.
  for i, token in ipairs(call('ZRANGE', key, 0, math.max(0, math.floor(budget)))) do
    if i > 1 and budget <= 0 then break end
    finish(object, token, 'withdrawn')
  end
  left = left + call('ZCARD', key)
end
correct_held(object)
if object.held == 0 and left == 0 then
  call('UNLINK', unpack(keys_of(object)))
  return false
end
close(object)
return { object.held, left }
