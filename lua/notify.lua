-- notify: wakes who waits for a condition, longest first, by moving them into the queue of the lock.
-- KEYS  obj holders queue expiry waits
-- ARGV  run id, controller's channel, the lock's token, "@" and the condition, how many, request id
-- Reply how many were notified, and whether more wait for the condition (1 or 0)
-- Error NOTHELD: the lock's token does not hold it
-- One call notifies at most PIECE: call again, with another request id, for the rest. The newest request id is kept with its
-- count, so that a repeated one notifies nobody else. O(log n) for each that is notified.
---- core.lua
local PIECE = 50
local o = open(0, #KEYS, ARGV[1], ARGV[2], { ARGV[3] })
settle(o)
if not (o.values[ARGV[3]] and call('ZSCORE', o.holders, ARGV[3])) then
  close(o)
  return redis.error_reply('NOTHELD ' .. object_of(o))
end
local id, count = unpack(call('HMGET', o.obj, 'notify_id', 'notified'))
if id ~= ARGV[6] then
  count = 0
  local most = math.min(tonumber(ARGV[5]), PIECE)
  while count < most and notify(o, ARGV[4]) do count = count + 1 end
  call('HSET', o.obj, 'notify_id', ARGV[6], 'notified', count)
end
local more = call('ZRANGE', o.waits, '[' .. ARGV[4] .. ' ', '(' .. ARGV[4] .. '!', 'BYLEX', 'LIMIT', 0, 1)[1]
close(o)
return { tonumber(count), more and 1 or 0 }
