#!lua flags=allow-oom
-- renew: renews many leases and queue entries of one client, over many objects, in one command.
-- KEYS  the keys of each object, one after the other
-- ARGV  run id, controller's channel, then for each object: its kind, how many tokens, token... A number of
--       tokens may be followed by ">" and the newest fencing token that the client has seen of that object, as a declared
--       one: data that has not granted it yet is not current, and recovers
-- Reply now, then for each token four values, the last of which is the newest fencing token of a declared object, or 0:
--       held       expires last   last: 1 if the longest hold ends then, and no renewal extends the lease; else 0
--       waiting    expires wake   wake: when to renew next if that is before a third of the entry's life; 0: at once
--       recovering 0 0    the object recovers from a loss of data and does not have this token: readmit
--       missing    0 0    the object does not exist (any more, or yet)
--       gone       0 0    neither holds nor waits, or waited for what can never be granted: acquire returns the error
--       failed     error 0  an error of this object alone: DAMAGED (its data, or the value of this lease, was not written by
--                  Tenure) or VERSION. Other objects are renewed all the same
-- An expired lease is gone: a renewal never revives it. A declared lease that was shortened counts from here. O(log n) a token.

---- include lib/kinds.lua

-- The arguments of each object of the call, and the position of its outcomes in the reply.
local VALUES = 4 -- of each token in the reply
local reply, groups = { 0 }, {}
do
  local key, arg, last = 0, 3, 1
  while arg <= #ARGV do
    local kind, count, seen = ARGV[arg], string.match(ARGV[arg + 1], '^(%d+)>?(%d*)$')
    count = tonumber(count)
    if not WIDTHS[kind] then return redis.error_reply('ERR unknown kind of object ' .. kind) end
    groups[#groups + 1] = { key = key, kind = kind, count = count, seen = tonumber(seen), arg = arg + 2, at = last + 1 }
    for i = last + 1, last + VALUES * count do
      reply[i] = 0
    end
    key, arg, last = key + WIDTHS[kind], arg + 2 + count, last + VALUES * count
  end
end

-- Two fast lanes, before the functions of lua/lib are created: most leases lie in obj alone (see `unfold`), and most queue
-- entries are the only one of their object. The lanes only renew: an object with an expired lease, with room for a grant, or out
-- of the ordinary takes the slow way; and so does a command that fails, because the slow way names the error.
local function ask(...)
  local got = redis.pcall(...)
  return not (type(got) == 'table' and got.err) and got or nil
end

local function renew_alone(group, alone, at)
  local ends, fence, token, permits, lease, rest = string.match(alone, '^v1 (%d+) (%d+) (%S+) (%d+) (%d+) (.*)$')
  if token ~= ARGV[group.arg] or tonumber(ends) <= at or math.floor(fence / 1000) > at then return false end
  ends = at + lease
  alone = string.format('v1 %d %s %s %s %s %s', ends, fence, token, permits, lease, rest)
  if not ask('SET', KEYS[group.key + 1], alone, 'PX', lease * 2 + 1000) then return false end
  reply[group.at], reply[group.at + 1] = 'held', ends
  return true
end

local function renew_queue_entry(group, at)
  local obj, queue, expiry, token = KEYS[group.key + 1], KEYS[group.key + 3], KEYS[group.key + 4], ARGV[group.arg]
  if group.kind == 'pool' or ask('ZRANK', queue, token) ~= 0 then return false end
  local got = ask(
    'HMGET',
    obj,
    'limit',
    'held',
    'last',
    'ticket',
    'ttl',
    't:' .. token,
    'protocol',
    'declared',
    'draining',
    'retained'
  )
  if not got or got[7] ~= '1' or got[8] or got[9] or got[10] then return false end
  for i = 1, 5 do
    if not string.match(got[i] or '', '^%d+$') then return false end
  end
  local permits, entry_ttl = string.match(got[6] or '', '^(%d+) %d+ (%d+) %d+ %d+ %d+ %S+ %- ')
  local limit, ttl = tonumber(got[1]), tonumber(got[5])
  if not permits or tonumber(got[2]) < limit or tonumber(permits) > limit then return false end
  local first, last = ask('ZRANGE', expiry, 0, 1, 'WITHSCORES'), ask('ZRANGE', expiry, -1, -1, 'WITHSCORES')
  local due = not (first and first[2] and last) or tonumber(first[2]) <= at
  if due or tonumber(last[2]) > at + ttl + 1000 or (ask('PTTL', obj) or 0) <= ttl then return false end
  local ends = at + entry_ttl
  if not ask('ZADD', expiry, string.format('%d', ends), token) then return false end
  local others = first[1] == token and first[4] or first[1] ~= token and first[2] or ends
  reply[group.at], reply[group.at + 1] = 'waiting', ends
  reply[group.at + 2] = math.min(others, ends) - at
  return true
end

-- A longer call than clients send would not fit on Lua's stack.
if string.sub(ARGV[2], 1, 2) == '1@' and #groups <= 1000 then
  local objects, others = {}, {}
  for i, group in ipairs(groups) do
    objects[i] = KEYS[group.key + 1]
  end
  local alone, clock = redis.call('MGET', unpack(objects)), redis.call('TIME')
  local at = math.floor(clock[1] * 1000 + clock[2] / 1000)
  for i, group in ipairs(groups) do
    local plain = group.count == 1 and not group.seen
    local renewed = plain
      and (alone[i] and renew_alone(group, alone[i], at) or not alone[i] and renew_queue_entry(group, at))
    if not renewed then others[#others + 1] = group end
  end
  groups, reply[1] = others, at
  if #groups == 0 then return reply end
end

---- include lib/lease.lua
---- include lib/settle.lua
---- include lib/waiting.lua
---- include lib/close.lua

local function renew(group)
  local tokens, at = {}, group.at
  for i = group.arg, group.arg + group.count - 1 do
    tokens[#tokens + 1] = ARGV[i]
  end
  local object = open(group.key, group.kind, tokens)
  if group.seen then outdated(object, group.seen) end
  settle(object)
  if not object.exists then missing(object) end
  local waiting = {}
  for _, token in ipairs(tokens) do
    local value = value_of(object, token)
    local entry = value and parse_entry(value)
    if not object.exists then
      reply[at] = 'missing'
    elseif not value then
      reply[at] = recovering(object) and 'recovering' or 'gone'
    elseif call('ZSCORE', object.holders, token) then
      if entry then
        entry.lease = bounded(object, entry.lease, 0)
        local ends = lease_end(entry)
        call('ZADD', object.expiry, ends, token)
        local unheard, set_back = string.sub(entry.names, 1, 1) == '@', entry.since > now
        if unheard then entry.names = '-' end -- its client has woken up: the notification was received
        if set_back then entry.since = now end -- the server's clock was: the longest hold counts from here
        if unheard or set_back then store(object, token, entry) end
        -- Renewed for less than a lease: the longest hold ends then.
        reply[at], reply[at + 1], reply[at + 2] = 'held', ends, ends < now + entry.lease and 1 or 0
      else
        local _, problem = pcall(own_entry, object, token)
        reply[at], reply[at + 1] = 'failed', type(problem) == 'table' and problem.err or problem
      end
    elseif entry then
      local refused = refusal(object, entry.permits, entry.names)
      if refused then
        finish(object, token, 'refused', refused)
        advance(object)
        reply[at] = 'gone'
      else
        call('ZADD', object.expiry, now + entry.ttl, token)
        reply[at], reply[at + 1] = 'waiting', now + entry.ttl
        waiting[at + 2] = { token, entry }
      end
    else
      -- An entry that cannot be read is made anew.
      finish(object, token)
      reply[at] = 'gone'
    end
    reply[at + 3] = newest_of(object)
    at = at + VALUES
  end
  if next(waiting) then
    local soonest = wake(object)
    for wakes, waiter in pairs(waiting) do
      reply[wakes] = tonumber(wake_at(object, soonest, position(object, waiter[1], waiter[2])))
    end
  end
  close(object)
end

-- Not before what the lanes have renewed: clients count from here.
reply[1] = now
for _, group in ipairs(groups) do
  local whole, problem = pcall(renew, group)
  if not whole then
    -- Redis' own pcall gives the text of an error that is a table.
    local text = type(problem) == 'table' and problem.err or problem
    if not (string.match(text, '^DAMAGED ') or string.match(text, '^VERSION ')) then
      if not string.find(text, 'user_script:', 1, true) then error({ err = text }) end
      text = 'DAMAGED - its parts do not fit together: ' .. text
    end
    for at = group.at, group.at + VALUES * (group.count - 1), VALUES do
      reply[at], reply[at + 1], reply[at + 2], reply[at + 3] = 'failed', text, 0, 0
    end
  end
end
return reply
