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
local alone
if not ARGV[5] and string.sub(ARGV[1], 1, 2) == '2 ' then
  local clock, request, obj, token = redis.call('TIME'), ARGV[3], KEYS[1], ARGV[2]
  local is_pool = string.find(obj, '/pool/', 1, true)
  local first = string.match(request, '^([1-9]%d*) 1 [1-9]%d* %d+ %S+ ')
  if first and not ARGV[4] and not is_pool then
    local time = clock[1] .. ' ' .. clock[2]
    if redis.call('SET', obj, 'v2 ' .. token .. ' ' .. time .. ' ' .. request, 'NX', 'PX', first) then
      return 'granted ' .. time
    end
  end
  alone = redis.call('MGET', obj)[1]
  local field, got = 't:' .. token, {}
  if not alone and not is_pool then
    got = redis.pcall(
      'HMGET',
      obj,
      'limit',
      'held',
      'last',
      'ticket',
      'ttl',
      'protocol',
      'declared',
      'draining',
      'retained',
      field
    )
  end
  local plain = got[1] and got[2] and got[3] and got[4] and got[5] and got[6] == '2'
  plain = plain and not (got[8] or got[9] or got[10])
  -- A number that is none is named by the slow way.
  plain = plain and string.find(table.concat(got, ' ', 1, 5), '^%d+ %d+ %d+ %d+ %d+$')
  local lease, permits, first_limit, ttl, client, holder
  if plain then
    lease, permits, first_limit, ttl, client, holder = string.match(request, '^(%d+) (%d+) (%d+) (%d+) (%S+) (.*)$')
  end
  if holder then
    local limit, held, last = tonumber(got[1]), tonumber(got[2]), tonumber(got[3])
    plain = math.max(limit, held, last, got[4], got[5]) < 1e16
    lease, permits, ttl = tonumber(lease), tonumber(permits), tonumber(ttl)
    local now_us = clock[1] * 1000000 + clock[2]
    local now, declared = (now_us - now_us % 1000) / 1000, got[7]
    if declared then
      local more = redis.call('HMGET', obj, 'lease', 'max_hold', 'run', 'recover', 'watched')
      local bound = tonumber(string.match(more[1] or '', '^%d+$'))
      plain = plain and bound and bound > 0 and bound < 1e16 and more[2] == '0'
      plain = plain and (tonumber(string.match(more[4] or '', '^%d+$')) or now + 1) <= now
      plain = plain and more[3] == string.sub(ARGV[1], 3) and not more[5]
      plain = plain and tonumber(ARGV[4] or 0) <= last
      if plain then lease = lease == 0 and bound or math.min(lease, bound) end
    else
      plain = plain and lease > 0 and first_limit ~= '0' and (ARGV[4] or '0') == '0'
    end
    local stem, at = string.sub(obj, 1, -4), string.format('%d', now)
    local is_lock = string.find(obj, '^[^/]*/lock/')
    local expiry, queue = stem .. 'expiry', stem .. 'queue'
    local has_room, span = permits <= limit - held, plain and math.min(ttl, lease)
    -- An entry that waits comes again after a third of its life. If anything ends before, the slow way finds out when it has to.
    local until_then = plain and not has_room and string.format('%d', now + span / 3) or at
    plain = plain and permits <= limit and redis.pcall('ZCOUNT', expiry, '-inf', until_then) == 0
    -- An error is a table: the slow way names what is wrong.
    local waiting = plain and redis.pcall('ZCARD', queue)
    plain = type(waiting) == 'number'
    if plain and not has_room and ttl == 0 then
      -- An end that lies too far ahead is of before the server's clock was set back: the slow way cuts it.
      local too_late = string.format('(%d', now + got[5] + 1000)
      local sound = redis.pcall('ZCOUNT', expiry, too_late, '+inf') == 0
      if sound and type(redis.pcall('ZCARD', stem .. 'holders')) == 'number' then
        return { 'busy', now, declared and last or 0 }
      end
    end
    local value = plain and string.format('%d %d %d 0 0 %s %s - %s', permits, lease, span, at, client, holder)
    if plain and has_room and waiting == 0 then
      local longest = math.max(tonumber(got[5]), lease)
      last = declared and last + 1 or math.max(last + 1, now_us)
      local ends, fence = string.format('%d', now + lease), string.format('%d', last)
      if redis.pcall('ZADD', stem .. 'holders', fence, token) == 1 then
        redis.call('ZADD', expiry, ends, token)
        redis.call('HSET', obj, 'held', held + permits, 'last', fence, 'ttl', longest, field, value)
        if not declared then
          for _, part in ipairs({ 'obj', 'holders', 'expiry', is_lock and 'waits' or nil }) do
            redis.call('PEXPIRE', stem .. part, longest * 2 + 1000)
          end
        end
        return { 'granted', last, now, now + lease, lease, now, declared and 1 or 0, permits }
      end
    end
    if plain and not has_room and ttl > 0 then
      local longest, place = tonumber(got[5]), string.format('%d', got[4] + 1)
      local ends = now + span
      if lease > longest then
        longest = lease
        redis.call('HSET', obj, 'ttl', longest)
      end
      redis.call('HSET', obj, 'ticket', place, field, value)
      redis.call('ZADD', queue, place, token)
      redis.call('ZADD', expiry, string.format('%d', ends), token)
      if not declared and (waiting == 0 or redis.call('PTTL', expiry) <= longest) then
        for _, part in ipairs({ 'obj', 'holders', 'queue', 'expiry', is_lock and 'waits' or nil }) do
          redis.call('PEXPIRE', stem .. part, longest * 2 + 1000)
        end
      end
      return { 'queued', now, ends, span, declared and last or 0 }
    end
  end
end

---- include lib/lease.lua
---- include lib/settle.lua
---- include lib/waiting.lua
---- include lib/close.lua

local token, seen = ARGV[2], tonumber(ARGV[4] or 0)
local lease, permits, first_limit, ttl, client, holder = string.match(ARGV[3], '^(%d+) (%d+) (%d+) (%d+) (%S+) (.*)$')
lease, permits, first_limit, ttl = tonumber(lease), tonumber(permits), tonumber(first_limit), tonumber(ttl)
local max_hold, grace, priority = tonumber(ARGV[5] or 0), tonumber(ARGV[6] or 0), tonumber(ARGV[7] or 0)
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
      call('ZADD', object.expiry, ends, token)
    end
    reply = describe(object, tonumber(fence), ends, entry)
  else
    call('ZADD', object.expiry, now + entry.ttl, token)
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
  else
    -- The search may have found a resource that cannot be read.
    refused = object.unreadable and refusal(object, permits, selector)
    if refused then
      close(object)
      return redis.error_reply(refused)
    end
    if ttl > 0 or (object.pool and not is_first) then
      enqueue(object, token, entry, priority)
      keep_entry(object, token, entry)
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
