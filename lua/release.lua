#!lua flags=allow-oom
-- release: ends leases and queue entries of the caller, and grants the freed permits.
-- KEYS  obj holders queue expiry [waits] [resources free selectors]
-- ARGV  run id, controller's channel, kind, how ("owner": by the owner; "dropped": by its client, because no caller has taken it up;
--       "reclaimed": by another client, and the owner is notified), why (a text for the notified owner), token...
-- Reply for each token: released (it was held), left (it was waiting), gone (neither)
-- Safe to repeat. O(log n) a token.

-- The fast lane, before the functions of lua/lib are created: the lease lies in obj alone (see `unfold`), so that there is no waiter.
local alone
if ARGV[4] == 'owner' and #ARGV == 6 and string.sub(ARGV[2], 1, 2) == '1@' then
  alone = redis.call('MGET', KEYS[1])[1]
  local ends, token = string.match(alone or '', '^v1 (%d+) %d+ (%S+)')
  if token == ARGV[6] then
    local clock = redis.call('TIME')
    if tonumber(ends) > math.floor(clock[1] * 1000 + clock[2] / 1000) then
      redis.call('UNLINK', KEYS[1])
      return { 'released' }
    end
  end
end

---- include lib/settle.lua
---- include lib/close.lua

local how, why = ARGV[4], ARGV[5]
if how ~= 'owner' and how ~= 'dropped' and how ~= 'reclaimed' then
  return redis.error_reply('ERR release: how is owner, dropped or reclaimed')
end
if how == 'owner' then how = nil end
local tokens = {}
for i = 6, #ARGV do
  tokens[#tokens + 1] = ARGV[i]
end
local object = open(0, ARGV[3], tokens, alone)

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
return reply
