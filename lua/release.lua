#!lua flags=allow-oom
-- release: ends leases and queue entries of the caller, and grants the freed permits.
-- KEYS  obj
-- ARGV  version and run id, tokens with spaces in between, how (absent or "owner": by the owner; "dropped": by its client, because
--       no caller has taken it up; "reclaimed": by another client, and the owner is notified), why (a text for the notified owner)
-- Reply for each token, with spaces in between: released (it was held), left (it was waiting), gone (neither)
-- Safe to repeat. O(log n) a token.

-- Two fast lanes, before the functions of lua/lib are created. The first one: the lease lies in obj alone (see `unfold`), so that
-- there is no waiter. The second one: an ordinary lease that lies in a hash, of an object that is no pool and in which nothing
-- has expired; but not the last lease of an undeclared object without a waiter, which ends the object. The queue entry at the
-- head becomes a lease where it takes all the room. The outcome is that of the slow way.
local alone
if not ARGV[3] and string.sub(ARGV[1], 1, 2) == '2 ' then
  local obj, token = KEYS[1], ARGV[2]
  alone = redis.call('MGET', obj)[1]
  if alone then
    -- "v2 ", the token, and a space, without another text of all that.
    local first, last = string.find(alone, token, 4, true)
    if first == 4 and string.byte(alone, 2) == 50 and string.byte(alone, last + 1) == 32 then
      redis.call('UNLINK', obj)
      return 'released'
    end
  end
  local field, got = 't:' .. token, {}
  if not alone and not string.find(obj, '/pool/', 1, true) then got = redis.pcall('HMGET', obj, 'state', field) end
  local permits = string.match(got[2] or '', '^(%d+) %d+ %d+ %d+ %d+ %d+ %S+ %- ')
  local limit, held, last, rest, longest, soonest, marks, bound, max_hold, recover, run =
    string.match(got[1] or '', '^2 (%d+) (%d+) (%d+)( %d+ (%d+) (%d+) ([-d]) (%d+) (%d+) (%d+) (.+))$')
  -- A longer number is no number of ours: the slow way names it.
  local short = run and permits and #limit < 17 and #held < 17 and #last < 17 and #longest < 17
  if short and #soonest < 17 and #bound < 17 and #recover < 17 then
    local clock, here, declared = redis.call('TIME'), string.sub(ARGV[1], 3), marks == 'd'
    local at = clock[1] .. string.sub(1000000 + clock[2], 2, 4)
    local now, plain = at + 0, at + 0 < soonest + 0
    if declared then plain = plain and max_hold == '0' and bound ~= '0' and recover + 0 <= now and run == here end
    local stem, left = string.sub(obj, 1, -4), held - permits
    local holders, queue, expiry = stem .. 'holders', stem .. 'queue', stem .. 'expiry'
    -- The entry at the head leaves the queue, and is put back where it gets no lease here. A queue that was empty in between has lost
    -- its end, and no key of an object may outlive obj: the end of the queue stands for that of all of them.
    local popped = plain and redis.pcall('ZPOPMIN', queue) or { err = '' }
    local head, place = popped[1], popped[2]
    -- The last lease of an undeclared object ends the object.
    plain = not popped.err and (declared or head or left > 0) and head ~= token
    local grants, wanted, lease, ttl, at_client, client, at_holder, value, ends = false
    if plain and head then
      value = redis.call('HGET', obj, 't:' .. head) or ''
      ends = redis.pcall('ZSCORE', expiry, head)
      wanted, lease, ttl, at_client = string.match(value, '^(%d+) (%d+) (%d+) 0 0 %d+ ()%S')
      at_holder = wanted and string.find(value, ' ', at_client, true)
      plain = at_holder and string.sub(value, at_holder, at_holder + 2) == ' - ' and type(ends) == 'string'
      if plain then
        if declared and lease + 0 > bound + 0 then lease = bound end
        -- The slow way refuses a head that can never be granted, grants to those behind it where room is left, and cuts an end that
        -- lies too late.
        plain = wanted ~= '0' and wanted + 0 <= limit + 0 and wanted + 0 >= limit - left and ends + 0 <= now + lease
        client = string.sub(value, at_client, at_holder - 1)
        grants = plain and wanted + 0 == limit - left and not string.find(client, ':', 1, true)
        plain = grants or plain and wanted + 0 > limit - left
      end
    end
    if grants then
      -- Before the former lease goes: a key that is empty in between would lose its end.
      local fence = declared and last + 1 or clock[1] * 1000000 + clock[2]
      if fence <= last + 0 then fence = last + 1 end
      last = string.format('%d', fence)
      grants = redis.pcall('ZADD', holders, last, head) == 1
      plain = grants
    end
    plain = plain and type(redis.pcall('ZREM', expiry, token)) == 'number'
    local gone = plain and redis.pcall('ZREM', holders, token) == 1
    if head and not (gone and grants) then
      if grants then redis.pcall('ZREM', holders, head) end
      redis.call('ZADD', queue, place, head)
      local ends_at = declared and 0 or redis.call('PEXPIRETIME', obj)
      if ends_at > 0 then redis.call('PEXPIREAT', queue, ends_at) end
    end
    if gone then
      redis.call('HDEL', obj, field)
      if grants then
        value = wanted .. ' ' .. lease .. ' ' .. ttl .. ' 0 0 ' .. at .. ' ' .. client .. string.sub(value, at_holder)
        redis.call('HSET', obj, 'state', '2 ' .. limit .. ' ' .. limit .. ' ' .. last .. rest, 't:' .. head, value)
        -- As in `push`.
        local channel = string.sub(obj, 1, string.find(obj, '/', 1, true)) .. 'client/' .. client .. '}'
        local granted = here .. '\ngranted\n' .. head .. '\n' .. last .. '\n' .. at .. '\n' .. ends .. '\n' .. lease
        granted = granted .. '\n' .. at .. (declared and '\n1\n' or '\n0\n') .. wanted
        redis.pcall(string.find(client, '/', 1, true) and 'SPUBLISH' or 'PUBLISH', channel, granted)
      else
        redis.call('HSET', obj, 'state', '2 ' .. limit .. ' ' .. string.format('%d', left) .. ' ' .. last .. rest)
      end
      return 'released'
    end
  end
end

---- include lib/settle.lua
---- include lib/close.lua

local how, why = ARGV[3] or 'owner', ARGV[4]
if how ~= 'owner' and how ~= 'dropped' and how ~= 'reclaimed' then
  return redis.error_reply('ERR release: how is owner, dropped or reclaimed')
end
if how == 'owner' then how = nil end
local tokens = {}
for token in string.gmatch(ARGV[2], '%S+') do
  tokens[#tokens + 1] = token
end
local object = open(KEYS[1], tokens, alone)

-- A lease that has run out is not released any more: its successor may hold already. One whose end is gone, by an eviction,
-- has not.
local function runs(token)
  return value_of(object, token) and (tonumber(call('ZSCORE', object.expiry, token)) or math.huge) > now
end

local reply = {}
for i, token in ipairs(tokens) do
  reply[i] = runs(token) and finish(object, token, how, why) or 'gone'
end
settle(object)
close(object)
return table.concat(reply, ' ')
