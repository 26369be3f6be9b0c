#!lua flags=allow-oom
-- readmit: readmits a holder, under its old fencing token, while its object recovers from a loss of data.
-- KEYS  obj
-- ARGV  version and run id, token, fence, permits, lease ms, max hold ms, since ms, client,
--       resources joined by commas (or "-"), holder JSON, grace ms
-- Reply held now expires, or gone now
-- If an old snapshot has given a resource to another holder, the larger fencing token wins. Permits have no names: all holders
-- that know their fencing token are readmitted, also past the limit. They have held together, so that they are not more than
-- the limit; the excess leases have ended since the snapshot, and are not renewed. They delay other requests by one lease at
-- most, while a refusal, or the end of the oldest lease, could end a lease that is in use. But if first users have been granted
-- permits since the loss, before the object was declared again, a holder that does not fit beside them is refused: they have
-- the larger fencing tokens.
-- A lease with the same fencing token is the same lease: it was adopted after the snapshot (see adopt), or has expired in it
-- and is there in its grace. It makes room for the holder that comes back.
-- O(n) in the leases of a pool, otherwise O(log n).
---- include lib/lease.lua
---- include lib/settle.lua
---- include lib/close.lua
local token, fence = ARGV[2], tonumber(ARGV[3])
local object = open(KEYS[1], { token })
local lease, max_hold = bounded(object, amount(ARGV[5]), amount(ARGV[6]))
local entry = {
  permits = amount(ARGV[4]),
  lease = lease,
  ttl = 0,
  max_hold = max_hold,
  grace = amount(ARGV[11]),
  since = amount(ARGV[7]),
  channel = ARGV[8],
  names = ARGV[9],
  holder = ARGV[10],
}
settle(object)

local function holders_of(names)
  local wanted, found = {}, {}
  for name in string.gmatch(names, '[^,]+') do
    wanted[name] = true
  end
  local all = call('ZRANGE', object.holders, 0, -1, 'WITHSCORES')
  for i = 1, #all, 2 do
    local other = find_entry(object, all[i])
    for name in string.gmatch(other and other.names or '', '[^,]+') do
      if wanted[name] then
        found[#found + 1] = { token = all[i], fence = tonumber(all[i + 1]) }
        break
      end
    end
  end
  return found
end

local ends = lease_end(entry)
local admit = object.exists and recovering(object) and ends > now
if object.values[token] then
  admit = false
  if call('ZSCORE', object.holders, token) then
    set_end(object, token, ends)
    close(object)
    return { 'held', int(now), int(ends) }
  end
end
if admit and not object.pool and object.held + entry.permits > object.limit then
  admit = call('HEXISTS', object.obj, 'beside') == 0
end
local others = admit and object.pool and holders_of(entry.names) or {}
for _, other in ipairs(others) do
  admit = admit and other.fence <= fence
end
if admit then
  for _, same in ipairs(call('ZRANGE', object.holders, int(fence), int(fence), 'BYSCORE')) do
    finish(object, same)
  end
  for _, other in ipairs(others) do
    finish(object, other.token, 'superseded')
  end
  if object.pool then
    local names = {}
    for name in string.gmatch(entry.names, '[^,]+') do
      names[#names + 1] = name
    end
    pool().claim(object, names)
  end
end
if not admit then
  close(object)
  return { 'gone', int(now), '0' }
end
object.held = object.held + entry.permits
object.last = math.max(object.last, fence)
object.changed = true
set_end(object, token, ends)
store(object, token, entry)
call('ZADD', object.holders, fence, token)
close(object)
return { 'held', int(now), int(ends) }
