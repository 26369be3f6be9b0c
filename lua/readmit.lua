#!lua flags=allow-oom
-- readmit: lets a holder in again, under its old fencing token, while its object recovers from a loss of data.
-- KEYS  obj holders queue expiry [waits] [resources free selectors]
-- ARGV  run id, controller's channel, token, fence, permits, lease ms, max hold ms, since ms, channel,
--       resources joined by commas (or "-"), holder JSON, grace ms
-- Reply held now expires, or gone now
-- Where an old snapshot has given a resource to somebody else, the larger fencing token is the truth. Of permits nobody can
-- tell who has whose: all that know their fencing token are let in, also past the limit. They did hold together, so that
-- they are no more than it; what is too many has ended since the snapshot, and nobody renews it. It keeps others out for one
-- lease at most, while to refuse, or to end the oldest, could take a lease from one who works on it. But where first users have
-- been granted permits since the loss, before the object was declared again, who does not fit beside them is refused: the
-- larger fencing tokens are theirs.
-- A lease with the same fencing token is the same one: it was adopted after the snapshot (see adopt), or has run out in it and
-- stands there in its grace. It makes room for the holder that comes back.
-- O(n) in the leases of a pool, otherwise O(log n).
---- core.lua
local token, fence = ARGV[3], tonumber(ARGV[4])
local o = open(0, #KEYS, ARGV[1], ARGV[2], { token })
local lease, max_hold = bounded(o, tonumber(ARGV[6]), tonumber(ARGV[7]))
local e = { permits = tonumber(ARGV[5]), lease = lease, place = 0, max_hold = max_hold,
  grace = tonumber(ARGV[12]), since = tonumber(ARGV[8]),
  channel = ARGV[9], names = ARGV[10], holder = ARGV[11] }
settle(o)

local function holders_of(names)
  local wanted, found = {}, {}
  for name in string.gmatch(names, '[^,]+') do wanted[name] = true end
  local all = call('ZRANGE', o.holders, 0, -1, 'WITHSCORES')
  for i = 1, #all, 2 do
    local other = find(o, all[i])
    for name in string.gmatch(other and other.names or '', '[^,]+') do
      if wanted[name] then
        found[#found + 1] = { token = all[i], fence = tonumber(all[i + 1]) }
        break
      end
    end
  end
  return found
end

local ends = lease_end(e)
local admit = o.exists and recovering(o) and ends > now
if o.values[token] then
  admit = false
  if call('ZSCORE', o.holders, token) then
    call('ZADD', o.expiry, ends, token)
    close(o)
    return { 'held', int(now), int(ends) }
  end
end
if admit and not o.pool and o.held + e.permits > o.limit then admit = call('HEXISTS', o.obj, 'beside') == 0 end
local others = admit and o.pool and holders_of(e.names) or {}
for _, other in ipairs(others) do admit = admit and other.fence <= fence end
if admit then
  for _, same in ipairs(call('ZRANGE', o.holders, int(fence), int(fence), 'BYSCORE')) do finish(o, same) end
  for _, other in ipairs(others) do finish(o, other.token, 'superseded') end
  if o.pool then
    for name in string.gmatch(e.names, '[^,]+') do pool().claim(o, name) end
  end
end
if not admit then
  close(o)
  return { 'gone', int(now), '0' }
end
o.held = o.held + e.permits
o.last = math.max(o.last, fence)
o.changed = true
store(o, token, e)
call('ZADD', o.holders, fence, token)
call('ZADD', o.expiry, ends, token)
close(o)
return { 'held', int(now), int(ends) }
