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

local format = string.format
local function int(n) return format('%d', n) end
local PROTOCOL = 2
local spoken, here = string.match(ARGV[1], '^(%d+) (.*)$')
if spoken ~= int(PROTOCOL) then return redis.error_reply('VERSION - ' .. (spoken or 0) .. ' ' .. PROTOCOL) end
local function check_version(obj, written)
  if tonumber(written) > PROTOCOL then error({ err = 'VERSION ' .. obj .. ' ' .. written .. ' ' .. PROTOCOL }) end
end
local function damaged(key, what) error({ err = 'DAMAGED ' .. key .. ' ' .. what }) end
local function call(...)
  local reply = redis.pcall(...)
  if type(reply) == 'table' and reply.err then
    local _, key = ...
    if string.sub(reply.err, 1, 9) == 'WRONGTYPE' then
      damaged(key, 'holds another type of value than Tenure keeps there')
    end
    error(reply)
  end
  return reply
end
local clock = call('TIME')
local now_us = clock[1] * 1000000 + clock[2]
local now = math.floor(now_us / 1000)
local budget = 64
local PARTS = {
  lock = { 'holders', 'queue', 'expiry', 'waits' },
  rwlock = { 'holders', 'queue', 'expiry' },
  semaphore = { 'holders', 'queue', 'expiry' },
  pool = { 'holders', 'queue', 'expiry', 'resources', 'free', 'selectors' },
}
local function amount(text) return math.min(tonumber(text), 9999999999999) end
local function unfold(obj, stem, alone)
  local version, rest = string.match(alone, '^v(%d+) (.*)$')
  if version then check_version(obj, version) end
  local token, seconds, micros, lease, permits, limit, ttl, channel, holder =
    string.match(alone, '^v2 (%S+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%S+) (.*)$')
  local ends, fence
  if token then
    fence = seconds * 1000000 + micros
    ends = call('PEXPIRETIME', obj)
    if ends < 0 then ends = math.floor(fence / 1000) + lease end
  else
    ends, fence, token, permits, lease, limit, ttl, channel, holder =
      string.match(rest or alone, '^(%d+) (%d+) (%S+) (%d+) (%d+) 0 (%d+) (%d+) (%S+) (.*)$')
    if not ends then damaged(obj, 'holds a string that is no lease') end
  end
  local value =
    format('%d %d %d 0 0 %d %s - %s', permits, lease, math.min(ttl, lease), math.floor(fence / 1000), channel, holder)
  ends = int(ends)
  call('UNLINK', obj)
  local state = format('%d %d %d %d 0 %s %s - 0 0 0 -', PROTOCOL, amount(limit), permits, fence, lease, ends)
  call('HSET', obj, 'state', state, 'protocol', PROTOCOL, 't:' .. token, value)
  call('ZADD', stem .. 'holders', int(fence), token)
  call('ZADD', stem .. 'expiry', ends, token)
end
local function counter(obj, field, text, default)
  if not text and default then return default end
  if not text or #text > 16 or not string.match(text, '^%d+$') then
    damaged(obj, 'has ' .. (text and 'no number' or 'nothing') .. ' in its field ' .. field)
  end
  return tonumber(text)
end
local NEVER = 9000000000000000
local function save(object, ...)
  local marks = (object.declared and 'd' or '')
    .. (object.kept and 'k' or '')
    .. (object.watched and 'w' or '')
    .. (object.draining and 'x' or '')
    .. (object.retained and 't' or '')
  local state = format(
    '%d %d %d %d %d %d %d %s %d %d %d %s',
    PROTOCOL,
    object.limit,
    object.held,
    object.last,
    object.ticket,
    object.ttl,
    object.next,
    marks == '' and '-' or marks,
    object.lease,
    object.max_hold,
    object.recover,
    object.run or '-'
  )
  if object.stored then
    call('HSET', object.obj, 'state', state, ...)
  else
    call('HSET', object.obj, 'state', state, 'protocol', PROTOCOL, ...)
    object.stored = true
  end
  if object.fresh then call('HSET', object.obj, 'fresh', int(object.fresh)) end
  if object.fresh and not object.unmarked then call('HSET', object.obj, 'beyond', int(object.beyond)) end
  object.unsaved = false
  if object.changed then object.changed = 'saved' end
end
local function parse_state(object, state)
  local version = string.match(state, '^(%d+) ')
  if version then check_version(object.obj, version) end
  local limit, held, last, ticket, ttl, next_end, marks, lease, max_hold, recover, run =
    string.match(state, '^%d+ (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%S+) (%d+) (%d+) (%d+) (.+)$')
  if not run or math.max(limit, held, last, ticket, ttl, next_end, lease, max_hold, recover) >= 1e16 then
    damaged(object.obj, 'has a field state that cannot be read')
  end
  object.limit, object.held, object.last, object.ticket, object.ttl, object.next =
    tonumber(limit), tonumber(held), tonumber(last), tonumber(ticket), tonumber(ttl), tonumber(next_end)
  if marks == '-' then return end
  object.declared, object.kept, object.watched, object.draining, object.retained =
    string.find(marks, 'd'),
    string.find(marks, 'k'),
    string.find(marks, 'w'),
    string.find(marks, 'x'),
    string.find(marks, 't')
  object.lease, object.max_hold, object.recover, object.run =
    tonumber(lease), tonumber(max_hold), tonumber(recover), run ~= '-' and run
