#!lua flags=allow-oom
-- release: gives leases back and leaves the queue, and grants what that frees.
-- KEYS  obj holders queue expiry [waits] [resources free]
-- ARGV  run id, controller's channel, cause (empty: by the owner; "dropped": by its client, because nobody takes it up; else
--       the owner is told), token...
-- Reply for each token: released (it was held), left (it was waiting), gone (neither)
-- Safe to repeat. O(log n) a token.
local tokens = { unpack(ARGV, 4) }
local o = open(0, #KEYS, ARGV[1], ARGV[2], tokens)
local cause = ARGV[3] ~= '' and ARGV[3] or nil

-- A lease that has run out is not released any more: its successor may hold already.
local function runs(token)
  local ends = o.values[token] and tonumber(call('ZSCORE', o.expiry, token))
  return ends and ends > now
end

-- The ordinary end of a lock: nobody else holds or waits, so that nothing has to be settled, and the object goes.
local function last_one(token)
  local value = o.values[token]
  return value and not cause and not o.pool and #tokens == 1 and not (o.declared or o.retained or o.draining)
    and tonumber(string.match(value, '^%d+')) == o.held and nobody_waits(o) and runs(token)
end

if last_one(tokens[1]) then
  drop(o)
  return { 'released' }
end
local reply = {}
for i, token in ipairs(tokens) do reply[i] = runs(token) and finish(o, token, cause) or 'gone' end
settle(o)
close(o)
return reply
