#!lua flags=allow-oom
-- renew: renews many leases and places of one client, over many objects, in one command.
-- KEYS  the keys of each object, one after the other
-- ARGV  run id, controller's channel, then for each object: how many keys, how many tokens, token... A number of
--       tokens may be followed by ">" and the newest fencing token that the client has seen of that object, as a declared
--       one: data that has not granted it yet is not current, and recovers
-- Reply now, then for each token three values:
--       held       expires 0
--       waiting    expires wake   wake: when to renew next if that is before a third of the place; 0: at once
--       recovering 0 0    the object is coming back from a loss and does not know this token: readmit
--       missing    0 0    there is no such object (any more, or yet)
--       gone       0 0    neither holds nor waits, or waited for what it can never get (any more): acquire says why
--       failed     error 0  an error of this object alone: DAMAGED (it, or what it has of this lease, is not as Tenure
--                  left it) or VERSION. Other objects are renewed all the same
-- What has run out is gone: a renewal never revives. A declared lease that was shortened counts from here. O(log n) a token.
---- core.lua
local reply = { int(now) }
local function say(state, expires, wakes)
  reply[#reply + 1] = state
  reply[#reply + 1] = type(expires) == 'string' and expires or int(expires or 0)
  reply[#reply + 1] = int(wakes or 0)
end

local function renew(key, width, tokens, seen)
  local o = open(key, width, ARGV[1], ARGV[2], tokens)
  if seen then outdated(o, seen) end
  settle(o)
  if not o.exists then missing(o) end
  local waiting = {}
  for _, token in ipairs(tokens) do
    local value = value_of(o, token)
    local e = value and parse(value)
    if not o.exists then
      say('missing')
    elseif not value then
      say(recovering(o) and 'recovering' or 'gone')
    elseif call('ZSCORE', o.holders, token) then
      if e then
        e.lease = bounded(o, e.lease, 0)
        local ends = lease_end(e)
        call('ZADD', o.expiry, ends, token)
        local unheard, set_back = string.sub(e.names, 1, 1) == '@', e.since > now
        if unheard then e.names = '-' end -- its client has woken up: the notification is heard
        if set_back then e.since = now end -- the server's clock was: the longest hold counts from here
        if unheard or set_back then store(o, token, e) end
        say('held', ends)
      else
        local _, problem = pcall(own, o, token)
        say('failed', type(problem) == 'table' and problem.err or problem)
      end
    elseif e then
      local refused = refusal(o, e.permits, e.names)
      if refused then
        finish(o, token, 'refused', refused)
        advance(o)
        say('gone')
      else
        call('ZADD', o.expiry, now + e.place, token)
        say('waiting', now + e.place)
        waiting[#reply] = { token, e }
      end
    else
      -- A place that cannot be read is taken anew.
      finish(o, token)
      say('gone')
    end
  end
  if next(waiting) then
    local soonest = wake(o)
    for at, place in pairs(waiting) do reply[at] = wake_at(o, soonest, position(o, place[1], place[2])) end
  end
  close(o)
end

local key, arg = 0, 3
while arg <= #ARGV do
  local width, count, seen = tonumber(ARGV[arg]), string.match(ARGV[arg + 1], '^(%d+)>?(%d*)$')
  count = tonumber(count)
  local tokens = {}
  for i = arg + 2, arg + 1 + count do tokens[#tokens + 1] = ARGV[i] end
  local said = #reply
  local whole, problem = pcall(renew, key, width, tokens, tonumber(seen))
  if not whole then
    -- Redis' own pcall gives the text of an error that is a table.
    local text = type(problem) == 'table' and problem.err or problem
    if not (string.match(text, '^DAMAGED ') or string.match(text, '^VERSION ')) then
      if not string.find(text, 'user_script:', 1, true) then error({ err = text }) end
      text = 'DAMAGED - its parts do not fit together: ' .. text
    end
    for i = #reply, said + 1, -1 do reply[i] = nil end
    for _ = 1, count do say('failed', text) end
  end
  key, arg = key + width, arg + 2 + count
end
return reply
