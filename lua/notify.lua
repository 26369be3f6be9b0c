-- notify: wakes waiters for a condition, the longest wait first, by moving them into the queue of the lock.
-- KEYS  obj
-- ARGV  version and run id, the lock's token, "@" and the condition, how many, request id
-- Reply the number of notified waiters, and whether more wait for the condition (1 or 0)
-- Error NOTHELD: the lock's token does not hold it
-- One call notifies at most PIECE: call again, with another request id, for the rest. The newest request id is kept with its
-- count, so that a repeated one notifies no other waiter. O(log n) for each that is notified.
---- include lib/settle.lua
---- include lib/close.lua
local PIECE = 50
local object = open(KEYS[1], { ARGV[2] })
settle(object)
if not (object.values[ARGV[2]] and call('ZSCORE', object.holders, ARGV[2])) then
  close(object)
  return redis.error_reply('NOTHELD ' .. object_name(object))
end
local id, count = unpack(call('HMGET', object.obj, 'notify_id', 'notified'))
if id ~= ARGV[5] then
  count = 0
  local most = math.min(tonumber(ARGV[4]), PIECE)
  while count < most and notify(object, ARGV[3]) do
    count = count + 1
  end
  call('HSET', object.obj, 'notify_id', ARGV[5], 'notified', count)
end
local more = call('ZRANGE', object.waits, '[' .. ARGV[3] .. ' ', '(' .. ARGV[3] .. '!', 'BYLEX', 'LIMIT', 0, 1)[1]
close(object)
return { tonumber(count), more and 1 or 0 }
