#!lua flags=allow-oom
-- release: ends leases and queue entries of the caller, and grants the freed permits.
-- KEYS  obj
-- ARGV  version and run id, tokens with spaces in between, how (absent or "owner": by the owner; "dropped": by its client, because
--       no caller has taken it up; "reclaimed": by another client, and the owner is notified), why (a text for the notified owner)
-- Reply for each token: released (it was held), left (it was waiting), gone (neither)
-- Safe to repeat. O(log n) a token.

-- The fast lane, before the functions of lua/lib are created: the lease lies in obj alone (see `unfold`), so that there is no waiter.
local alone
if not ARGV[3] and string.sub(ARGV[1], 1, 2) == '2 ' then
  alone = redis.call('MGET', KEYS[1])[1]
  local start = 'v2 ' .. ARGV[2] .. ' '
  if alone and string.sub(alone, 1, #start) == start then
    local lease = tonumber(string.match(alone, '^%d+', #start + 1))
    if lease and redis.call('PTTL', KEYS[1]) > lease + 1000 then
      redis.call('UNLINK', KEYS[1])
      return { 'released' }
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
return reply
