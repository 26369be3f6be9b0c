-- declare: makes a declared object, or changes it. The controller's script; it takes nothing from any holder.
-- KEYS  obj holders queue expiry [resources free selectors]
-- ARGV  run id, controller's channel, digest, floor (every later fencing token is larger), recovery (0: the object has
--       never been declared before; else the longest lease that may be running, in ms), lease ms, max hold ms (0: none),
--       limit (permits, or resources in service), life, newest (the run id and the newest fencing token that it was planned
--       for: what observe said; or "" and 0);
--       a pool goes on: order, then prefix and count of generated names, or "" and 0; then for each named resource:
--       name, "1" (in service) or "0" (disabled) followed by its properties
-- Reply 1 when the object has to recover: nothing new is granted for the longest lease that may be running, as far as Redis
--       or the caller knows, and known holders are let in again; else 0
-- Error OTHERLIFE: the server was restarted, or has lost data, since it was observed
-- Data in which the newest fencing token is below the floor, although a floor goes to Redis before it is counted from, is not
-- the data that was told the floor before: it has to recover also in the same life of the server process (a failback).
-- A smaller limit drains: holders keep what they have, and it is not granted again. Safe to repeat.
-- O(n) in the named resources and the leases; of a generated pool, O(n) in the leases where its prefix changes, and in the
-- marked names (core.lua) where its count does. Of a smaller count the calls that follow apply some each.
---- core.lua
local o = open(0, #KEYS, ARGV[1], ARGV[2])
local floor, recovery, lease = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])

local life, newest = ARGV[9] or '', tonumber(ARGV[10] or 0)
if life ~= '' and (life ~= o.here or o.last < newest) then return redis.error_reply('OTHERLIFE ' .. object_of(o)) end

local longest = math.max(recovery, lease, o.lease)
local lost = recovery > 0 and (o.run ~= o.here or o.last < floor)
if lost then o.recover = now + longest end
o.ttl = math.max(o.ttl, longest) -- also bounds the recovery
-- Its first users have been granted something since the loss: who held before is let in again only where there is room.
if lost then
  if o.exists and not o.declared then call('HSET', o.obj, 'beside', 1) else call('HDEL', o.obj, 'beside') end
end
o.shrunk = o.exists and tonumber(ARGV[8]) < o.limit
o.exists, o.declared, o.run, o.changed = true, ARGV[3], o.here, true
o.draining, o.kept, o.retained = nil, nil, nil
o.lease, o.max_hold, o.limit, o.last = lease, tonumber(ARGV[7]), tonumber(ARGV[8]), math.max(o.last, floor)
for _, key in ipairs(KEYS) do call('PERSIST', key) end
call('HDEL', o.obj, 'draining', 'kept', 'retained')
call('HSET', o.obj, 'declared', o.declared, 'run', o.run, 'recover', int(o.recover), 'lease', int(o.lease),
  'max_hold', int(o.max_hold))

local function generated(prefix, count)
  local former, others = o.count, o.prefix ~= prefix
  if others then
    call('UNLINK', o.free)
    o.fresh = 0
  end
  o.prefix, o.count = prefix, count
  if others or o.unmarked then
    pool().mark_held(o, pool().held_names(o))
  elseif former ~= count then
    o.beyond = 0
    for _, name in ipairs(call('HKEYS', o.resources)) do
      if pool().number_of(o, name) >= count then o.beyond = o.beyond + 1 end
    end
  end
  call('HSET', o.obj, 'prefix', prefix, 'count', int(count))
end

local function named(from)
  local held, wanted = pool().held_names(o), {}
  if o.prefix then
    call('DEL', o.resources, o.free)
    call('HDEL', o.obj, 'prefix', 'count', 'fresh', 'beyond')
    o.prefix, o.count, o.fresh = nil, nil, nil
  end
  for i = from, #ARGV, 2 do
    local name, entry = ARGV[i], ARGV[i + 1]
    wanted[name] = true
    call('HSET', o.resources, name, entry)
    if held[name] or string.sub(entry, 1, 1) == '0' then
      call('ZREM', o.free, name)
    else
      call('ZADD', o.free, 'NX', 0, name)
    end
  end
  for _, name in ipairs(call('HKEYS', o.resources)) do
    if not wanted[name] then
      call('HDEL', o.resources, name)
      call('ZREM', o.free, name)
    end
  end
end

if o.pool then
  o.order = ARGV[11]
  call('HSET', o.obj, 'order', o.order)
  if ARGV[12] ~= '' then generated(ARGV[12], tonumber(ARGV[13])) else named(14) end
end
settle(o)
close(o)
return lost and 1 or 0
