-- adopt: moves a detached lease to the adopter's own token, and renews it.
-- KEYS  obj
-- ARGV  version and run id, secret (its SHA-1 begins with the old token), the adopter's token, its client, holder
--       JSON, why (a text for the old token's client, which is notified of the loss)
-- Reply adopted max_hold grace fence now expires lease since declared permits [resource properties]...
--       gone now: no lease has the secret's token (any more), or the object recovers from a loss of data
-- A token is shown in statuses; its secret is known only to the client that drew it, until it detaches the lease. The
-- fencing token stays the same, and so do lease, longest hold, grace, permits and resources. Safe to repeat: the adopter's
-- token finds its lease. In a recovery nothing is adopted: the data may be older than an adoption of the same lease, whose
-- adopter will come back (see readmit).
-- O(log n); of a pool also the resources of the lease.
---- include lib/lease.lua
---- include lib/settle.lua
---- include lib/close.lua
local old, token = string.sub(redis.sha1hex(ARGV[2]), 1, 32), ARGV[3]
local object = open(KEYS[1], { token, old })
settle(object)
local entry, fence
if object.values[token] then
  entry, fence = own_entry(object, token), call('ZSCORE', object.holders, token)
elseif object.values[old] and not recovering(object) then
  entry, fence = own_entry(object, old), call('ZSCORE', object.holders, old)
  if fence then
    if entry.channel ~= '-' then push(object, entry, { 'lost', old, 'adopted', ARGV[6] }) end
    object.values[old] = nil
    call('HDEL', object.obj, 't:' .. old)
    call('ZREM', object.holders, old)
    call('ZREM', object.expiry, old)
    entry.lease = bounded(object, entry.lease, 0)
    entry.channel, entry.holder, entry.since = ARGV[4], ARGV[5], math.min(entry.since, now)
    -- The client that has detached the lease had woken up with it: the notification was received.
    if string.sub(entry.names, 1, 1) == '@' then entry.names = '-' end
    object.changed = true
    store(object, token, entry)
    call('ZADD', object.holders, fence, token)
  end
end
local reply = { 'gone', int(now) }
if fence then
  local ends = tonumber(call('ZSCORE', object.expiry, token))
  if not ends then
    ends = lease_end(entry)
    set_end(object, token, ends)
  end
  reply = describe(object, tonumber(fence), ends, entry)
  reply[1] = 'adopted'
  table.insert(reply, 2, entry.grace)
  table.insert(reply, 2, entry.max_hold)
end
close(object)
return reply
