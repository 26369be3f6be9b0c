#!lua flags=allow-oom
-- renew: renews many leases and queue entries of one client, over many objects, in one command.
-- KEYS  obj of each object
-- ARGV  version and run id, then for each object: its tokens, with spaces in between. Before them may stand the newest fencing
--       token that the client has seen of that object, as a declared one, and ">": data that has not granted it yet is not current,
--       and recovers
-- Reply now, then for each token the end of its lease, where no longest hold ends it before and the object is not declared; or
--       otherwise four values, the last of which is the newest fencing token of a declared object, or 0:
--       held       expires last   last: 1 if the longest hold ends then, and no renewal extends the lease; else 0
--       waiting    expires wake   wake: when to renew next if that is before a third of the entry's life; 0: at once
--       recovering 0 0    the object recovers from a loss of data and does not have this token: readmit
--       missing    0 0    the object does not exist (any more, or yet)
--       gone       0 0    neither holds nor waits, or waited for what can never be granted: acquire returns the error
--       failed     error 0  an error of this object alone: DAMAGED (its data, or the value of this lease, was not written by
--                  Tenure) or VERSION. Other objects are renewed all the same
-- An expired lease is gone: a renewal never revives it. A declared lease that was shortened counts from here. O(log n) a token.

-- For each object of the call: the outcome of its token, where a lane has renewed it. The first value is the time.
local renewed, slow = { 0 }, false

-- Three fast lanes, before the functions of lua/lib are created: a lease that lies in obj alone (see `unfold`), a lease in a hash, and
-- the queue entry at the head. They only renew: an object with an expired lease, with room for a grant, or out of the ordinary takes
-- the slow way; and so does a command that fails, because the slow way names the error.
local function ask(...)
  local got = redis.pcall(...)
  return not (type(got) == 'table' and got.err) and got or nil
end

-- Returns the outcome for a lease or a queue entry in a hash, or nil.
local function renew_in_hash(obj, seen, token, at)
  local got, stem = ask('HMGET', obj, 'state', 't:' .. token), string.sub(obj, 1, -4)
  local limit, held, last, ticket, longest, soonest, marks, bound, recover, run =
    string.match(got and got[1] or '', '^2 (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) ([-dw]+) (%d+) %d+ (%d+) (.+)$')
  local permits, lease, ttl, max_hold, grace, since, names =
    string.match(got and got[2] or '', '^(%d+) (%d+) (%d+) (%d+) (%d+) (%d+) %S+ (%S+) ')
  -- A longer number is no number of ours: the slow way names it.
  local short = run and permits and #limit < 17 and #held < 17 and #last < 17 and #ticket < 17 and #longest < 17
  if not short or #soonest > 16 or #bound > 16 or #recover > 16 then return nil end
  local first_end, declared = soonest + 0, string.find(marks, 'd', 1, true)
  if at >= first_end or max_hold ~= '0' or string.find(names, '^[@=?~]') then return nil end
  if declared and (run ~= string.sub(ARGV[1], 3) or recover + 0 > at) or (seen or 0) + 0 > last + 0 then return nil end
  if seen and not declared then return nil end
  local expiry, queue = stem .. 'expiry', stem .. 'queue'
  local is_lease = ask('ZSCORE', stem .. 'holders', token)
  if is_lease then
    if since + 0 > at or held + 0 < limit + 0 and ask('ZCARD', queue) ~= 0 then return nil end
    if declared and bound ~= '0' and bound + 0 < lease + 0 then lease = bound end
    local ends = at + lease
    -- The grace of an undeclared lease moves the end of its keys.
    if lease == '0' or ends < first_end or grace ~= '0' and not declared then return nil end
    if not declared and (ask('PTTL', obj) or 0) <= longest + 0 then return nil end
    if not ask('ZADD', expiry, string.format('%d', ends), token) then return nil end
    return declared and { 'held', ends, 0, last + 0 } or ends
  end
  if names ~= '-' or string.find(obj, '/pool/', 1, true) or ask('ZRANK', queue, token) ~= 0 then return nil end
  -- Room for the head takes the slow way, and so does a request that can never be granted.
  if held + 0 < limit + 0 or permits + 0 > limit + 0 then return nil end
  local ends, latest = at + ttl, ask('ZRANGE', expiry, -1, -1, 'WITHSCORES')
  if ends < first_end or not (latest and latest[2]) or latest[2] + 0 > at + longest + 1000 then return nil end
  if not declared and (ask('PTTL', obj) or 0) <= longest + 0 then return nil end
  if not ask('ZADD', expiry, string.format('%d', ends), token) then return nil end
  local first = ask('ZRANGE', expiry, 0, 0, 'WITHSCORES')
  if not (first and first[2]) then return nil end
  return { 'waiting', ends, math.min(first[2], ends) - at, declared and last + 0 or 0 }
end

