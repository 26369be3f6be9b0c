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
  if alone and string.find(alone, token .. ' ', 4, true) == 4 and string.sub(alone, 1, 3) == 'v2 ' then
    redis.call('UNLINK', obj)
    return 'released'
  end
  local field, got = 't:' .. token, {}
  if not alone and not string.find(obj, '/pool/', 1, true) then
    got = redis.pcall('HMGET', obj, 'limit', 'held', 'last', 'protocol', 'declared', 'draining', 'retained', field)
  end
  local permits = tonumber(string.match(got[8] or '', '^(%d+) %d+ %d+ %d+ %d+ %d+ %S+ %- '))
  local plain = got[1] and got[2] and got[3] and permits and got[4] == '2' and not (got[6] or got[7])
  -- A number that is none is named by the slow way.
  plain = plain and string.find(table.concat(got, ' ', 1, 3), '^%d+ %d+ %d+$')
  local clock, bound = plain and redis.call('TIME'), nil
  local now_us = clock and clock[1] * 1000000 + clock[2] or 0
  local now, declared, here = (now_us - now_us % 1000) / 1000, plain and got[5], string.sub(ARGV[1], 3)
  if declared then
    local more = redis.call('HMGET', obj, 'lease', 'max_hold', 'run', 'recover', 'watched')
    bound = tonumber(string.match(more[1] or '', '^%d+$'))
    plain = bound and bound > 0 and bound < 1e16 and more[2] == '0'
    plain = plain and (tonumber(string.match(more[4] or '', '^%d+$')) or now + 1) <= now
    plain = plain and more[3] == here and not more[5]
  end
  if plain then
    local limit, held, last = tonumber(got[1]), tonumber(got[2]), tonumber(got[3])
    plain = math.max(limit, held, last) < 1e16
    local stem, at = string.sub(obj, 1, -4), string.format('%d', now)
    local holders, queue, expiry = stem .. 'holders', stem .. 'queue', stem .. 'expiry'
    -- An error is a table: the slow way names what is wrong.
    plain = plain and redis.pcall('ZCOUNT', expiry, '-inf', at) == 0
    plain = plain and type(redis.pcall('ZSCORE', holders, token)) == 'string'
    local heads = plain and redis.pcall('ZRANGE', queue, 0, 0)
    plain = plain and not heads.err
    local head = plain and heads[1]
    -- The last lease of an undeclared object ends the object.
    plain = plain and (declared or head or held > permits)
    local left = held - permits
    local wanted, lease, ttl, client, holder, ends
    if plain and head then
      local value = redis.call('HGET', obj, 't:' .. head)
      ends = tonumber(redis.call('ZSCORE', expiry, head) or nil)
      wanted, lease, ttl, client, holder = string.match(value or '', '^(%d+) (%d+) (%d+) 0 0 %d+ (%S+) %- (.*)$')
      wanted, lease = tonumber(wanted), tonumber(lease)
      -- The slow way refuses a head that can never be granted, grants to those behind it where room is left, and cuts an end that
      -- lies too late.
      plain = wanted and ends and wanted > 0 and wanted <= limit and wanted >= limit - left
      plain = plain and ends <= now + math.min(lease, bound or lease)
    end
    if plain then
      if head and wanted == limit - left then
        if bound then lease = math.min(lease, bound) end
        last = declared and last + 1 or math.max(last + 1, now_us)
        left = left + wanted
        local fence = string.format('%d', last)
        local value = string.format('%d %d %s 0 0 %s %s - %s', wanted, lease, ttl, at, client, holder)
        redis.call('HSET', obj, 'last', fence, 't:' .. head, value)
        redis.call('ZADD', holders, fence, head)
        redis.call('ZREM', queue, head)
        local granted = string.format(
          '%s\ngranted\n%s\n%s\n%d\n%d\n%d\n%d\n%d\n%d',
          here,
          head,
          fence,
          now,
          ends,
          lease,
          now,
          declared and 1 or 0,
          wanted
        )
        -- As in `push`.
        local channel, old = client, string.match(obj, '^[^{]*') .. 'client:'
        if string.sub(channel, 1, #old) ~= old then
          channel = string.match(obj, '^[^/]*/') .. 'client/' .. channel .. '}'
        end
        redis.pcall('PUBLISH', channel, granted)
      end
      redis.call('ZREM', holders, token)
      redis.call('ZREM', expiry, token)
      redis.call('HDEL', obj, field)
      if left ~= held then redis.call('HSET', obj, 'held', left) end
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
