-- members: changes the resources of a pool that programs keep, instead of a custom resource.
-- KEYS  obj holders queue expiry resources free selectors, and for stage and commit also: staged resources, staged free
-- ARGV  run id, controller's channel, how, order, how many resources (commit: in all), then for each: name, and for extend
--       and stage "1" followed by its properties
--       extend  adds
--       shrink  takes away
--       clear   takes all away
--       stage   puts aside for commit, for a minute
--       commit  replaces all by what was put aside, in one step
-- Reply how many resources the pool has now
-- Error DECLARED: a custom resource has the say; STALE: what was put aside is not what commit expects
-- What is taken away while it is held drains. Safe to repeat. O(n) in the resources given and the leases, commit in the
-- leases alone.
---- core.lua
local how, count = ARGV[3], tonumber(ARGV[5])
local o = open(0, 7, ARGV[1], ARGV[2])
local staged, staged_free = KEYS[8], KEYS[9]
if o.declared then return redis.error_reply('DECLARED ' .. object_of(o)) end

if how == 'stage' then
  for i = 6, #ARGV, 2 do
    call('HSET', staged, ARGV[i], ARGV[i + 1])
    call('ZADD', staged_free, 0, ARGV[i])
  end
  call('PEXPIRE', staged, 60000)
  call('PEXPIRE', staged_free, 60000)
  return call('HLEN', staged)
end

if not o.exists then
  o.exists, o.limit = true, 0
else
  settle(o)
end
local held = pool().held_names(o)

if how == 'commit' then
  if call('HLEN', staged) ~= count then
    if not (o.kept and call('EXISTS', staged) == 0 and o.limit == count) then
      return redis.error_reply('STALE ' .. call('HLEN', staged))
    end
    -- A repeated commit: the first one has done it.
  elseif count > 0 then
    call('RENAME', staged, o.resources)
    call('RENAME', staged_free, o.free)
    call('PERSIST', o.resources)
    call('PERSIST', o.free)
    for name in pairs(held) do call('ZREM', o.free, name) end
  else
    call('UNLINK', o.resources, o.free)
  end
elseif how == 'clear' then
  call('UNLINK', o.resources, o.free)
elseif how == 'extend' then
  for i = 6, #ARGV, 2 do
    if call('HSET', o.resources, ARGV[i], ARGV[i + 1]) == 1 and not held[ARGV[i]] then
      call('ZADD', o.free, 'NX', 0, ARGV[i])
    end
  end
else
  for i = 6, #ARGV do
    call('HDEL', o.resources, ARGV[i])
    call('ZREM', o.free, ARGV[i])
  end
end

o.entries = nil -- what was read of them before
o.limit = call('HLEN', o.resources)
o.changed = true
o.kept = o.limit > 0 and 1 or nil
if o.kept then
  o.order = ARGV[4]
  call('HSET', o.obj, 'kept', 1, 'order', o.order, 'limit', int(o.limit))
  for i = 1, 7 do call('PERSIST', KEYS[i]) end
else
  call('HDEL', o.obj, 'kept')
end
local size = o.limit
advance(o)
close(o)
return size