end
local function upgrade(object)
  local obj = object.obj
  local function read(field, default) return counter(obj, field, call('HGET', obj, field) or nil, default) end
  local function has(field) return call('HEXISTS', obj, field) == 1 end
  local version = read('protocol', 0)
  check_version(obj, version)
  object.limit, object.held, object.last, object.ticket, object.ttl =
    read('limit'), read('held'), read('last'), read('ticket'), read('ttl')
  object.declared, object.kept, object.watched, object.draining, object.retained =
    has('declared'), has('kept'), has('watched'), has('draining'), has('retained')
  object.lease, object.max_hold, object.recover, object.run =
    read('lease', 0), read('max_hold', 0), read('recover', 0), call('HGET', obj, 'run')
  object.next = tonumber(call('ZRANGE', object.expiry, 0, 0, 'WITHSCORES')[2] or NEVER)
  for _, token in ipairs(version == 0 and object.waits and call('ZRANGE', object.waits, 0, -1) or {}) do
    local before, names, holder =
      string.match(call('HGET', obj, 't:' .. token) or '', '^(%d+ %d+ %d+ %d+ %d+ %d+ %S+) (@[^# ]+) (.*)$')
    if before then
      local ticket = format('%016d', call('ZSCORE', object.waits, token))
      local value = format('%s %s#%s %s', before, names, ticket, holder)
      call('HSET', obj, 't:' .. token, value)
      if object.values[token] then object.values[token] = value end
      call('ZREM', object.waits, token)
      call('ZADD', object.waits, 0, names .. ' ' .. ticket .. ' ' .. token)
    end
  end
  call(
    'HDEL',
    obj,
    'limit',
    'held',
    'last',
    'ticket',
    'ttl',
    'kept',
    'watched',
    'draining',
    'lease',
    'max_hold',
    'recover',
    'run'
  )
  save(object)
end
local function open(obj, tokens, alone)
  local stem, kind = string.match(obj, '^(.*{[^/]*/(%l+)/[^}]*}:)obj$')
  if not PARTS[kind] then error({ err = 'ERR ' .. tostring(obj) .. ' is not the key of an object' }) end
  local early = tokens and #tokens <= 1000 and tokens or {}
  local fields = {}
  for i, token in ipairs(early) do
    fields[i] = 't:' .. token
  end
  if alone == nil then alone = call('MGET', obj)[1] end
  if alone then unfold(obj, stem, alone) end
  local got = call('HMGET', obj, 'state', 'limit', unpack(fields))
  local object = {
    obj = obj,
    stem = stem,
    kind = kind,
    holders = stem .. 'holders',
    queue = stem .. 'queue',
    expiry = stem .. 'expiry',
    waits = kind == 'lock' and stem .. 'waits',
    resources = stem .. 'resources',
    free = stem .. 'free',
    selectors = stem .. 'selectors',
    pool = kind == 'pool',
    values = {},
    tokens = tokens or {},
    exists = (got[1] or got[2]) and true or false,
    stored = got[1] and true,
    limit = nil,
    held = 0,
    last = 0,
    ticket = 0,
    ttl = 0,
    next = NEVER,
    lease = 0,
    max_hold = 0,
    recover = 0,
  }
  for i, token in ipairs(early) do
    object.values[token] = got[2 + i] or nil
  end
  if got[1] then
    parse_state(object, got[1])
  elseif got[2] then
    upgrade(object)
  end
  if object.declared or object.kept or object.retained then
    got = call('HMGET', obj, 'declared', 'retained', 'order', 'prefix', 'count', 'fresh', 'beyond')
    object.declared = object.declared and (got[1] or '')
    object.retained = object.retained and counter(obj, 'retained', got[2])
    object.order, object.prefix = got[3], got[4]
    if object.prefix then
      object.count, object.fresh = counter(obj, 'count', got[5]), counter(obj, 'fresh', got[6])
      object.unmarked, object.beyond = not got[7], counter(obj, 'beyond', got[7], 0)
    end
  end
  return object
end
local function set_end(object, token, ends)
  call('ZADD', object.expiry, int(ends), token)
  if ends < object.next then
    object.next, object.unsaved = ends, true
  end
end
local function keys_of(object)
  local keys = { object.obj }
  for i, part in ipairs(PARTS[object.kind]) do
    keys[i + 1] = object.stem .. part
  end
  return keys
end
local function publish(command, channel, lines)
  for i, line in ipairs(lines) do
    lines[i] = type(line) == 'number' and int(line) or line
  end
  local heard = redis.pcall(command, channel, here .. '\n' .. table.concat(lines, '\n'))
  return type(heard) == 'number' and heard or 0
