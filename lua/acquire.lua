-- acquire: takes a lease, or a queue entry, or neither.
-- KEYS  obj
-- ARGV  version and run id, token, the request: lease ms (0: the declared one), permits, limit (0: must be declared; else the
--       permits of an object that its first user makes), life of the queue entry in ms (0: do not wait), client and holder JSON,
--       with spaces in between; and unless they all are 0: seen (the newest fencing token that this client has seen of the object
--       while it was declared: data without that token is not current, and recovers; and an undeclared object is neither made nor
--       used); and unless they all are 0, 0, 0, "-" and 0: max hold ms (0: none), grace ms, priority, selector (of a pool's
--       resources: see lua/lib/object.lua), takeover (1: take it from its holders), why (a text for them)
-- Reply granted fence now expires lease since declared permits [resource properties]...
--       queued  now expires wake newest [parts]
--       busy    now newest [parts]
--       again   now     there may be room when the work that this call has left is done: call again at once
--       newest: the newest fencing token of a declared object, and 0 of another
--       parts: where not all free resources were looked at, the number of calls that look at all of them; each call continues
--       where the last one stopped
--       Or one text, "granted", the seconds and the microseconds of the server's time, with spaces in between: what was asked for is
--       granted from then on, the object is not declared, and that time in microseconds is the fencing token
-- Error NOTDECLARED, TOOLARGE, NORESOURCE, NOPROPERTIES (a selector of properties, for generated resources)
-- A repeated token gets the outcome of the first call: its lease, or its queue entry.
-- O(log n) in the leases and waiters of the object; a selector of properties looks at up to 500 of the
-- free resources, and the next call continues from there.

