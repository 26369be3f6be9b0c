-- Settle: ends what has run out, and grants what is free.

---- include lib/grant.lua
---- include lib/lease.lua
---- include lib/finish.lua

-- Grants to the head of the queue while there is room for it. No request overtakes another: a large request at the
-- head waits for room, and smaller ones behind it wait, too. Only a request for certain resources of a pool lets
-- later requests pass, and only to resources that do not match it. A granted lease runs for the rest of its queue
-- entry's life until its client renews it, so that any number of dead waiters delays the next one by one entry's life
-- in total.
-- A request that can no longer be served is refused. `asking` is the token of the calling client: its lease goes into
-- the reply, and has its full length.
local function advance(object, asking)
  if object.draining or recovering(object) then return nil end
  local earlier, reply, heads = {}, nil, nil
  if object.pool then
    local waiting = call('ZCARD', object.queue)
    if waiting == 0 then return nil end
    pool().line_up(object, waiting)
    heads = pool().heads(object, asking)
  end
  while budget > 0 and (object.pool or object.held < object.limit or object.shrunk) do
    local first = heads and table.remove(heads, 1)
    local token
    if heads then
      token = first and first.token
    else
      token = call('ZRANGE', object.queue, 0, 0)[1]
    end
    if not token then break end
    local entry = find_entry(object, token)
    object.standing, object.asks = first and first.ticket, token == asking
    local names, served = entry and entry.names, true
    if not entry then
      if first then call('ZREM', object.selectors, pool().member_of(first.line, first.ticket, token)) end
      finish(object, token)
    elseif fits(object, entry, earlier) then
      call('ZREM', object.queue, token)
      if first then call('ZREM', object.selectors, pool().member_of(first.line, first.ticket, token)) end
      -- The declaration may have changed since the entry was queued, and a recovery lasts for one declared lease.
      entry.lease, entry.max_hold = bounded(object, entry.lease, entry.max_hold)
      if token == asking then
        reply = grant(object, token, entry, lease_end(entry))
      else
        local ends = math.min(now + entry.lease, tonumber(call('ZSCORE', object.expiry, token)) or now + entry.ttl)
        grant(object, token, entry, ends, true)
      end
    else
      local refused = refusal(object, entry.permits, entry.names)
      served = refused ~= nil
      if refused then
        finish(object, token, 'refused', refused)
      elseif first and first.line ~= '-' then
        earlier[#earlier + 1] = names
      else
        break
      end
    end
    -- The next entry of the line takes the position of its ticket.
    local following = served and first and pool().head(object, first.line)
    if following then
      local at = 1
      while heads[at] and heads[at].ticket < following.ticket do
        at = at + 1
      end
      table.insert(heads, at, following)
    end
  end
  object.standing = nil
  object.more = object.pool and pool().lowering(object)
    or (budget <= 0 or (object.unseen or 0) > 0) and available(object) > 0 and call('ZCARD', object.queue) > 0
  return reply
end

-- Ends what has expired, and finds when the next lease or entry ends.
local function end_expired(object)
  local most = math.max(0, math.floor(budget))
  local due = call('ZRANGE', object.expiry, '-inf', int(now), 'BYSCORE', 'LIMIT', 0, most + 1)
  local ended = 0
  while ended < #due and ended < most and budget > 0 do
    ended = ended + 1
    finish(object, due[ended], 'expired')
  end
  object.overdue = ended < #due
  if object.overdue then
    for _, token in ipairs(object.tokens) do
      local ends = tonumber(call('ZSCORE', object.expiry, token))
      if ends and ends <= now then finish(object, token, 'expired') end
    end
  end
  correct_held(object)
  local soonest = call('ZRANGE', object.expiry, 0, 0, 'WITHSCORES')[2]
  object.next, object.unsaved = tonumber(soonest or NEVER), true
end

-- Ends expired leases and entries, and then grants what is free. Scripts do so before their own work, except for release
-- and declare: they do so after it, so that one pass also grants what they have freed or added. Afterwards none of the
-- tokens of the call has expired, although others may wait for a later call to end them.
local function settle(object)
  if not object.exists then return end
  if object.next <= now then end_expired(object) end
  if object.prefix and object.fresh > object.count then pool().lower(object) end
  advance(object)
end
