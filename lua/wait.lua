-- wait: gives a lock back and waits for one of its conditions, in one step.
-- KEYS  obj
-- ARGV  version and run id, the lock's token, the queue entry's token, "@" and the condition, lease ms, max hold ms
--       (0: none), life of the queue entry in ms (at most the lease), client, holder JSON, grace ms, priority in
--       the lock's queue once the wait is over (absent: 0)
-- Reply as acquire's: queued now expires wake while it waits, or what a repeated call finds
-- Error NOTHELD: the lock's token does not hold it
-- Being notified puts the queue entry into the lock's queue, with its own token: when that is granted, the wait is over.
-- O(log n).
---- include lib/lease.lua
---- include lib/settle.lua
---- include lib/waiting.lua
---- include lib/close.lua
local lease, token = ARGV[2], ARGV[3]
local object = open(KEYS[1], { lease, token })
settle(object)
local value, reply = object.values[token], nil
local fence = value and call('ZSCORE', object.holders, token)
if fence then
  local entry = own_entry(object, token)
  local ends = tonumber(call('ZSCORE', object.expiry, token)) or lease_end(entry)
  reply = describe(object, tonumber(fence), ends, entry)
elseif not value then
  if not (object.values[lease] and call('ZSCORE', object.holders, lease)) then
    close(object)
    return redis.error_reply('NOTHELD ' .. object_name(object))
  end
  object.ticket = object.ticket + 1
  local length = amount(ARGV[5])
  local entry = {
    permits = 1,
    lease = length,
    ttl = math.min(amount(ARGV[7]), length),
    max_hold = amount(ARGV[6]),
    grace = amount(ARGV[10]),
    since = now,
    channel = ARGV[8],
    names = format('%s#%016d', ARGV[4], object.ticket),
    holder = ARGV[9],
  }
  if (ARGV[11] or '0') ~= '0' then entry.names = entry.names .. '#' .. ARGV[11] end
  keep_entry(object, token, entry)
  store(object, token, entry)
  call('ZADD', object.waits, 0, wait_of(token, entry.names))
  finish(object, lease)
  advance(object)
end
if not reply then
  local entry = own_entry(object, token)
  keep_entry(object, token, entry)
  reply = {
    'queued',
    int(now),
    int(now + entry.ttl),
    wake_at(object, wake(object), position(object, token, entry)),
  }
end
close(object)
return reply
