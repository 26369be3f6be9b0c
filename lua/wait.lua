-- wait: gives a lock back and waits for one of its conditions, in one step.
-- KEYS  obj holders queue expiry waits
-- ARGV  run id, controller's channel, the lock's token, the place's token, "@" and the condition, lease ms, max hold ms
--       (0: none), place ms (at most the lease), client's channel, holder JSON, grace ms, priority in
--       the lock's queue once the wait is over (absent: 0)
-- Reply as acquire's: queued now expires wake 0 while it waits, or what a repeated call finds
-- Error NOTHELD: the lock's token does not hold it
-- Being notified puts the place into the lock's queue, with its own token: when that is granted, the wait is over.
-- O(log n).
---- core.lua
local lease, token = ARGV[3], ARGV[4]
local o = open(0, #KEYS, ARGV[1], ARGV[2], { lease, token })
settle(o)
local value, reply = o.values[token], nil
local fence = value and call('ZSCORE', o.holders, token)
if fence then
  local e = own(o, token)
  local ends = tonumber(call('ZSCORE', o.expiry, token)) or lease_end(e)
  reply = describe(o, tonumber(fence), ends, e)
elseif not value then
  if not (o.values[lease] and call('ZSCORE', o.holders, lease)) then
    close(o)
    return redis.error_reply('NOTHELD ' .. object_of(o))
  end
  o.ticket = o.ticket + 1
  local length = tonumber(ARGV[6])
  local e = { permits = 1, lease = length, place = math.min(tonumber(ARGV[8]), length), max_hold = tonumber(ARGV[7]),
    grace = tonumber(ARGV[11]), since = now, channel = ARGV[9], names = format('%s#%016d', ARGV[5], o.ticket),
    holder = ARGV[10] }
  if (ARGV[12] or '0') ~= '0' then e.names = e.names .. '#' .. ARGV[12] end
  store(o, token, e)
  call('ZADD', o.waits, 0, wait_of(token, e.names))
  keep(o, token, e)
  finish(o, lease)
  advance(o)
end
if not reply then
  local ends = now + own(o, token).place
  call('ZADD', o.expiry, ends, token)
  reply = { 'queued', int(now), int(ends), wake_at(o, wake(o), position(o, token, own(o, token))), 0 }
end
close(o)
return reply