-- Two fast lanes, before the functions of lua/lib are created. The first one: an ordinary request for one permit of an object that
-- does not exist, which its first user makes. The lease is the one that `grant` would make; it lies in obj alone until another
-- client comes (see `unfold`). The second one: an ordinary request for an object that lies in a hash and is no pool, in which
-- nothing has expired. It is granted where there is room and no other one waits, and otherwise joins the queue. The outcome is
-- that of the slow way, but for a `wake` that is not before the entry's first renewal.
-- Numbers stay texts where they can, and `text + 0` is a number: a call of tonumber costs the server 1,300 instructions.
local alone
if not ARGV[5] and string.sub(ARGV[1], 1, 2) == '2 ' then
  local clock, request, obj, token = redis.call('TIME'), ARGV[3], KEYS[1], ARGV[2]
  local kind = string.match(obj, '^[^/]*/(%l+)/')
  local is_lock = kind == 'lock'
  local is_pool = not (is_lock or kind == 'semaphore' or kind == 'rwlock')
  local first, rest = string.match(request, '^([1-9]%d*) 1 [1-9]%d* %d+ ()%S')
  if first and #first < 14 and not ARGV[4] and not is_pool and string.find(request, ' ', rest, true) then
    local time = clock[1] .. ' ' .. clock[2]
    if redis.call('SET', obj, 'v2 ' .. token .. ' ' .. time .. ' ' .. request, 'NX', 'PX', first) then
      return 'granted ' .. time
    end
  end
  -- A client that has seen the object declared knows that it lies in a hash.
  if not ARGV[4] then alone = redis.call('MGET', obj)[1] end
  local field, got = 't:' .. token, {}
  if not alone and not is_pool then got = redis.pcall('HMGET', obj, 'state', field) end
  local limit, held, last, ticket, longest, soonest, marks, bound, max_hold, recover, run =
    string.match(got[1] or '', '^2 (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) ([-d]) (%d+) (%d+) (%d+) (.+)$')
  local lease, permits, first_limit, ttl, at_client
  if run and not got[2] then
    lease, permits, first_limit, ttl, at_client = string.match(request, '^(%d+) (%d+) (%d+) (%d+) ()%S')
  end
  local at_holder = at_client and string.find(request, ' ', at_client, true)
  -- A longer number is no number of ours: the slow way names it.
  local short = at_holder and #limit < 17 and #held < 17 and #last < 17 and #ticket < 17 and #longest < 17
  if short and #soonest < 17 and #bound < 17 and #recover < 17 then
    local at = clock[1] .. string.sub(1000000 + clock[2], 2, 4)
    local now, declared, first_end = at + 0, marks == 'd', soonest + 0
    local room, wanted, newest, length = limit - held, permits + 0, last + 0, lease + 0
    local plain = now < first_end and wanted <= limit + 0
    if declared then
      plain = plain and max_hold == '0' and recover + 0 <= now and run == string.sub(ARGV[1], 3)
      plain = plain and bound ~= '0' and (ARGV[4] or 0) + 0 <= newest
      if length == 0 or length > bound + 0 then
        lease, length = bound, bound + 0
      end
    else
      plain = plain and length > 0 and #lease < 14 and first_limit ~= '0' and (ARGV[4] or '0') == '0'
    end
    local span, stem = ttl + 0, string.sub(obj, 1, -4)
    if span > length then
      span, ttl = length, lease
    end
    -- Room with a queue is room for its head: after a recovery, the first call grants it.
    if plain and wanted > room and room > 0 then plain = redis.pcall('ZCARD', stem .. 'queue') == 0 end
    if plain and wanted > room and span == 0 then
      -- An end that lies too far ahead is of before the server's clock was set back: the slow way cuts it.
      local latest = redis.pcall('ZRANGE', stem .. 'expiry', -1, -1, 'WITHSCORES')[2]
      -- An error is a table: the slow way names what is wrong.
      if
        latest
        and latest + 0 <= now + longest + 1000
        and type(redis.pcall('ZCARD', stem .. 'holders')) == 'number'
      then
        -- A write without an effect: a server that has been demoted refuses it, and the client leaves that server.
        redis.call('HDEL', obj, field)
        return { 'busy', now, declared and newest or 0 }
      end
    elseif plain then
      local has_room = wanted <= room
      local ends = now + (has_room and length or span)
      local ends_at = string.format('%d', ends)
      if first_end > ends then soonest = ends_at end
      if longest + 0 < length then longest = lease end
      local value = permits .. ' ' .. lease .. ' ' .. ttl .. ' 0 0 ' .. at .. ' '
      value = value .. string.sub(request, at_client, at_holder - 1) .. ' -' .. string.sub(request, at_holder)
      local tail = longest .. ' ' .. soonest .. ' ' .. marks .. ' ' .. bound .. ' 0 ' .. recover .. ' ' .. run
      if has_room and redis.pcall('ZCARD', stem .. 'queue') == 0 then
        local fence = declared and newest + 1 or clock[1] * 1000000 + clock[2]
        if fence <= newest then fence = newest + 1 end
        last = string.format('%d', fence)
        local added = type(redis.pcall('ZADD', stem .. 'expiry', ends_at, token)) == 'number'
        if added and redis.pcall('ZADD', stem .. 'holders', last, token) == 1 then
          held = string.format('%d', held + wanted)
          local state = '2 ' .. limit .. ' ' .. held .. ' ' .. last .. ' ' .. ticket .. ' ' .. tail
          redis.call('HSET', obj, 'state', state, field, value)
          if not declared then
            for _, part in ipairs({ 'obj', 'holders', 'expiry', is_lock and 'waits' or nil }) do
              redis.call('PEXPIRE', stem .. part, longest * 2 + 1000)
            end
          end
          return { 'granted', fence, now, ends, length, now, declared and 1 or 0, wanted }
        end
      end
      -- An entry that waits comes again after a third of its life. If anything ends before, the slow way finds out when it has to.
      if not has_room and now + span / 3 < first_end then
        local queue = stem .. 'queue'
        ticket = string.format('%d', ticket + 1)
        local added = type(redis.pcall('ZADD', stem .. 'expiry', ends_at, token)) == 'number'
        if added and redis.pcall('ZADD', queue, ticket, token) == 1 then
          local state = '2 ' .. limit .. ' ' .. held .. ' ' .. last .. ' ' .. ticket .. ' ' .. tail
          redis.call('HSET', obj, 'state', state, field, value)
          -- A queue that is new has no end yet.
          if not declared and redis.call('PTTL', queue) <= longest + 0 then
            for _, part in ipairs({ 'obj', 'holders', 'queue', 'expiry', is_lock and 'waits' or nil }) do
              redis.call('PEXPIRE', stem .. part, longest * 2 + 1000)
            end
          end
          return { 'queued', now, ends, span, declared and newest or 0 }
        end
      end
    end
  end
