-- members: changes the resources of a pool that programs keep, instead of a custom resource.
-- KEYS  obj
-- ARGV  version and run id, how, order, how many resources (commit: in all), the id under which resources are staged, then for
--       each: name, and for extend and stage "1" followed by its properties
--       extend  adds
--       shrink  takes away
--       clear   takes all away
--       stage   stages for commit, for a minute
--       commit  replaces all by the staged ones, in one step
-- Reply the number of resources of the pool
-- Error DECLARED: a custom resource declares the pool; STALE: the staged resources are not those that commit expects
-- A resource that is removed while it is held drains. Safe to repeat. O(n) in the resources given and the leases, commit in the
-- leases alone.
---- include lib/settle.lua
---- include lib/close.lua
local how, count = ARGV[2], tonumber(ARGV[4])
local object = open(KEYS[1])
local staged, staged_free = object.stem .. 'staged-' .. ARGV[5], object.stem .. 'staged-free-' .. ARGV[5]
if object.declared then return redis.error_reply('DECLARED ' .. object_name(object)) end

if how == 'stage' then
  for i = 6, #ARGV, 2 do
    call('HSET', staged, ARGV[i], ARGV[i + 1])
    call('ZADD', staged_free, 0, ARGV[i])
  end
  call('PEXPIRE', staged, 60000)
  call('PEXPIRE', staged_free, 60000)
  return call('HLEN', staged)
end

if not object.exists then
  object.exists, object.limit = true, 0
else
  settle(object)
end
local held = pool().held_names(object)

if how == 'commit' then
  if call('HLEN', staged) ~= count then
    if not (object.kept and call('EXISTS', staged) == 0 and object.limit == count) then
      close(object)
      return redis.error_reply('STALE ' .. call('HLEN', staged))
    end
    -- A repeated commit: the first one has done it.
  elseif count > 0 then
    call('RENAME', staged, object.resources)
    call('RENAME', staged_free, object.free)
    call('PERSIST', object.resources)
    call('PERSIST', object.free)
    for name in pairs(held) do
      call('ZREM', object.free, name)
    end
  else
    call('UNLINK', object.resources, object.free)
  end
elseif how == 'clear' then
  call('UNLINK', object.resources, object.free)
elseif how == 'extend' then
  for i = 6, #ARGV, 2 do
    if call('HSET', object.resources, ARGV[i], ARGV[i + 1]) == 1 and not held[ARGV[i]] then
      call('ZADD', object.free, 'NX', 0, ARGV[i])
    end
  end
else
  for i = 6, #ARGV do
    call('HDEL', object.resources, ARGV[i])
    call('ZREM', object.free, ARGV[i])
  end
end

-- The resources were read before they changed.
object.records, object.newest, object.unreadable = nil, nil, nil
object.limit = call('HLEN', object.resources)
object.changed = true
object.kept = object.limit > 0 and 1 or nil
if object.kept then
  object.order = ARGV[3]
  call('HSET', object.obj, 'order', object.order)
  for _, key in ipairs(keys_of(object)) do
    call('PERSIST', key)
  end
end
local size = object.limit
advance(object)
close(object)
return size