-- A longer call than clients send would not fit on Lua's stack. Further keys are there for a cluster.
if string.sub(ARGV[1], 1, 2) == '2 ' and #ARGV > 1 and #ARGV <= 1000 then
  local keys, arguments, pcall, find, byte, match = KEYS, ARGV, redis.pcall, string.find, string.byte, string.match
  local alone, clock = redis.call('MGET', unpack(keys, 1, #arguments - 1)), redis.call('TIME')
  local seconds, at = clock[1], math.floor(clock[1] * 1000 + clock[2] / 1000)
  -- Most leases of a client are of one length: `known`, which is `length` as a number.
  local known, length
  renewed[1] = at
  for i = 1, #arguments - 1 do
    local obj, tokens, text, outcome = keys[i], arguments[i + 1], alone[i], false
    if text then
      -- Behind "v2 ". To capture the token would cost a tenth of a renewal.
      local first, last = find(text, tokens, 4, true)
      local since, lease
      if first == 4 and byte(text, 2) == 50 then
        since, lease = match(text, '^ (%d+) %d+ (%d+)', last + 1)
      end
      if lease and since <= seconds and pcall('PEXPIRE', obj, lease) == 1 then
        if lease ~= known then
          known, length = lease, lease + 0
        end
        outcome = at + length
      end
    elseif not find(tokens, ' ', 1, true) then
      local seen, token = match(tokens, '^(%d+)>(.*)$')
      outcome = renew_in_hash(obj, seen, token or tokens, at) or false
    end
    renewed[i + 1] = outcome
    if not outcome then slow = true end
  end
  if not slow then return renewed end
end

---- include lib/lease.lua
---- include lib/settle.lua
---- include lib/waiting.lua
---- include lib/close.lua

-- Returns the outcome of each token of an object.
local function renew(obj, seen, tokens)
  local object = open(obj, tokens)
  if seen then outdated(object, tonumber(seen)) end
  settle(object)
  if not object.exists then missing(object) end
  local outcomes, waiting = {}, {}
  for i, token in ipairs(tokens) do
    local value = value_of(object, token)
    local entry = value and parse_entry(value)
    local outcome = { 'gone', 0, 0 }
    if not object.exists then
      outcome[1] = 'missing'
    elseif not value then
      if recovering(object) then outcome[1] = 'recovering' end
    elseif call('ZSCORE', object.holders, token) then
      if entry then
        entry.lease = bounded(object, entry.lease, 0)
        local ends = lease_end(entry)
        set_end(object, token, ends)
        object.graced = object.graced or entry.grace > 0
        local unheard, set_back = string.sub(entry.names, 1, 1) == '@', entry.since > now
        if unheard then entry.names = '-' end -- its client has woken up: the notification was received
        if set_back then entry.since = now end -- the server's clock was: the longest hold counts from here
        if unheard or set_back then store(object, token, entry) end
        -- Renewed for less than a lease: the longest hold ends then.
        outcome = { 'held', ends, ends < now + entry.lease and 1 or 0 }
      else
        local _, problem = pcall(own_entry, object, token)
        outcome = { 'failed', type(problem) == 'table' and problem.err or problem, 0 }
      end
    elseif entry then
      local refused = refusal(object, entry.permits, entry.names)
      if refused then
        finish(object, token, 'refused', refused)
        advance(object)
      else
        keep_entry(object, token, entry)
        outcome = { 'waiting', now + entry.ttl, 0 }
        waiting[i] = entry
      end
    else
      -- An entry that cannot be read is made anew.
      finish(object, token)
    end
    outcome[4] = newest_of(object)
    outcomes[i] = outcome
  end
  if next(waiting) then
    local soonest = wake(object)
    for i, entry in pairs(waiting) do
      outcomes[i][3] = tonumber(wake_at(object, soonest, position(object, tokens[i], entry)))
    end
  end
  close(object)
  for i, outcome in ipairs(outcomes) do
    if outcome[1] == 'held' and outcome[3] == 0 and outcome[4] == 0 then outcomes[i] = outcome[2] end
  end
  return outcomes
end

-- Not before what the lanes have renewed: clients count from here.
local reply = { now }
for i = 1, #ARGV - 1 do
  local outcomes = { renewed[i + 1] }
  if not renewed[i + 1] then
    local seen, list = string.match(ARGV[i + 1], '^(%d+)>(.*)$')
    local tokens = {}
    for token in string.gmatch(list or ARGV[i + 1], '%S+') do
      tokens[#tokens + 1] = token
    end
    local whole, problem = pcall(renew, KEYS[i], seen, tokens)
    outcomes = problem
    if not whole then
      -- Redis' own pcall gives the text of an error that is a table.
      local text = type(problem) == 'table' and problem.err or problem
      if not (string.match(text, '^DAMAGED ') or string.match(text, '^VERSION ')) then
        if not string.find(text, 'user_script:', 1, true) then error({ err = text }) end
        text = 'DAMAGED - its parts do not fit together: ' .. text
      end
      outcomes = {}
      for at = 1, #tokens do
        outcomes[at] = { 'failed', text, 0, 0 }
      end
    end
  end
  for _, outcome in ipairs(outcomes) do
    reply[#reply + 1] = outcome
  end
end
return reply
