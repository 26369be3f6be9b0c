#!lua flags=allow-oom
-- release: gives leases back and leaves the queue, and grants what that frees.
-- KEYS  obj holders queue expiry [waits] [resources free]
-- ARGV  run id, controller's channel, cause (empty: by the owner; else the owner is told), token...
-- Reply for each token: released (it was held), left (it was waiting), gone (neither)
-- Safe to repeat. O(log n) a token.
local tokens = { unpack(ARGV, 4) }
local o = open(0, #KEYS, ARGV[1], ARGV[2], tokens)
local cause = ARGV[3] ~= '' and ARGV[3] or nil
local reply = {}
for i, token in ipairs(tokens) do
  -- A lease that has run out is not released any more: its successor may hold already.
  local ends = o.values[token] and tonumber(call('ZSCORE', o.expiry, token))
  if ends and ends > now then reply[i] = finish(o, token, cause) else reply[i] = 'gone' end
end
settle(o)
close(o)
return reply
