-- adopt: moves a lease from the token that its holder has let go of to the adopter's own token, and renews it.
-- KEYS  obj holders queue expiry [waits] [resources free selectors]
-- ARGV  run id, controller's channel, secret (its SHA-1 begins with the old token), the adopter's token, its channel, holder
--       JSON, why (a text for the old token's client, which is told that its lease is lost)
-- Reply adopted max_hold grace fence now expires lease since declared permits [resource properties]...
--       gone now: no lease has the secret's token (any more), or the object recovers from a loss of data
-- A token is shown to whoever looks; its secret is known only to the client that drew it, until it detaches the lease. The
-- fencing token stays the same, and so do lease, longest hold, grace, permits and resources. Safe to repeat: the adopter's
-- token finds its lease. In a recovery nothing is adopted: the data may be older than an adoption of the same lease, whose
-- adopter will come back (see readmit).
-- O(log n); of a pool also the resources of the lease.
---- core.lua
local old, token = string.sub(redis.sha1hex(ARGV[3]), 1, 32), ARGV[4]
local o = open(0, #KEYS, ARGV[1], ARGV[2], { token, old })
settle(o)
local e, fence
if o.values[token] then
  e, fence = own(o, token), call('ZSCORE', o.holders, token)
elseif o.values[old] and not recovering(o) then
  e, fence = own(o, old), call('ZSCORE', o.holders, old)
  if fence then
    if e.channel ~= '-' then tell(e.channel, { 'lost', old, 'adopted', ARGV[7] }) end
    o.values[old] = nil
    call('HDEL', o.obj, 't:' .. old)
    call('ZREM', o.holders, old)
    call('ZREM', o.expiry, old)
    e.lease = bounded(o, e.lease, 0)
    e.channel, e.holder, e.since = ARGV[5], ARGV[6], math.min(e.since, now)
    -- Who has let go of a lease had woken up with it: the notification is heard.
    if string.sub(e.names, 1, 1) == '@' then e.names = '-' end
    o.changed = true
    store(o, token, e)
    call('ZADD', o.holders, fence, token)
  end
end
local reply = { 'gone', int(now) }
if fence then
  local ends = tonumber(call('ZSCORE', o.expiry, token))
  if not ends then
    ends = lease_end(e)
    call('ZADD', o.expiry, int(ends), token)
  end
  reply = describe(o, tonumber(fence), ends, e)
  reply[1] = 'adopted'
  table.insert(reply, 2, e.grace)
  table.insert(reply, 2, e.max_hold)
end
close(o)
return reply
