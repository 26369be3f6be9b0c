-- declare: makes a declared object, or changes it. The controller's script; it ends no lease.
-- KEYS  obj
-- ARGV  version and run id, digest, floor (every later fencing token is larger), recovery (0: the object has
--       never been declared before; else the longest lease that may be running, in ms), lease ms, max hold ms (0: none),
--       limit (permits, or resources in service), life, newest (the run id and the newest fencing token of the observation that
--       it was planned for; or "" and 0);
--       a pool goes on: order, then prefix and count of generated names, or "" and 0; then for each named resource:
--       name, "1" (in service) or "0" (disabled) followed by its properties
-- Reply 1 when the object must recover: nothing new is granted for the longest lease that may be running, as far as Redis
--       or the caller knows, and known holders are readmitted; else 0
-- Error OTHERLIFE: the server was restarted, or has lost data, since it was observed
-- A floor goes to Redis before tokens are counted from it. Data in which the newest fencing token is below the floor is
-- therefore other data: it must recover also in the same life of the server process (a failback).
-- A smaller limit drains: holders keep their leases, and the excess is not granted again. Safe to repeat.
-- O(n) in the named resources and the leases; of a generated pool, O(n) in the leases where its prefix changes, and in the
-- marked names (lua/lib/object.lua) where its count does. The following calls apply a smaller count in pieces.
---- include lib/settle.lua
---- include lib/close.lua
local object = open(KEYS[1])
local floor, recovery, lease, limit = tonumber(ARGV[3]), amount(ARGV[4]), amount(ARGV[5]), amount(ARGV[7])

local life, newest = ARGV[8] or '', tonumber(ARGV[9] or 0)
if life ~= '' and (life ~= here or object.last < newest) then
  close(object)
  return redis.error_reply('OTHERLIFE ' .. object_name(object))
end

local longest = math.max(recovery, lease, object.lease)
local lost = recovery > 0 and (object.run ~= here or object.last < floor)
if lost then object.recover = now + longest end
object.ttl = math.max(object.ttl, longest) -- also bounds the recovery
-- First users have been granted permits since the loss: former holders are readmitted only where there is room.
if lost then
  if object.exists and not object.declared then
    call('HSET', object.obj, 'beside', 1)
  else
    call('HDEL', object.obj, 'beside')
  end
end
object.shrunk = object.exists and limit < object.limit
object.exists, object.declared, object.run, object.changed = true, ARGV[2], here, true
object.draining, object.kept, object.retained = nil, nil, nil
object.lease, object.max_hold, object.limit, object.last = lease, amount(ARGV[6]), limit, math.max(object.last, floor)
for _, key in ipairs(keys_of(object)) do
  call('PERSIST', key)
end
call('HDEL', object.obj, 'retained')
call('HSET', object.obj, 'declared', object.declared)

local function generated(prefix, count)
  local former, others = object.count, object.prefix ~= prefix
  if others then
    call('UNLINK', object.free)
    object.fresh = 0
  end
  object.prefix, object.count = prefix, count
  if others or object.unmarked then
    pool().mark_held(object, pool().held_names(object))
  elseif former ~= count then
    object.beyond = 0
    for _, name in ipairs(call('HKEYS', object.resources)) do
      if (pool().number_of(object, name) or 0) >= count then object.beyond = object.beyond + 1 end
    end
  end
  call('HSET', object.obj, 'prefix', prefix, 'count', int(count))
end

local function named(from)
  local held, wanted = pool().held_names(object), {}
  if object.prefix then
    call('DEL', object.resources, object.free)
    call('HDEL', object.obj, 'prefix', 'count', 'fresh', 'beyond')
    object.prefix, object.count, object.fresh = nil, nil, nil
  end
  for i = from, #ARGV, 2 do
    local name, record = ARGV[i], ARGV[i + 1]
    wanted[name] = true
    call('HSET', object.resources, name, record)
    if held[name] or string.sub(record, 1, 1) == '0' then
      call('ZREM', object.free, name)
    else
      call('ZADD', object.free, 'NX', 0, name)
    end
  end
  for _, name in ipairs(call('HKEYS', object.resources)) do
    if not wanted[name] then
      call('HDEL', object.resources, name)
      call('ZREM', object.free, name)
    end
  end
end

if object.pool then
  object.order = ARGV[10]
  call('HSET', object.obj, 'order', object.order)
  if ARGV[11] ~= '' then
    generated(ARGV[11], tonumber(ARGV[12]))
  else
    named(13)
  end
end
settle(object)
close(object)
return lost and 1 or 0