end

---- include lib/lease.lua
---- include lib/settle.lua
---- include lib/waiting.lua
---- include lib/close.lua

local token, seen = ARGV[2], tonumber(ARGV[4] or 0)
local lease, permits, first_limit, ttl, client, holder = string.match(ARGV[3], '^(%d+) (%d+) (%d+) (%d+) (%S+) (.*)$')
lease, permits, first_limit, ttl = amount(lease), amount(permits), amount(first_limit), amount(ttl)
local max_hold, grace, priority = amount(ARGV[5] or 0), amount(ARGV[6] or 0), tonumber(ARGV[7] or 0)
local selector, takeover, why = ARGV[8] or '-', ARGV[9] == '1', ARGV[10]
local object = open(KEYS[1], { token }, alone)
local is_new = not object.exists

if seen > 0 then outdated(object, seen) end
if is_new and first_limit == 0 or seen > 0 and not object.declared then
  missing(object)
  close(object)
  return redis.error_reply('NOTDECLARED ' .. object_name(object))
end
if is_new then
  object.exists, object.limit = true, first_limit
else
  settle(object)
end

-- `queued` is the queue entry of the token, if the call leaves it one.
local value, reply, queued = object.values[token], nil, nil
local fence = value and call('ZSCORE', object.holders, token)
if value and not fence and not parse_entry(value) then
  finish(object, token) -- an entry that cannot be read is made anew
  value = nil
end
-- A lease stays held, even if a new request would be refused.
local refused = not fence and refusal(object, permits, selector)
if refused then
  if value then
    finish(object, token)
    advance(object)
  end
  if object.draining then missing(object) end
  close(object)
  return redis.error_reply(refused)
end

if value then
  local entry = own_entry(object, token)
  if fence then
    local ends = tonumber(call('ZSCORE', object.expiry, token))
    if not ends then -- gone with all others of its key
      ends = lease_end(entry)
      set_end(object, token, ends)
    end
    reply = describe(object, tonumber(fence), ends, entry)
  else
    keep_entry(object, token, entry)
    -- The search continues where the last call has stopped.
    if object.pool and string.sub(entry.names, 1, 1) == '?' then reply = advance(object, token) end
    if not reply then queued = entry end
  end
else
  lease, max_hold = bounded(object, lease, max_hold)
  local entry = {
    permits = permits,
    lease = lease,
    ttl = math.min(ttl, lease),
    max_hold = max_hold,
    grace = grace,
    since = now,
    channel = client,
    names = selector,
    holder = holder,
  }
  if takeover then
    for _, other in ipairs(call('ZRANGE', object.holders, 0, -1)) do
      -- An object in its grace has no holder to take it from, and no new holder yet.
      if string.sub(other, 1, 6) ~= 'grace-' then finish(object, other, 'taken', why) end
    end
  end
  local is_first = is_new or takeover or call('ZCARD', object.queue) == 0
  local got
  if is_first and not recovering(object) and fits(object, entry, {}) then
    got = grant(object, token, entry, lease_end(entry))
    -- The takeover may leave room for those that wait.
    if takeover then advance(object) end
  else
    -- The search may have found a resource that cannot be read.
    refused = object.unreadable and refusal(object, permits, selector)
    if refused then
      close(object)
      return redis.error_reply(refused)
    end
    if ttl > 0 or (object.pool and not is_first) then
      keep_entry(object, token, entry)
      enqueue(object, token, entry, priority)
      -- The entries before it in a pool may wait for other resources, and a larger priority stands before an entry without room.
      if not is_first then got = advance(object, token) end
    end
  end
  if got then
    reply = got
  elseif ttl > 0 then
    queued = entry
  else
    finish(object, token)
    unwind(object)
    -- The work that is left may free permits.
    reply = { (object.overdue or object.more) and 'again' or 'busy', int(now), newest_of(object), object.parts }
  end
end
if queued then
  local wakes = wake_at(object, wake(object), position(object, token, queued))
  reply = { 'queued', int(now), int(now + queued.ttl), wakes, newest_of(object), object.parts }
end
close(object)
return reply