end
local function push(object, entry, lines)
  local old = string.match(object.obj, '^[^{]*') .. 'client:'
  if string.sub(entry.channel, 1, #old) == old then return publish('PUBLISH', entry.channel, lines) end
  local command = string.find(entry.channel, '/', 1, true) and 'SPUBLISH' or 'PUBLISH'
  return publish(command, string.match(object.obj, '^[^/]*/') .. 'client/' .. entry.channel .. '}', lines)
end
local function object_name(object) return string.match(object.obj, '{(.*)}') end
local function announce(object, event)
  if string.sub(KEYS[#KEYS], -4) ~= ':obj' then
    return publish('SPUBLISH', object.stem .. 'events', { event, object_name(object) })
  end
  publish('PUBLISH', string.match(object.obj, '^[^/]*/') .. 'events}', { event, object_name(object) })
end
local function parse_entry(value)
  local permits, lease, ttl, max_hold, grace, since, channel, names, holder =
    string.match(value, '^(%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%S+) (%S+) (.*)$')
  if not permits then return nil end
  return {
    permits = tonumber(permits),
    lease = tonumber(lease),
    ttl = tonumber(ttl),
    max_hold = tonumber(max_hold),
    grace = tonumber(grace),
    since = tonumber(since),
    channel = channel,
    names = names,
    holder = holder,
  }
end
local function newest_of(object) return object.declared and object.last or 0 end
local function value_of(object, token) return object.values[token] or call('HGET', object.obj, 't:' .. token) end
local function find_entry(object, token)
  local value = value_of(object, token)
  return value and parse_entry(value)
end
local function store(object, token, entry)
  local value = format(
    '%d %d %d %d %d %d %s %s %s',
    entry.permits,
    entry.lease,
    entry.ttl,
    entry.max_hold,
    entry.grace,
    entry.since,
    entry.channel,
    entry.names,
    entry.holder
  )
  object.values[token] = value
  object.ttl = math.max(object.ttl, entry.lease, entry.ttl, entry.grace)
  save(object, 't:' .. token, value)
end
local function lease_end(entry)
  local ends = now + entry.lease
  if entry.max_hold > 0 then ends = math.min(ends, entry.since + entry.max_hold) end
  return ends
end
local function own_entry(object, token)
  local entry = parse_entry(object.values[token])
  if not entry then
    damaged('-', 'what ' .. object.obj .. ' has of this lease cannot be read; that goes when the lease has run out')
  end
  return entry
end
local function bounded(object, lease, max_hold)
  if lease == 0 then lease = object.lease > 0 and object.lease or 30000 end
  if object.lease > 0 then lease = math.min(lease, object.lease) end
  if object.max_hold > 0 then max_hold = max_hold == 0 and object.max_hold or math.min(max_hold, object.max_hold) end
  return lease, max_hold
end
local made
local function pool()
  if made then return made end
  local function number_of(object, name)
    if not object.prefix or string.sub(name, 1, #object.prefix) ~= object.prefix then return nil end
    local digits = string.sub(name, #object.prefix + 1)
    if #digits > 15 or not string.match(digits, '^%d+$') then return nil end
    local number = tonumber(digits)
    return int(number) == digits and number or nil
  end
  local function index_of(object, name)
    local number = number_of(object, name)
    return number and number < object.count and number or nil
  end
  local function marks(object) return object.prefix and call('HLEN', object.resources) - object.beyond or 0 end
  local function fresh_left(object, marked)
    return object.prefix and math.max(0, object.count - object.fresh - marked) or 0
  end
  local CHUNK = 200
  local function in_chunks(names, run)
    for from = 1, #names, CHUNK do
      run({ unpack(names, from, math.min(from + CHUNK - 1, #names)) })
    end
  end
  local function mark(object, name, number)
    if call('HSET', object.resources, name, 'x') == 1 and number >= object.count then
      object.beyond, object.changed = object.beyond + 1, true
    end
    if object.records then object.records[name] = 'x' end
  end
  local function unmark(object, name, number)
    local marked = call('HDEL', object.resources, name) == 1
    if object.records then object.records[name] = nil end
    if marked and number >= object.count then
      object.beyond, object.changed = object.beyond - 1, true
    end
    return marked
  end
  local function take_fresh(object, count, names, marked)
    local wanted = #names + count
    while object.prefix and object.fresh < object.count and #names < wanted do
      if budget <= 0 then
        object.more = true
        return false
      end
      local number = object.fresh
      local name = object.prefix .. int(number)
      object.fresh, object.changed = number + 1, true
      if marked > 0 and unmark(object, name, number) then
        marked, budget = marked - 1, budget - 1 / 8
      else
        names[#names + 1] = name
      end
    end
    return true
  end
  local function lowering(object) return object.prefix and object.fresh > object.count end
  local function lower(object)
    while lowering(object) and budget > 0 do
      object.fresh, object.changed = object.fresh - 1, true
      local name = object.prefix .. int(object.fresh)
      if call('ZREM', object.free, name) == 0 then mark(object, name, object.fresh) end
      budget = budget - 1 / 4
    end
    if lowering(object) then object.more = true end
  end
  local function mark_held(object, held)
    call('UNLINK', object.resources)
    object.unmarked, object.beyond = false, 0
    for name in pairs(held) do
      local number = number_of(object, name)
      if number and number >= object.fresh then mark(object, name, number) end
    end
  end
  local SCANNED, FOR_WAITERS, NEWEST, SEEN_AGAIN = 500, 1000, 32, 100
  local function take(object, count)
    local names = {}
    local function take_used(command, most)
      local got = call(command, object.free, int(most))
      for i = 1, #got, 2 do
        names[#names + 1] = got[i]
      end
    end
    if object.order == 'MostRecentlyUsed' then
      take_used('ZPOPMAX', count)
      if #names < count then take_fresh(object, count - #names, names, marks(object)) end
      return names
    end
    local marked = marks(object)
    local fresh = fresh_left(object, marked)
    if object.order == 'Random' then
      local used, from_used, from_fresh = call('ZCARD', object.free), 0, 0
      math.randomseed(now_us % 2147483648) -- the server seeds every script alike
      for _ = 1, math.min(count, used + fresh) do
        if math.random(used + fresh - from_used - from_fresh) > used - from_used then
          from_fresh = from_fresh + 1
        else
          from_used = from_used + 1
        end
      end
      names = from_used > 0 and call('ZRANDMEMBER', object.free, int(from_used)) or names
      in_chunks(names, function(some) call('ZREM', object.free, unpack(some)) end)
      take_fresh(object, from_fresh, names, marked)
    else
      local whole = take_fresh(object, math.min(count, fresh), names, marked)
      if whole and #names < count then take_used('ZPOPMIN', count - #names) end
    end
    return names
  end
  local function give_back(object, names)
    object.freed, object.newest = object.freed or {}, nil
    local free, named = {}, {}
    for name in string.gmatch(names, '[^,]+') do
      local number = number_of(object, name)
      if not number then
        named[#named + 1] = name
      elseif number < object.fresh then
        free[#free + 1] = name
      else
        unmark(object, name, number)
      end
      object.freed[#object.freed + 1] = name
    end
    in_chunks(named, function(some)
      for i, record in ipairs(call('HMGET', object.resources, unpack(some))) do
        if record and string.sub(record, 1, 1) == '1' then free[#free + 1] = some[i] end
      end
    end)
    in_chunks(free, function(some)
      local pairs_of = {}
      for _, name in ipairs(some) do
        pairs_of[#pairs_of + 1] = now_us
        pairs_of[#pairs_of + 1] = name
      end
      call('ZADD', object.free, unpack(pairs_of))
    end)
  end
  local function in_service(object, name)
    return index_of(object, name) ~= nil or string.sub(call('HGET', object.resources, name) or '0', 1, 1) == '1'
  end
  local function is_free(object, name)
    local index = index_of(object, name)
    if index and index >= object.fresh then return call('HEXISTS', object.resources, name) == 0 end
    return call('ZSCORE', object.free, name) ~= false
  end
  local function claim(object, names)
    local used, fresh = {}, {}
    for _, name in ipairs(names) do
      local number = number_of(object, name)
      if number and number >= math.max(object.fresh, object.count) then
        mark(object, name, number) -- out of service
      else
        local into = number and number >= object.fresh and fresh or used
        into[#into + 1] = name
      end
    end
    in_chunks(used, function(some) call('ZREM', object.free, unpack(some)) end)
    in_chunks(fresh, function(some)
      local marks = {}
      for _, name in ipairs(some) do
        marks[#marks + 1] = name
        marks[#marks + 1] = 'x'
        if object.records then object.records[name] = 'x' end
      end
      call('HSET', object.resources, unpack(marks))
    end)
  end
  local function record_of(object, name)
    object.records = object.records or {}
    if object.records[name] == nil then object.records[name] = call('HGET', object.resources, name) or '' end
    return object.records[name]
  end
  local function read_records(object, names)
    object.records = object.records or {}
    for i, record in ipairs(call('HMGET', object.resources, unpack(names))) do
      object.records[names[i]] = record or ''
    end
  end
  local function unreadable(object, name)
    local known = object.unreadable or { count = 0 }
    if not known[name] then
      known[name], known.count, known.first = true, known.count + 1, known.first or name
    end
    object.unreadable = known
  end
  local function properties_of(object, name)
    local record = record_of(object, name)
    local json = string.sub(record, 2)
    local whole, properties = string.match(record, '^[01x]') or record == '', {}
    if whole and json ~= '' then
      whole, properties = pcall(cjson.decode, json)
    end
    if not whole or type(properties) ~= 'table' then return unreadable(object, name) end
    for key, value in pairs(properties) do
      if type(key) ~= 'string' or type(value) ~= 'string' then return unreadable(object, name) end
    end
    return properties
  end
  local function unescaped(text)
    return (string.gsub(text, '%%(%x%x)', function(hex) return string.char(tonumber(hex, 16)) end))
  end
  local function suits(object, selector, name)
    local kind, wanted = string.sub(selector, 1, 1), string.sub(selector, 2)
    if kind ~= '=' and kind ~= '?' then return true end
    object.selectors_read = object.selectors_read or {}
    if kind == '=' then
      local names = object.selectors_read[selector]
      if not names then
        names = {}
        for one in string.gmatch(wanted, '[^,]+') do
          names[one] = true
        end
        object.selectors_read[selector] = names
      end
      return names[name] == true
    end
    local pairs_wanted = object.selectors_read[selector]
    if not pairs_wanted then
      pairs_wanted = {}
      for key, value in string.gmatch(wanted, '([^&=]*)=([^&]*)') do
        pairs_wanted[#pairs_wanted + 1] = { unescaped(key), unescaped(value) }
      end
      object.selectors_read[selector] = pairs_wanted
    end
    local record = record_of(object, name)
    if not string.find(record, '\\', 1, true) then
      for _, pair in ipairs(pairs_wanted) do
        if not string.find(pair[2], '["\\%c]') and not string.find(record, pair[2], 1, true) then return false end
      end
    end
    local properties = properties_of(object, name)
    if not properties then return false end
    for _, pair in ipairs(pairs_wanted) do
      if properties[pair[1]] ~= pair[2] then return false end
    end
    return true
  end
  local function line_of(names)
    local kind = string.sub(names, 1, 1)
    if kind == '=' then return string.find(names, ',', 1, true) and '>' .. string.sub(names, 2) or names end
    return kind == '?' and names or '-'
  end
  local LOWEST = 1125899906842624
  local function member_of(line, ticket, token) return format('%s %016d %s', line, ticket + LOWEST, token) end
  local function head(object, line)
    while true do
      local member = call('ZRANGE', object.selectors, '[' .. line .. ' ', '(' .. line .. '!', 'BYLEX', 'LIMIT', 0, 1)[1]
      if not member then return nil end
      local ticket, token = string.match(member, ' (%d+) (%S+)$')
      ticket = ticket - LOWEST
      if tonumber(call('ZSCORE', object.queue, token)) == ticket then
        return { line = line, ticket = ticket, token = token }
      end
      call('ZREM', object.selectors, member)
    end
  end
  local function lines(object, from, to, most)
    local found = {}
    while #found < most do
      local member = call('ZRANGE', object.selectors, from, to, 'BYLEX', 'LIMIT', 0, 1)[1]
      if not member then return found, nil end
      found[#found + 1] = string.match(member, '^%S+')
      from = '(' .. found[#found] .. '!'
    end
    return found, from
  end
  local function lines_in_turn(object, turn, first, last, most)
    local from = call('HGET', object.obj, turn)
    local found, rest = lines(object, from or first, last, most)
    if from and not rest then
      local others
      others, rest = lines(object, first, last, most - #found)
      for _, line in ipairs(others) do
        found[#found + 1] = line
      end
    end
    if rest and #found == most then
      call('HSET', object.obj, turn, rest)
    elseif from then
      call('HDEL', object.obj, turn)
    end
    return found
  end
  local LINES, NAMED, HEADS, LOOKS = 16, 8, 32, 128
  local function heads(object, asking)
    local known, found = {}, {}
    local function add(line)
      if known[line] or #found >= HEADS then return end
      known[line] = true
      found[#found + 1] = head(object, line)
    end
    add('-')
    local entry = asking and find_entry(object, asking)
    if entry then add(line_of(entry.names)) end
    local changed = object.changed or object.freed
    local unseen = changed and call('ZCARD', object.selectors) or tonumber(call('HGET', object.obj, 'unseen') or 0)
    local some_lines = math.min(LINES, math.floor(LOOKS / math.max(1, math.min(NEWEST, call('ZCARD', object.free)))))
    local some = lines_in_turn(object, 'turn', '[>', '+', some_lines)
    for _, line in ipairs(some) do
      add(line)
    end
    for i = 1, math.min(64, object.freed and #object.freed or 0) do
      add('=' .. object.freed[i])
    end
    local named = lines_in_turn(object, 'turn_named', '[=', '(>', NAMED)
    for _, line in ipairs(named) do
      add(line)
    end
    for _, line in ipairs(some) do
      local names = 0
      for name in string.gmatch(string.sub(line, 1, 1) == '>' and string.sub(line, 2) or '', '[^,]+') do
        names = names + 1
        if names > 16 or #found >= HEADS then break end
        add('=' .. name)
      end
    end
    object.unseen = #some < some_lines and #named < NAMED and 0 or math.max(0, unseen - #some - #named)
    if object.unseen > 0 then
      call('HSET', object.obj, 'unseen', object.unseen)
    elseif unseen > 0 then
      call('HDEL', object.obj, 'unseen')
    end
    budget = budget - #found / 4
    table.sort(found, function(a, b) return a.ticket < b.ticket end)
    return found
  end
  local function line_up(object, waiting)
    if call('ZCARD', object.selectors) == waiting then return end
    local from = tonumber(call('HGET', object.obj, 'lined_up') or 0)
    local some = call('ZRANGE', object.queue, from, from + 49, 'WITHSCORES')
    for i = 1, #some, 2 do
      local entry = find_entry(object, some[i])
      if entry then call('ZADD', object.selectors, 0, member_of(line_of(entry.names), some[i + 1], some[i])) end
    end
    call('HSET', object.obj, 'lined_up', from + 50 < waiting and from + 50 or 0)
  end
  local function choose(object, entry, earlier)
    if lowering(object) then
      object.more = true
      return nil
    end
    local kind, wanted = string.sub(entry.names, 1, 1), string.sub(entry.names, 2)
    local chosen = {}
    local named_wait = object.standing and call('ZRANGE', object.selectors, '[=', '(>', 'BYLEX', 'LIMIT', 0, 1)[1]
    local function may_have(name)
      if not suits(object, entry.names, name) or not properties_of(object, name) then return false end
      for _, selector in ipairs(earlier) do
        if suits(object, selector, name) then return false end
      end
      local other = named_wait and head(object, '=' .. name)
      return not other or other.ticket >= object.standing
    end
    if kind == '=' then
      for name in string.gmatch(wanted, '[^,]+') do
        if not is_free(object, name) or not may_have(name) then return nil end
        chosen[#chosen + 1] = name
      end
    elseif kind == '?' or #earlier > 0 or named_wait then
      local total, seen, taken = call('ZCARD', object.free), 0, {}
      local asks = not object.standing or object.asks
      local most, cursor = asks and SCANNED or SEEN_AGAIN, asks and 'scanned' or 'seen_again'
      local many = total > most
      local start = many and tonumber(call('HGET', object.obj, cursor) or 0) % total or 0
      object.scans = asks and most or object.scans or FOR_WAITERS
      local function consider(name)
        if #chosen < entry.permits and not taken[name] and may_have(name) then
          chosen[#chosen + 1] = name
          taken[name] = true
        end
      end
      if not asks then
        if not object.newest then
          object.newest, object.taken = call('ZRANGE', object.free, 0, NEWEST - 1, 'REV'), {}
          if #object.newest > 0 then read_records(object, object.newest) end
        end
        for _, name in ipairs(object.newest) do
          if not object.taken[name] then consider(name) end
        end
        object.scans = object.scans - #object.newest * (1 + #earlier / 8)
        if total <= #object.newest then seen = total end
      end
      while #chosen < entry.permits and seen < total and (object.scans > 0 or seen < 2 * entry.permits) do
        local at = (start + seen) % total
        local last = math.min(at + 99, total - 1, at + total - seen - 1)
        local names =
          call('ZRANGE', object.free, at, last, unpack(object.order == 'MostRecentlyUsed' and { 'REV' } or {}))
        read_records(object, names)
        for _, name in ipairs(names) do
          consider(name)
        end
        seen = seen + #names
        object.scans = object.scans - #names * (1 + #earlier / 8)
      end
      if many and #chosen < entry.permits then
        call('HSET', object.obj, cursor, (start + seen) % total)
        if asks then object.parts = math.ceil(total / math.max(1, seen)) end
      end
      if object.prefix and #chosen < entry.permits then
        local left, looked = object.count - object.fresh, 0
        local at = math.max(object.fresh, tonumber(call('HGET', object.obj, 'scanned_fresh') or 0))
        while #chosen < entry.permits and looked < left and (object.scans > 0 or looked < entry.permits) do
          if at >= object.count then at = object.fresh end
          local names, missing_yet = {}, math.max(20, entry.permits - #chosen)
          local last = math.min(at + math.min(CHUNK, missing_yet, left - looked), object.count) - 1
          for number = at, last do
            names[#names + 1] = object.prefix .. int(number)
          end
          read_records(object, names)
          for _, name in ipairs(names) do
            if #chosen == entry.permits then break end
            if record_of(object, name) == '' and may_have(name) then chosen[#chosen + 1] = name end
            at, looked = at + 1, looked + 1
            object.scans = object.scans - 3
          end
        end
        call('HSET', object.obj, 'scanned_fresh', int(at))
        if asks and #chosen < entry.permits then
          object.parts = math.max(object.parts or 0, math.ceil(left / math.max(1, looked)))
        end
      end
      if #chosen < entry.permits then return nil end
    else
      if entry.permits > call('ZCARD', object.free) + fresh_left(object, marks(object)) then return nil end
      if kind == '~' and in_service(object, wanted) and is_free(object, wanted) and properties_of(object, wanted) then
        claim(object, { wanted })
        chosen[1] = wanted
      end
      local unreadable = {}
      repeat
        local names = take(object, entry.permits - #chosen)
        in_chunks(names, function(some) read_records(object, some) end)
        for _, name in ipairs(names) do
          local into = properties_of(object, name) and chosen or unreadable
          into[#into + 1] = name
        end
      until #names == 0 or #chosen == entry.permits
      for _, name in ipairs(unreadable) do
        call('ZADD', object.free, object.order == 'MostRecentlyUsed' and 0 or now_us, name)
      end
      if #chosen == entry.permits then return chosen end
      give_back(object, table.concat(chosen, ','))
      return nil
    end
    claim(object, chosen)
    return chosen
  end
  local function held_names(object)
    local held, whole = {}, true
    for _, token in ipairs(call('ZRANGE', object.holders, 0, -1)) do
      local entry = find_entry(object, token)
      whole = whole and entry
      for name in string.gmatch(entry and entry.names or '', '[^,]+') do
        held[name] = true
      end
    end
    local function unless_free(name)
      if not call('ZSCORE', object.free, name) then held[name] = true end
    end
    if not whole then
      for _, name in ipairs(call('HKEYS', object.resources)) do
        unless_free(name)
      end
      for index = 0, (object.prefix and object.fresh or 0) - 1 do
        unless_free(object.prefix .. int(index))
      end
    end
    return held
  end
  local function find_unheld(object)
    local held = held_names(object)
    local function free(name)
      if not held[name] then call('ZADD', object.free, 'NX', now_us, name) end
    end
    if object.prefix then
      for index = 0, object.fresh - 1 do
        free(object.prefix .. int(index))
      end
      mark_held(object, held)
    else
      for _, name in ipairs(call('HKEYS', object.resources)) do
        if in_service(object, name) then free(name) end
      end
    end
  end
  local function unused(object)
    local free = call('ZCARD', object.free) + fresh_left(object, marks(object))
    return lowering(object) and math.min(free, math.max(0, object.count - object.held)) or free
  end
  made = {
    number_of = number_of,
    lower = lower,
    lowering = lowering,
    mark_held = mark_held,
    record_of = record_of,
    properties_of = properties_of,
    find_unheld = find_unheld,
    give_back = give_back,
    in_service = in_service,
    claim = claim,
    choose = choose,
    held_names = held_names,
    unused = unused,
    line_of = line_of,
    member_of = member_of,
    head = head,
    heads = heads,
    line_up = line_up,
  }
  return made
end
local function fits(object, entry, earlier)
  if not object.pool then return entry.permits <= object.limit - object.held end
  local chosen = pool().choose(object, entry, earlier)
  if not chosen then return false end
  entry.names = table.concat(chosen, ',')
  for _, name in ipairs(object.newest and chosen or {}) do
    object.taken[name] = true
  end
  return true
end
local function refusal(object, permits, names)
  if object.draining then return 'NOTDECLARED ' .. object_name(object) end
  if object.declared and object.run ~= here then return nil end
  if permits > object.limit and object.limit > 0 then return 'TOOLARGE ' .. int(object.limit) end
  if object.prefix and string.sub(names, 1, 1) == '?' then return 'NOPROPERTIES ' .. object_name(object) end
  local unreadable
  if object.pool and string.sub(names, 1, 1) == '=' then
    for name in string.gmatch(string.sub(names, 2), '[^,]+') do
      if not pool().properties_of(object, name) then
        unreadable = unreadable or name
      elseif not pool().in_service(object, name) then
        return 'NORESOURCE ' .. name
      end
    end
  elseif object.unreadable and permits > object.limit - object.unreadable.count then
    unreadable = object.unreadable.first
  end
  if unreadable then
    return 'DAMAGED ' .. object.resources .. ' has properties of ' .. unreadable .. ' that cannot be read'
  end
end
local function available(object) return object.pool and pool().unused(object) or object.limit - object.held end
local function describe(object, fence, ends, entry, token)
  local out = {
    'granted',
    fence,
    now,
    math.min(ends, now + entry.lease),
    entry.lease,
    entry.since,
    object.declared and 1 or 0,
    entry.permits,
  }
  if token then table.insert(out, 2, token) end
  if object.pool then
    for name in string.gmatch(entry.names, '[^,]+') do
      out[#out + 1] = name
      out[#out + 1] = (string.gsub(string.sub(pool().record_of(object, name), 2), '[\r\n]', ' '))
    end
  end
  return out
end
local function grant(object, token, entry, ends, waited)
  entry.since = now
  object.last = object.declared and object.last + 1 or math.max(object.last + 1, now_us)
  budget = budget - 2 - (object.pool and entry.permits / 4 or 0)
  object.held = object.held + entry.permits
  object.changed = true
  if entry.max_hold > 0 then ends = math.min(ends, now + entry.max_hold) end
  set_end(object, token, ends)
  store(object, token, entry)
  call('ZADD', object.holders, int(object.last), token)
  if not waited then return describe(object, object.last, ends, entry) end
  push(object, entry, describe(object, object.last, ends, entry, token))
end
local function recovering(object) return object.declared and (object.run ~= here or now < object.recover) end
local function missing(object) announce(object, 'missing') end
local function outdated(object, seen)
  if not object.declared or object.last >= seen then return end
  object.run, object.last, object.changed = false, seen, true
  missing(object)
end
local function enqueue(object, token, entry, priority)
  object.ticket = object.ticket + 1
  object.changed = true
  store(object, token, entry)
  local ticket = object.ticket - priority * 4398046511104
  call('ZADD', object.queue, int(ticket), token)
  if object.pool then
    call('ZADD', object.selectors, 0, pool().member_of(pool().line_of(entry.names), ticket, token))
  end
end
local SPACING, FAR = 5, 128
local function wait_of(token, names)
  local condition, ticket = string.match(names, '^(@[^#]*)#(%d+)#?%-?%d*$')
  return condition and condition .. ' ' .. ticket .. ' ' .. token
end
local function priority_of(names) return tonumber(string.match(names, '#%d+#(-?%d+)$') or 0) end
local function notify(object, condition)
  while true do
    local member =
      call('ZRANGE', object.waits, '[' .. condition .. ' ', '(' .. condition .. '!', 'BYLEX', 'LIMIT', 0, 1)[1]
    if not member then return false end
    call('ZREM', object.waits, member)
    local token = string.match(member, '%S+$')
    local entry = find_entry(object, token)
    if entry then
      local priority = priority_of(entry.names)
      entry.names = condition
      enqueue(object, token, entry, priority)
      return true
    end
    call('ZREM', object.expiry, token)
    call('HDEL', object.obj, 't:' .. token)
  end
end
local function recount(object)
  local held = 0
  for _, token in ipairs(call('ZRANGE', object.holders, 0, -1)) do
    local entry = find_entry(object, token)
    if not entry then return end
    held = held + entry.permits
  end
  object.held = held
  if object.pool then pool().find_unheld(object) end
end
local function correct_held(object)
  if object.held > 0 and call('ZCARD', object.holders) == 0 then
    object.changed = true
    recount(object)
  end
end
local function finish(object, token, how, why)
  local entry = find_entry(object, token)
  budget = budget - 1
  object.values[token] = nil
  call('HDEL', object.obj, 't:' .. token)
  call('ZREM', object.expiry, token)
  local fence = entry and how == 'expired' and entry.grace > 0 and call('ZSCORE', object.holders, token)
  local was_held = call('ZREM', object.holders, token) == 1
  if not entry then
    local waited = call('ZREM', object.queue, token) > 0
    if was_held then
      object.changed = true
      recount(object)
    end
    return was_held and 'released' or waited and 'left' or nil
  end
  object.changed = true
  local renewed = was_held and how == 'expired' and recovering(object)
  if how and how ~= 'dropped' and not renewed and entry.channel ~= '-' then
    push(object, entry, { was_held and 'lost' or 'gone', token, how, why or '' })
  end
  if was_held then
    if fence then
      local ends, ghost = now + entry.grace, 'grace-' .. token
      entry.grace, entry.channel = 0, '-'
      set_end(object, ghost, ends)
      store(object, ghost, entry)
      call('ZADD', object.holders, fence, ghost)
      return 'released'
    end
    object.held = object.held - entry.permits
    if object.pool then
      budget = budget - math.floor(entry.permits / 4)
      pool().give_back(object, entry.names)
    end
  end
  local ticket = object.pool and not was_held and call('ZSCORE', object.queue, token)
  if ticket then call('ZREM', object.selectors, pool().member_of(pool().line_of(entry.names), ticket, token)) end
  local queued = not was_held and call('ZREM', object.queue, token) == 1
  local wait = object.waits and not was_held and wait_of(token, entry.names)
  local waited = wait and call('ZREM', object.waits, wait) == 1
  if not (was_held or queued or waited) then
    recount(object)
  end
  if object.waits and string.sub(entry.names, 1, 1) == '@' then
    local unheard = not waited and (not was_held or how)
    if unheard then
      local done, problem = pcall(notify, object, string.match(entry.names, '^@[^#]*'))
      if not done then
        save(object)
        error(problem)
      end
    end
  end
  return was_held and 'released' or 'left'
end
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
local function settle(object)
  if not object.exists then return end
  if object.next <= now then end_expired(object) end
  if object.prefix and object.fresh > object.count then pool().lower(object) end
  advance(object)
end
local function keep_entry(object, token, entry) set_end(object, token, now + entry.ttl) end
local function unwind(object)
  local latest = call('ZRANGE', object.expiry, -1, -1, 'WITHSCORES')[2]
  local bound = now + object.ttl + 1000
  if latest and tonumber(latest) > bound then
    local late = call('ZRANGE', object.expiry, -100, -1, 'WITHSCORES')
    for i = 1, #late, 2 do
      if tonumber(late[i + 1]) > bound then set_end(object, late[i], now + object.ttl) end
    end
    object.more = object.more or #late == 200 and tonumber(late[2]) > bound
  end
  if object.recover > bound then
    object.recover = now + object.ttl
    object.unsaved = true
  end
end
local function wake(object)
  unwind(object)
  local next_at = tonumber(call('ZRANGE', object.expiry, 0, 0, 'WITHSCORES')[2] or 0)
  if object.recover > now and (next_at == 0 or object.recover < next_at) then next_at = object.recover end
  return object.more and 0 or math.max(0, next_at - now)
end
local function position(object, token, entry)
  local rank = call('ZRANK', object.queue, token)
  if rank then return rank + 1, entry.ttl end
  local wait = object.waits and wait_of(token, entry.names)
  return call('ZCARD', object.queue) + (wait and call('ZRANK', object.waits, wait) or 0) + 2, nil
end
local function wake_at(object, soonest, at, ttl)
  local spaced = soonest + (at - 1) * SPACING
  if at == 1 or at > FAR or not ttl then return int(spaced) end
  local head_at, bound = soonest, math.min(spaced, ttl / 3)
  for rank = at - 2, 0, -1 do
    local before = call('ZRANGE', object.queue, rank, rank)[1]
    head_at = math.max(head_at, tonumber(before and call('ZSCORE', object.expiry, before) or 0) - now)
    if head_at >= bound then return int(spaced) end
  end
  return int(head_at)
end
local function nobody_waits(object) return call('EXISTS', object.queue, object.waits or object.queue) == 0 end
local function drop(object) call('UNLINK', unpack(keys_of(object))) end
local function call_again(object)
  local first = call('ZRANGE', object.queue, 0, FAR - 1)
  local tries = 3
  for _, token in ipairs(first) do
    if tonumber(call('ZSCORE', object.expiry, token) or 0) > now then
      for _, own_token in ipairs(object.tokens) do
        if token == own_token then return end
      end
      local entry = find_entry(object, token)
      if entry and push(object, entry, { 'again', token }) > 0 then return end
      tries = tries - 1
      if tries == 0 then return end
    end
  end
end
local function close(object)
  if not object.exists then return true end
  local lasting = (object.declared or object.kept) and not object.draining
  if object.changed and not lasting and object.held == 0 and nobody_waits(object) then
    drop(object)
    if object.draining then
      call('HSET', object.obj, 'drained', 1)
      call('PEXPIREAT', object.obj, int(now + 86400000))
      announce(object, 'changed')
    end
    return true
  end
  local tells = object.watched and (object.changed or object.declared and object.run ~= here)
  if tells then object.watched = nil end
  if object.changed == true or object.unsaved or tells then save(object) end
  if object.more or object.overdue then call_again(object) end
  if object.retained then
    for _, key in ipairs(keys_of(object)) do
      call('PEXPIREAT', key, int(object.retained))
    end
  elseif not (object.declared or object.kept) then
    if object.changed or object.graced or call('PTTL', object.obj) <= object.ttl then
      local ttl = int(object.ttl * 2 + 1000)
      call('PEXPIRE', object.obj, ttl)
      call('PEXPIRE', object.holders, ttl)
      call('PEXPIRE', object.expiry, ttl)
      if object.ticket > 0 then
        call('PEXPIRE', object.queue, ttl)
        if object.waits then call('PEXPIRE', object.waits, ttl) end
        if object.pool then call('PEXPIRE', object.selectors, ttl) end
      end
    end
  end
  if tells then announce(object, 'changed') end
end

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
