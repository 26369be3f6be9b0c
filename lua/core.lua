-- core.lua: what every script shares. It stands where a script has the line "---- core.lua".
--
-- All that is made here is made anew in each call. Its functions alone cost the server as much as receiving the call with
-- all its arguments (1300 instructions each, 40,000 in all), and each command called some 8000 more. So what is ordinary
-- and small is answered before that line, by a fast lane, whose outcome nobody can tell from the slow way's: with it an
-- acquire and a release with nobody else cost 145,000 instructions, and 390,000 without. Think twice before you add a
-- function here; what is rare makes its own when it needs them, as `pool` does.
--
-- No call works for longer than about a millisecond for others than its caller. It has a budget of units, counted and not
-- timed, so that every server does the same: ending a lease or a place is one unit, a grant two, and both one more for
-- every eight resources. Where that is used up, the call leaves the rest: it answers wake 0 to the head of the queue, or tells it
-- by push to come `again`, and each call that comes goes on. Should the push be lost, the renewals of the places go on.
-- What has run out and is not ended yet counts as held, but cannot be renewed, released or used by anybody.
--
-- An object lies in four keys (a lock in five, a pool in seven), all with one hash tag {namespace/kind/name}:
--   obj        hash: the object's fields, and one field t:<token> for each lease and each waiter; or a lease alone, see
--              `unfold`
--   holders    sorted set: token -> fencing token         (oldest lease first)
--   queue      sorted set: token -> ticket                (head first)
--   expiry     sorted set: token -> milliseconds of the server's clock, leases and places in the queue alike
--   waits      sorted set: "@condition ticket token" -> 0, of those who wait for a condition of the lock, so that the
--              first one of each condition is found by its name   (locks)
--   resources  hash: resource -> "1" in service or "0" disabled, then its properties; "x": a generated one from `fresh`
--              on that is held   (pools)
--   free       sorted set: resource -> when it was given back, in microseconds         (pools)
--   selectors  sorted set: "line ticket token" -> 0, the places in the queue by what they wait for, so that the first one
--              of each line is found by its name: "=" and one resource, ">" and several, "?" and properties, "-" for any
--              (pools)
--
-- Fields of obj: limit (permits, or resources in service), held, last (newest fencing token), ticket (newest place),
-- lease, max_hold (milliseconds), declared (digest of the declaration; absent: not declared), kept (a pool that programs keep), run (the
-- server's run id when it was declared), recover (nothing new is granted before), watched (the controller wants a word
-- at the next change), beside (first users have leases from between a loss and the declaration), draining (being withdrawn),
-- drained (there is no such object any more, because it was withdrawn), retained (withdrawn, but there until then), ttl (the
-- longest lease, place or grace so far: the keys of first-user objects outlive the last touch by twice that), protocol (see
-- PROTOCOL);
-- pools: order, and if generated: prefix, count, fresh (the lowest index never handed out; above count while a smaller
-- count is being applied), beyond (how many of those in `resources` are not below count).
--
-- A value t:<token> reads "permits lease place max_hold grace since channel names holder": milliseconds. Names of a lease
-- are a pool's resources, joined by commas. Names of a place in a pool's queue say which resources would do: "=" and
-- these very ones, "?" and properties as in a URL's query, "~" and the one that would be best, or "-" for any. Names in a
-- lock are "@" and the condition that it was notified of, "@condition#ticket" while it waits for that
-- (and "#priority", which it gets in the queue, unless that is 0), or "-". The holder is
-- JSON that the scripts never look into.

-- Numbers become digits: Lua's own conversion would write large ones with an exponent.
local format = string.format
local function int(n) return format('%d', n) end

-- The protocol that this script speaks. It stands before the controller's channel in each call ("1@channel"), in each object that lies in
-- a hash, and before a lease that lies alone. An object without it is of before there were versions, 0, and is changed into
-- one of today when it is opened. Nothing of a newer one is read.
local PROTOCOL = 1
local spoken, events_channel = string.match(ARGV[2], '^(%d+)@(.*)$')
if spoken ~= int(PROTOCOL) then return redis.error_reply('VERSION - ' .. (spoken or 0) .. ' ' .. PROTOCOL) end
ARGV[2] = events_channel

local function check_version(obj, written)
  if tonumber(written) > PROTOCOL then error({ err = 'VERSION ' .. obj .. ' ' .. written .. ' ' .. PROTOCOL }) end
end

-- Raises what is wrong with an object, so that its client can name it: the key, or "-" where the text names it, and the text.
local function damaged(key, what) error({ err = 'DAMAGED ' .. key .. ' ' .. what }) end

-- A command that finds another type of value than Tenure keeps under its key says which key that is. Any other failure
-- (no memory, no replicas) is not the object's, and passes as it is.
local function call(...)
  local reply = redis.pcall(...)
  if type(reply) == 'table' and reply.err then
    local _, key = ...
    if string.sub(reply.err, 1, 9) == 'WRONGTYPE' then damaged(key, 'holds another type of value than Tenure keeps there') end
    error(reply)
  end
  return reply
end

local clock = call('TIME')
local now_us = clock[1] * 1000000 + clock[2]
local now = math.floor(now_us / 1000)

-- Units of work for others that are left to this call.
local budget = 64

-- Most leases of first-user objects are given back before anybody else asks. Until then such a lease lies in obj alone, as
-- a string: "v1 expires fence", and acquire's arguments from the token to the holder. The fencing token is the time of the
-- grant in microseconds. All but the fast lanes unfold it first.
-- It is MGET that reads it, because that finds nothing in a hash, where GET fails.
local function unfold(at, alone)
  local version, rest = string.match(alone, '^v(%d+) (.*)$')
  if version then check_version(KEYS[at + 1], version) end
  local ends, fence, token, permits, lease, limit, place, channel, holder =
    string.match(rest or alone, '^(%d+) (%d+) (%S+) (%d+) (%d+) 0 (%d+) (%d+) (%S+) (.*)$')
  if not ends then damaged(KEYS[at + 1], 'holds a string that is no lease') end
  -- Its fencing token is the time of its grant, which renewals leave as it is.
  local value = format('%d %d %d 0 0 %d %s - %s', permits, lease, math.min(place, lease), math.floor(fence / 1000), channel,
    holder)
  call('UNLINK', KEYS[at + 1])
  call('HSET', KEYS[at + 1], 'limit', limit, 'held', permits, 'last', fence, 'ticket', 0, 'ttl', lease,
    'protocol', PROTOCOL, 't:' .. token, value)
  call('ZADD', KEYS[at + 2], fence, token)
  call('ZADD', KEYS[at + 4], ends, token)
end

-- A counter of an object. Where it is missing, it is `default`; without one it has to be there.
local function counter(obj, field, text, default)
  if not text and default then return default end
  if not text or #text > 16 or not string.match(text, '^%d+$') then
    damaged(obj, 'has ' .. (text and 'no number' or 'nothing') .. ' in its field ' .. field)
  end
  return tonumber(text)
end

-- Reads the object whose keys begin at KEYS[at + 1], and the values of the tokens, in one command; what only declared
-- objects and pools that programs keep have, in a second one.
-- `run` is the id of the server process that the caller talks to, `events` the controller's channel. `alone` is the lease
-- that lies in obj alone, or false; nil where the caller has not looked.
local function open(at, width, run, events, tokens, alone)
  -- A long list is left to be found one by one: Lua's stack bounds what a command can be given at once.
  local early = tokens and #tokens <= 1000 and tokens or {}
  local fields = {}
  for i, token in ipairs(early) do fields[i] = 't:' .. token end
  local obj = KEYS[at + 1]
  if alone == nil then alone = call('MGET', obj)[1] end
  if alone then unfold(at, alone) end
  local got = call('HMGET', obj, 'limit', 'held', 'last', 'ticket', 'ttl', 'declared', 'kept', 'draining', 'retained',
    'protocol', unpack(fields))
  local o = { obj = obj, holders = KEYS[at + 2], queue = KEYS[at + 3], expiry = KEYS[at + 4],
    waits = width == 5 and KEYS[at + 5], resources = KEYS[at + 5], free = KEYS[at + 6],
    selectors = KEYS[at + 7], at = at, width = width,
    pool = width == 7, here = run, events = events, values = {}, tokens = tokens or {},
    exists = false, held = 0, last = 0, ticket = 0, ttl = 0, declared = got[6], kept = got[7], draining = got[8],
    lease = 0, max_hold = 0, recover = 0 }
  if got[10] then check_version(obj, counter(obj, 'protocol', got[10])) end
  -- All of them are there, or none is.
  if got[1] or got[2] or got[3] or got[4] or got[5] then
    o.exists, o.limit, o.held = true, counter(obj, 'limit', got[1]), counter(obj, 'held', got[2])
    o.last, o.ticket, o.ttl = counter(obj, 'last', got[3]), counter(obj, 'ticket', got[4]), counter(obj, 'ttl', got[5])
    o.retained = got[9] and counter(obj, 'retained', got[9])
    if not got[10] then
      -- Of before there were versions: those who wait for a condition stood in `waits` by their tokens, with their tickets.
      call('HSET', obj, 'protocol', PROTOCOL)
      for _, token in ipairs(o.waits and call('ZRANGE', o.waits, 0, -1) or {}) do
        local before, names, holder = string.match(call('HGET', obj, 't:' .. token) or '',
          '^(%d+ %d+ %d+ %d+ %d+ %d+ %S+) (@[^# ]+) (.*)$')
        if before then
          local ticket = format('%016d', call('ZSCORE', o.waits, token))
          call('HSET', obj, 't:' .. token, format('%s %s#%s %s', before, names, ticket, holder))
          call('ZREM', o.waits, token)
          call('ZADD', o.waits, 0, names .. ' ' .. ticket .. ' ' .. token)
        end
      end
    end
  end
  for i, token in ipairs(early) do o.values[token] = got[10 + i] or nil end
  if o.declared or o.kept then
    got = call('HMGET', obj, 'lease', 'max_hold', 'run', 'recover', 'watched', 'order', 'prefix', 'count', 'fresh',
      'beyond')
    o.lease, o.max_hold, o.run = counter(obj, 'lease', got[1], 0), counter(obj, 'max_hold', got[2], 0), got[3]
    o.recover, o.watched, o.order, o.prefix = counter(obj, 'recover', got[4], 0), got[5], got[6], got[7]
    if o.prefix then
      o.count, o.fresh = counter(obj, 'count', got[8]), counter(obj, 'fresh', got[9])
      -- Without it, the pool was declared before it was kept, and the next declaration marks anew what is held.
      o.unmarked, o.beyond = not got[10], counter(obj, 'beyond', got[10], 0)
    end
  end
  return o
end

-- A declared object that this server process has not been told of anew may have lost its newest leases (restart,
-- failover, old snapshot). Until the controller has declared it again, and for one lease after that, nothing new is
-- granted, while holders that still know their fencing token are let in again.
local function recovering(o) return o.declared and (o.run ~= o.here or now < o.recover) end

-- Words for clients begin with the id of the server process that says them: in a cluster every server passes on what any
-- of them publishes, and a client takes only what the server that it is connected to has said itself, once.
local function tell(channel, lines)
  for i, line in ipairs(lines) do lines[i] = type(line) == 'number' and int(line) or line end
  return call('PUBLISH', channel, ARGV[1] .. '\n' .. table.concat(lines, '\n'))
end

local function object_of(o) return string.match(o.obj, '{(.*)}') end

-- Nothing where the value is not one of Tenure's.
local function parse(value)
  local permits, lease, place, max_hold, grace, since, channel, names, holder =
    string.match(value, '^(%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%S+) (%S+) (.*)$')
  if not permits then return nil end
  return { permits = tonumber(permits), lease = tonumber(lease), place = tonumber(place), max_hold = tonumber(max_hold),
    grace = tonumber(grace), since = tonumber(since), channel = channel, names = names, holder = holder }
end

-- What stands under a token. Nothing where part of the object is gone or cannot be read: by an eviction, or by somebody's
-- hand.
local function value_of(o, token) return o.values[token] or call('HGET', o.obj, 't:' .. token) end
local function find(o, token)
  local value = value_of(o, token)
  return value and parse(value)
end

-- What stands under the token of the caller, which has a value. A lease whose value cannot be read goes on until it runs
-- out, or is given back: its holder may still work under it.
local function own(o, token)
  local e = parse(o.values[token])
  if not e then damaged('-', 'what ' .. o.obj .. ' has of this lease cannot be read; that goes when the lease has run out') end
  return e
end

-- Writes the counters, and other fields along with them.
local function save(o, ...)
  call('HSET', o.obj, 'limit', int(o.limit), 'held', int(o.held), 'last', int(o.last), 'ticket', int(o.ticket), 'ttl',
    int(o.ttl), 'protocol', PROTOCOL, ...)
  if o.fresh then call('HSET', o.obj, 'fresh', int(o.fresh)) end
  if o.fresh and not o.unmarked then call('HSET', o.obj, 'beyond', int(o.beyond)) end
  if o.changed then o.changed = 'saved' end
end

local function store(o, token, e)
  local value = format('%d %d %d %d %d %d %s %s %s', e.permits, e.lease, e.place, e.max_hold, e.grace, e.since, e.channel,
    e.names, e.holder)
  o.values[token] = value
  o.ttl = math.max(o.ttl, e.lease, e.place, e.grace)
  save(o, 't:' .. token, value)
end

-- What a declaration says bounds what a request asks for; 0 is the declared length, and no longest hold. A pool that
-- programs keep says nothing: half a minute.
local function bounded(o, lease, max_hold)
  if lease == 0 then lease = o.lease > 0 and o.lease or 30000 end
  if o.lease > 0 then lease = math.min(lease, o.lease) end
  if o.max_hold > 0 then max_hold = max_hold == 0 and o.max_hold or math.min(max_hold, o.max_hold) end
  return lease, max_hold
end

-- A lease never reaches past the longest hold, counted from when it was granted.
local function lease_end(e)
  local ends = now + e.lease
  if e.max_hold > 0 then ends = math.min(ends, e.since + e.max_hold) end
  return ends
end

---- resources of a pool

-- Made when a script first needs them: functions cost time to make, in each call of a script, and most calls are for locks.
local made
local function pool()
  if made then return made end

  -- The number in the name of a generated resource, in service or not.
  local function number_of(o, name)
    if not o.prefix or string.sub(name, 1, #o.prefix) ~= o.prefix then return nil end
    local digits = string.sub(name, #o.prefix + 1)
    if #digits > 15 or not string.match(digits, '^%d+$') then return nil end
    local number = tonumber(digits)
    return int(number) == digits and number or nil
  end

  local function index_of(o, name)
    local number = number_of(o, name)
    return number and number < o.count and number or nil
  end

  -- In a generated pool, a resource below `fresh` is free if it stands in `free`, and any other if it is not marked "x" in
  -- `resources`: a holder that was let in again after a loss may have one of them, or one that has gone out of service.
  local function fresh_left(o)
    if not o.prefix then return 0 end
    return math.max(0, o.count - o.fresh - call('HLEN', o.resources) + o.beyond)
  end

  local function mark(o, name, number)
    if call('HSET', o.resources, name, 'x') == 1 and number >= o.count then o.beyond = o.beyond + 1 end
  end

  local function unmark(o, name, number)
    local marked = call('HDEL', o.resources, name) == 1
    if marked and number >= o.count then o.beyond = o.beyond - 1 end
    return marked
  end

  local function take_fresh(o)
    while o.prefix and o.fresh < o.count do
      if budget <= 0 then
        o.more = true
        return nil
      end
      local number = o.fresh
      local name = o.prefix .. int(number)
      o.fresh = number + 1
      if not unmark(o, name, number) then return name end
      budget = budget - 1 / 8
    end
  end

  -- Whether resources that have gone out of service still stand among those that were handed out. Until they do not, nothing
  -- is granted.
  local function lowering(o) return o.prefix and o.fresh > o.count end

  -- Takes some of them from there. A resource that is not free is held.
  local function lower(o)
    while lowering(o) and budget > 0 do
      o.fresh, o.changed = o.fresh - 1, true
      local name = o.prefix .. int(o.fresh)
      if call('ZREM', o.free, name) == 0 then mark(o, name, o.fresh) end
      budget = budget - 1 / 4
    end
    if lowering(o) then o.more = true end
  end

  -- Marks anew what holders have of a generated pool: after a change of its names, and where a mark may be missing.
  local function mark_held(o, held)
    call('UNLINK', o.resources)
    o.unmarked, o.beyond = false, 0
    for name in pairs(held) do
      local number = number_of(o, name)
      if number and number >= o.fresh then mark(o, name, number) end
    end
  end

  -- Free resources that one call looks at for the request that it is about, some half a millisecond, and for all that
  -- wait. Those have seen before what is free for longer: they look at the newest first, and at some others again.
  local SCANNED, FOR_WAITERS, NEWEST, SEEN_AGAIN = 500, 1000, 32, 100

  local function take(o)
    local fresh = fresh_left(o)
    if o.order == 'MostRecentlyUsed' then
      local got = call('ZPOPMAX', o.free)
      return got[1] or take_fresh(o)
    elseif o.order == 'Random' then
      local used = call('ZCARD', o.free)
      math.randomseed(now_us % 2147483648) -- the server seeds every script alike
      if fresh > 0 and math.random(used + fresh) > used then return take_fresh(o) end
      local name = call('ZRANDMEMBER', o.free)
      if not name then return nil end
      call('ZREM', o.free, name)
      return name
    end
    -- least recently used: what was never used comes first
    if fresh > 0 then return take_fresh(o) end
    return call('ZPOPMIN', o.free)[1]
  end

  local function give_back(o, names)
    o.freed, o.newest = o.freed or {}, nil
    for name in string.gmatch(names, '[^,]+') do
      local entry = call('HGET', o.resources, name)
      local number = number_of(o, name)
      if number then
        if number < o.fresh then call('ZADD', o.free, now_us, name) else unmark(o, name, number) end
      elseif entry and string.sub(entry, 1, 1) == '1' then
        call('ZADD', o.free, now_us, name)
      end
      o.freed[#o.freed + 1] = name
    end
  end

  -- A resource by its name: whether it is in service, whether it is free, and taking it when it is.
  local function in_service(o, name)
    return index_of(o, name) ~= nil or string.sub(call('HGET', o.resources, name) or '0', 1, 1) == '1'
  end

  local function is_free(o, name)
    local index = index_of(o, name)
    if index and index >= o.fresh then return call('HEXISTS', o.resources, name) == 0 end
    return call('ZSCORE', o.free, name) ~= false
  end

  local function claim(o, name)
    local number = number_of(o, name)
    if number and number >= o.fresh then
      mark(o, name, number)
    else
      call('ZREM', o.free, name)
    end
  end

  -- What stands in `resources` of one that is named, as this call has found it first.
  local function entry_of(o, name)
    o.entries = o.entries or {}
    if o.entries[name] == nil then o.entries[name] = call('HGET', o.resources, name) or '' end
    return o.entries[name]
  end

  -- Reads those of many in one command.
  local function read_entries(o, names)
    o.entries = o.entries or {}
    for i, entry in ipairs(call('HMGET', o.resources, unpack(names))) do o.entries[names[i]] = entry or '' end
  end

  -- Notes a resource that cannot be read: no request that needs all others and this one can be granted.
  local function unreadable(o, name)
    local known = o.unreadable or { count = 0 }
    if not known[name] then known[name], known.count, known.first = true, known.count + 1, known.first or name end
    o.unreadable = known
  end

  -- The properties of a resource. Nothing where they cannot be read: such a resource does for nobody, and keeps nobody from
  -- the others.
  local function properties_of(o, name)
    local entry = entry_of(o, name)
    local json = string.sub(entry, 2)
    local whole, properties = string.match(entry, '^[01x]') or entry == '', {}
    if whole and json ~= '' then whole, properties = pcall(cjson.decode, json) end
    if not whole or type(properties) ~= 'table' then return unreadable(o, name) end
    for key, value in pairs(properties) do
      if type(key) ~= 'string' or type(value) ~= 'string' then return unreadable(o, name) end
    end
    return properties
  end

  local function unescaped(text)
    return (string.gsub(text, '%%(%x%x)', function(hex) return string.char(tonumber(hex, 16)) end))
  end

  -- Whether a resource is among those that a request would take.
  local function suits(o, wish, name)
    local kind, wanted = string.sub(wish, 1, 1), string.sub(wish, 2)
    if kind ~= '=' and kind ~= '?' then return true end
    o.wishes = o.wishes or {}
    if kind == '=' then
      local names = o.wishes[wish]
      if not names then
        names = {}
        for one in string.gmatch(wanted, '[^,]+') do names[one] = true end
        o.wishes[wish] = names
      end
      return names[name] == true
    end
    local pairs_wanted = o.wishes[wish]
    if not pairs_wanted then
      pairs_wanted = {}
      for key, value in string.gmatch(wanted, '([^&=]*)=([^&]*)') do
        pairs_wanted[#pairs_wanted + 1] = { unescaped(key), unescaped(value) }
      end
      o.wishes[wish] = pairs_wanted
    end
    -- Most that do not suit are told by their text, without reading it.
    local entry = entry_of(o, name)
    if not string.find(entry, '\\', 1, true) then
      for _, pair in ipairs(pairs_wanted) do
        if not string.find(pair[2], '["\\%c]') and not string.find(entry, pair[2], 1, true) then return false end
      end
    end
    local properties = properties_of(o, name)
    if not properties then return false end
    for _, pair in ipairs(pairs_wanted) do
      if properties[pair[1]] ~= pair[2] then return false end
    end
    return true
  end

  -- The line of a place in the queue, by what it waits for.
  local function line_of(names)
    local kind = string.sub(names, 1, 1)
    if kind == '=' then return string.find(names, ',', 1, true) and '>' .. string.sub(names, 2) or names end
    return kind == '?' and names or '-'
  end

  -- Tickets may be negative, by priorities; with this they are in order as digits.
  local LOWEST = 1125899906842624
  local function place_in(line, ticket, token) return format('%s %016d %s', line, ticket + LOWEST, token) end

  -- The first of a line. What a client of before there were lines has left in it goes.
  local function head(o, line)
    while true do
      local member = call('ZRANGE', o.selectors, '[' .. line .. ' ', '(' .. line .. '!', 'BYLEX', 'LIMIT', 0, 1)[1]
      if not member then return nil end
      local ticket, token = string.match(member, ' (%d+) (%S+)$')
      ticket = ticket - LOWEST
      if tonumber(call('ZSCORE', o.queue, token)) == ticket then return { line = line, ticket = ticket, token = token } end
      call('ZREM', o.selectors, member)
    end
  end

  -- So many lines from a place in `selectors` on, and where to go on.
  local function lines(o, from, to, most)
    local found = {}
    while #found < most do
      local member = call('ZRANGE', o.selectors, from, to, 'BYLEX', 'LIMIT', 0, 1)[1]
      if not member then return found, nil end
      found[#found + 1] = string.match(member, '^%S+')
      from = '(' .. found[#found] .. '!'
    end
    return found, from
  end

  -- The same, each time from where the last call has stopped: so that all have their turn.
  local function lines_in_turn(o, turn, first, last, most)
    local from = call('HGET', o.obj, turn)
    local found, rest = lines(o, from or first, last, most)
    if from and not rest then
      local others
      others, rest = lines(o, first, last, most - #found)
      for _, line in ipairs(others) do found[#found + 1] = line end
    end
    if rest and #found == most then
      call('HSET', o.obj, turn, rest)
    elseif from then
      call('HDEL', o.obj, turn)
    end
    return found
  end

  -- Lines that one call looks at: of those for properties and for several resources, of those for one, and of all. Each line
  -- of the first kind is compared with the newest free resources: LOOKS bounds how many times.
  local LINES, NAMED, HEADS, LOOKS = 16, 8, 32, 128

  -- The heads of the lines that may have a resource now, first come first: of the line for any resource; of some of those
  -- for properties and for several, in turn; of those for one resource, the ones of what this call has freed, and some others
  -- in turn. After a change `unseen` bounds how many places stand in lines that have not been looked at since. As long as
  -- there are some, and something is free, the next call continues.
  local function heads(o, asking)
    local known, found = {}, {}
    local function add(line)
      if known[line] or #found >= HEADS then return end
      known[line] = true
      found[#found + 1] = head(o, line)
    end
    add('-')
    local e = asking and find(o, asking)
    if e then add(line_of(e.names)) end
    local changed = o.changed or o.freed
    local unseen = changed and call('ZCARD', o.selectors) or tonumber(call('HGET', o.obj, 'unseen') or 0)
    local some_lines = math.min(LINES, math.floor(LOOKS / math.max(1, math.min(NEWEST, call('ZCARD', o.free)))))
    local some = lines_in_turn(o, 'turn', '[>', '+', some_lines)
    for _, line in ipairs(some) do add(line) end
    for i = 1, math.min(64, o.freed and #o.freed or 0) do add('=' .. o.freed[i]) end
    local named = lines_in_turn(o, 'turn_named', '[=', '(>', NAMED)
    for _, line in ipairs(named) do add(line) end
    -- A waiter for one of several resources may stand before the waiter for all of them.
    for _, line in ipairs(some) do
      local names = 0
      for name in string.gmatch(string.sub(line, 1, 1) == '>' and string.sub(line, 2) or '', '[^,]+') do
        names = names + 1
        if names > 16 or #found >= HEADS then break end
        add('=' .. name)
      end
    end
    o.unseen = #some < some_lines and #named < NAMED and 0 or math.max(0, unseen - #some - #named)
    if o.unseen > 0 then
      call('HSET', o.obj, 'unseen', o.unseen)
    elseif unseen > 0 then
      call('HDEL', o.obj, 'unseen')
    end
    budget = budget - #found / 4
    table.sort(found, function(a, b) return a.ticket < b.ticket end)
    return found
  end

  -- Puts those into their lines whom a client of before there were lines has put into the queue, some in each call.
  local function line_up(o, waiting)
    if call('ZCARD', o.selectors) == waiting then return end
    local from = tonumber(call('HGET', o.obj, 'lined_up') or 0)
    local some = call('ZRANGE', o.queue, from, from + 49, 'WITHSCORES')
    for i = 1, #some, 2 do
      local e = find(o, some[i])
      if e then call('ZADD', o.selectors, 0, place_in(line_of(e.names), some[i + 1], some[i])) end
    end
    call('HSET', o.obj, 'lined_up', from + 50 < waiting and from + 50 or 0)
  end

  -- Takes the resources that a request wishes for, all or none. `earlier` are the wishes of those who stand before it and
  -- could not be served: what they would take is not for it.
  local function choose(o, e, earlier)
    if lowering(o) then
      o.more = true
      return nil
    end
    local kind, wanted = string.sub(e.names, 1, 1), string.sub(e.names, 2)
    local chosen = {}
    local named_wait = o.standing and call('ZRANGE', o.selectors, '[=', '(>', 'BYLEX', 'LIMIT', 0, 1)[1]
    local function may_have(name)
      if not suits(o, e.names, name) or not properties_of(o, name) then return false end
      for _, wish in ipairs(earlier) do
        if suits(o, wish, name) then return false end
      end
      -- Who waits for this very one since before.
      local other = named_wait and head(o, '=' .. name)
      return not other or other.ticket >= o.standing
    end
    if kind == '=' then
      for name in string.gmatch(wanted, '[^,]+') do
        if not is_free(o, name) or not may_have(name) then return nil end
        chosen[#chosen + 1] = name
      end
    elseif kind == '?' or #earlier > 0 or named_wait then
      -- A call looks at so many free resources, and the next one goes on; what was just freed is looked at in any case.
      local total, seen, taken = call('ZCARD', o.free), 0, {}
      local asks = not o.standing or o.asks
      local most, cursor = asks and SCANNED or SEEN_AGAIN, asks and 'scanned' or 'seen_again'
      local many = total > most
      local start = many and tonumber(call('HGET', o.obj, cursor) or 0) % total or 0
      o.scans = asks and most or o.scans or FOR_WAITERS
      local function consider(name)
        if #chosen < e.permits and not taken[name] and may_have(name) then
          chosen[#chosen + 1] = name
          taken[name] = true
        end
      end
      if not asks then
        if not o.newest then
          o.newest, o.taken = call('ZRANGE', o.free, 0, NEWEST - 1, 'REV'), {}
          if #o.newest > 0 then read_entries(o, o.newest) end
        end
        for _, name in ipairs(o.newest) do
          if not o.taken[name] then consider(name) end
        end
        o.scans = o.scans - #o.newest * (1 + #earlier / 8)
        -- All there are.
        if total <= #o.newest then seen = total end
      end
      while #chosen < e.permits and seen < total and o.scans > 0 do
        local at = (start + seen) % total
        local last = math.min(at + 99, total - 1, at + total - seen - 1)
        local names = call('ZRANGE', o.free, at, last, unpack(o.order == 'MostRecentlyUsed' and { 'REV' } or {}))
        read_entries(o, names)
        for _, name in ipairs(names) do consider(name) end
        seen = seen + #names
        o.scans = o.scans - #names * (1 + #earlier / 8)
      end
      if many and #chosen < e.permits then
        call('HSET', o.obj, cursor, (start + seen) % total)
        if asks then o.parts = math.ceil(total / math.max(1, seen)) end
      end
      if o.prefix and #chosen < e.permits then
        -- The same of those that were never handed out: many of them may be marked, or waited for by name.
        local left, looked = o.count - o.fresh, 0
        local at = math.max(o.fresh, tonumber(call('HGET', o.obj, 'scanned_fresh') or 0))
        while #chosen < e.permits and looked < left and (o.scans > 0 or looked < e.permits) do
          if at >= o.count then at = o.fresh end
          local name = o.prefix .. int(at)
          if is_free(o, name) and may_have(name) then chosen[#chosen + 1] = name end
          at, looked = at + 1, looked + 1
          o.scans = o.scans - 5
        end
        call('HSET', o.obj, 'scanned_fresh', int(at))
        if asks and #chosen < e.permits then
          o.parts = math.max(o.parts or 0, math.ceil(left / math.max(1, looked)))
        end
      end
      if #chosen < e.permits then return nil end
    else
      if e.permits > call('ZCARD', o.free) + fresh_left(o) then return nil end
      if kind == '~' and in_service(o, wanted) and is_free(o, wanted) and properties_of(o, wanted) then
        claim(o, wanted)
        chosen[1] = wanted
      end
      local unreadable = {}
      while #chosen < e.permits do
        local name = take(o)
        if not name then break end
        local into = properties_of(o, name) and chosen or unreadable
        into[#into + 1] = name
      end
      -- They stay where they are looked at last.
      for _, name in ipairs(unreadable) do
        call('ZADD', o.free, o.order == 'MostRecentlyUsed' and 0 or now_us, name)
      end
      if #chosen == e.permits then return chosen end
      give_back(o, table.concat(chosen, ','))
      return nil
    end
    for _, name in ipairs(chosen) do claim(o, name) end
    return chosen
  end

  -- The names that holders have. Those of a lease that cannot be read are among what is not free.
  local function held_names(o)
    local held, whole = {}, true
    for _, token in ipairs(call('ZRANGE', o.holders, 0, -1)) do
      local e = find(o, token)
      whole = whole and e
      for name in string.gmatch(e and e.names or '', '[^,]+') do held[name] = true end
    end
    local function unless_free(name)
      if not call('ZSCORE', o.free, name) then held[name] = true end
    end
    if not whole then
      for _, name in ipairs(call('HKEYS', o.resources)) do unless_free(name) end
      for index = 0, (o.prefix and o.fresh or 0) - 1 do unless_free(o.prefix .. int(index)) end
    end
    return held
  end

  -- Frees what is in service and held by nobody.
  local function find_unheld(o)
    local held = held_names(o)
    local function free(name)
      if not held[name] then call('ZADD', o.free, 'NX', now_us, name) end
    end
    if o.prefix then
      for index = 0, o.fresh - 1 do free(o.prefix .. int(index)) end
      mark_held(o, held)
    else
      for _, name in ipairs(call('HKEYS', o.resources)) do
        if in_service(o, name) then free(name) end
      end
    end
  end

  -- While a smaller count is being applied, what stands in `free` may be out of service.
  local function unused(o)
    local free = call('ZCARD', o.free) + fresh_left(o)
    return lowering(o) and math.min(free, math.max(0, o.count - o.held)) or free
  end

  made = { number_of = number_of, lower = lower, lowering = lowering, mark_held = mark_held, entry_of = entry_of, properties_of = properties_of, find_unheld = find_unheld, give_back = give_back, in_service = in_service, claim = claim, choose = choose,
    held_names = held_names, unused = unused, line_of = line_of, place_in = place_in, head = head, heads = heads,
    line_up = line_up }
  return made
end

-- Whether a request can be granted now. A pool's resources are taken in finding out.
local function fits(o, e, earlier)
  if not o.pool then return e.permits <= o.limit - o.held end
  local chosen = pool().choose(o, e, earlier)
  if not chosen then return false end
  e.names = table.concat(chosen, ',')
  for _, name in ipairs(o.newest and chosen or {}) do o.taken[name] = true end
  return true
end

-- The error that a request gets which can never be granted as the object is now; a request that waits already gets the
-- same. A limit of 0 is no reason: who asks waits until there is something again. Data of another life of the server may be
-- old: by such a limit nothing is refused.
local function refusal(o, permits, names)
  if o.draining then return 'NOTDECLARED ' .. object_of(o) end
  if o.declared and o.run ~= o.here then return nil end
  if permits > o.limit and o.limit > 0 then return 'TOOLARGE ' .. int(o.limit) end
  if o.prefix and string.sub(names, 1, 1) == '?' then return 'NOPROPERTIES ' .. object_of(o) end
  local unreadable
  if o.pool and string.sub(names, 1, 1) == '=' then
    for name in string.gmatch(string.sub(names, 2), '[^,]+') do
      if not pool().properties_of(o, name) then
        unreadable = unreadable or name
      elseif not pool().in_service(o, name) then
        return 'NORESOURCE ' .. name
      end
    end
  elseif o.unreadable and permits > o.limit - o.unreadable.count then
    unreadable = o.unreadable.first
  end
  if unreadable then return 'DAMAGED ' .. o.resources .. ' has properties of ' .. unreadable .. ' that cannot be read' end
end

local function available(o) return o.pool and pool().unused(o) or o.limit - o.held end

---- leases

-- What a grant's reply and its push say. Never unpacked: Lua's stack has no room for the resources of a large lease.
local function describe(o, fence, ends, e, token)
  local out = { 'granted', fence, now, ends, e.lease, e.since, o.declared and 1 or 0, e.permits }
  if token then table.insert(out, 2, token) end
  if o.pool then
    for name in string.gmatch(e.names, '[^,]+') do
      out[#out + 1] = name
      -- A push is lines; between the signs of JSON a line's end is a space like any other.
      out[#out + 1] = (string.gsub(string.sub(pool().entry_of(o, name), 2), '[\r\n]', ' '))
    end
  end
  return out
end

-- Returns the reply of whoever asked, or tells the waiter.
local function grant(o, token, e, ends, waited)
  e.since = now
  -- Declared objects count on from the floor that the controller keeps in etcd; the others have only the clock.
  o.last = o.declared and o.last + 1 or math.max(o.last + 1, now_us)
  budget = budget - 2 - (o.pool and e.permits / 8 or 0)
  o.held = o.held + e.permits
  o.changed = true
  if e.max_hold > 0 then ends = math.min(ends, now + e.max_hold) end
  store(o, token, e)
  call('ZADD', o.holders, int(o.last), token)
  call('ZADD', o.expiry, int(ends), token)
  if not waited then return describe(o, o.last, ends, e) end
  tell(e.channel, describe(o, o.last, ends, e, token))
end

-- Puts a token at the end of the queue, behind its equals in priority. A step of priority is worth 2^42 tickets, which
-- a thousand requests a second use up in 139 years.
local function enqueue(o, token, e, priority)
  o.ticket = o.ticket + 1
  o.changed = true
  store(o, token, e)
  local ticket = o.ticket - priority * 4398046511104
  call('ZADD', o.queue, int(ticket), token)
  if o.pool then call('ZADD', o.selectors, 0, pool().place_in(pool().line_of(e.names), ticket, token)) end
end

-- How long a place is kept for its client without a word from it.
local function keep(o, token, e) call('ZADD', o.expiry, int(now + e.place), token) end

-- The member of waits that stands for a token whose names say that it waits for a condition.
local function wait_of(token, names)
  local condition, ticket = string.match(names, '^(@[^#]*)#(%d+)#?%-?%d*$')
  return condition and condition .. ' ' .. ticket .. ' ' .. token
end

-- With which priority a place that waits for a condition enters the lock's queue: it stands behind the ticket in its names.
local function priority_of(names) return tonumber(string.match(names, '#%d+#(-?%d+)$') or 0) end

-- Moves the one who has waited longest for a condition into the lock's queue: when it is granted, it wakes up. The end of
-- its place stays as it was, for its client has said nothing: dead ones do not gain a new life by being notified.
local function notify(o, condition)
  while true do
    local member = call('ZRANGE', o.waits, '[' .. condition .. ' ', '(' .. condition .. '!', 'BYLEX', 'LIMIT', 0, 1)[1]
    if not member then return false end
    call('ZREM', o.waits, member)
    local token = string.match(member, '%S+$')
    local e = find(o, token)
    if e then
      local priority = priority_of(e.names)
      e.names = condition
      enqueue(o, token, e, priority)
      return true
    end
    call('ZREM', o.expiry, token)
    call('HDEL', o.obj, 't:' .. token)
  end
end

-- Counts anew what is held, by those who can still be seen to hold: after some of it has gone without being told of. What
-- of a pool's resources nobody holds any more is free. O(n) in the leases, and the resources of a pool.
local function recount(o)
  local held = 0
  for _, token in ipairs(call('ZRANGE', o.holders, 0, -1)) do
    local e = find(o, token)
    -- What another lease has that cannot be read is not known before that has ended, too: until then nothing is freed.
    if not e then return end
    held = held + e.permits
  end
  o.held = held
  if o.pool then pool().find_unheld(o) end
end

-- Ends a lease or a place in the queue. `how` is a word of the protocol: none where its owner ends it, "dropped" where its
-- client does because nobody takes it up, and otherwise what its client is told: "expired", "withdrawn", "superseded",
-- "reclaimed", "taken", "refused". `why` is the text of whoever ends it, which is only passed on; of what is refused, the
-- error that a new request would get.
local function finish(o, token, how, why)
  local e = find(o, token)
  budget = budget - 1
  o.values[token] = nil
  call('HDEL', o.obj, 't:' .. token)
  call('ZREM', o.expiry, token)
  local fence = e and how == 'expired' and e.grace > 0 and call('ZSCORE', o.holders, token)
  local was_held = call('ZREM', o.holders, token) == 1
  if not e then
    -- Of what cannot be read, all that is left of it goes, too (but for its wait, which a notification finds); and what it
    -- held has to be found by what the others hold.
    local waited = call('ZREM', o.queue, token) > 0
    if was_held then
      o.changed = true
      recount(o)
    end
    return was_held and 'released' or waited and 'left' or nil
  end
  o.changed = true
  -- In data that may be old, a lease that has run out may have been renewed since: its holder comes back, or knows its end.
  local renewed = was_held and how == 'expired' and recovering(o)
  if how and how ~= 'dropped' and not renewed and e.channel ~= '-' then
    tell(e.channel, { was_held and 'lost' or 'gone', token, how, why or '' })
  end
  if was_held then
    if fence then
      -- What cannot check a fencing token is kept from the next holder for a while: under a name that nobody can renew.
      local ends, ghost = now + e.grace, 'grace-' .. token
      e.grace, e.channel = 0, '-'
      store(o, ghost, e)
      call('ZADD', o.holders, fence, ghost)
      call('ZADD', o.expiry, ends, ghost)
      return 'released'
    end
    o.held = o.held - e.permits
    if o.pool then
      budget = budget - math.floor(e.permits / 8)
      pool().give_back(o, e.names)
    end
  end
  local ticket = o.pool and not was_held and call('ZSCORE', o.queue, token)
  if ticket then call('ZREM', o.selectors, pool().place_in(pool().line_of(e.names), ticket, token)) end
  local queued = not was_held and call('ZREM', o.queue, token) == 1
  local wait = o.waits and not was_held and wait_of(token, e.names)
  local waited = wait and call('ZREM', o.waits, wait) == 1
  if not (was_held or queued or waited) then
    -- Its place is gone with all others of its key, by an eviction.
    recount(o)
  end
  if o.waits and string.sub(e.names, 1, 1) == '@' then
    -- A notification that reached nobody goes to the next: its waiter left, or died or was dropped before it had taken up
    -- its lease.
    local unheard = not waited and (not was_held or how)
    if unheard then
      -- A wait that cannot be read must not leave the counters behind as they were.
      local done, problem = pcall(notify, o, string.match(e.names, '^@[^#]*'))
      if not done then
        save(o)
        error(problem)
      end
    end
  end
  return was_held and 'released' or 'left'
end

-- Grants to the head of the queue while there is room for it. Nobody overtakes: a large request at the head waits for
-- its room, and the small ones wait behind it. Only who waits for certain resources of a pool lets others pass, to those
-- that would not do for it. A granted lease runs only as long as the place in the queue would have, until its client has
-- renewed it: that is why any number of dead waiters costs one place lease in total.
-- What can never be served any more is sent away. `asking` is the token whose own script this is: it gets its lease in the
-- reply, and in full.
local function advance(o, asking)
  if o.draining or recovering(o) then return nil end
  local earlier, reply, heads = {}, nil, nil
  if o.pool then
    local waiting = call('ZCARD', o.queue)
    if waiting == 0 then return nil end
    pool().line_up(o, waiting)
    heads = pool().heads(o, asking)
  end
  while budget > 0 and (o.pool or o.held < o.limit or o.shrunk) do
    local first = heads and table.remove(heads, 1)
    local token
    if heads then token = first and first.token else token = call('ZRANGE', o.queue, 0, 0)[1] end
    if not token then break end
    local e = find(o, token)
    o.standing, o.asks = first and first.ticket, token == asking
    local names, served = e and e.names, true
    if not e then
      if first then call('ZREM', o.selectors, pool().place_in(first.line, first.ticket, token)) end
      finish(o, token)
    elseif fits(o, e, earlier) then
      call('ZREM', o.queue, token)
      if first then call('ZREM', o.selectors, pool().place_in(first.line, first.ticket, token)) end
      if token == asking then
        reply = grant(o, token, e, lease_end(e))
      else
        local ends = math.min(now + e.lease, tonumber(call('ZSCORE', o.expiry, token)) or now + e.place)
        grant(o, token, e, ends, true)
      end
    else
      local refused = refusal(o, e.permits, e.names)
      served = refused ~= nil
      if refused then
        finish(o, token, 'refused', refused)
      elseif first and first.line ~= '-' then
        earlier[#earlier + 1] = names
      else
        break
      end
    end
    -- Who comes next in its line stands where its ticket says.
    local following = served and first and pool().head(o, first.line)
    if following then
      local at = 1
      while heads[at] and heads[at].ticket < following.ticket do at = at + 1 end
      table.insert(heads, at, following)
    end
  end
  o.standing = nil
  o.more = o.pool and pool().lowering(o) or
    (budget <= 0 or (o.unseen or 0) > 0) and available(o) > 0 and call('ZCARD', o.queue) > 0
  return reply
end

-- What every script does first: end what has run out, then grant what is free. After that none of the tokens that the
-- call is about has run out, also where others have that are not ended yet.
local function settle(o)
  if not o.exists then return end
  local most = math.max(0, math.floor(budget))
  local due = call('ZRANGE', o.expiry, '-inf', int(now), 'BYSCORE', 'LIMIT', 0, most + 1)
  local ended = 0
  while ended < #due and ended < most and budget > 0 do
    ended = ended + 1
    finish(o, due[ended], 'expired')
  end
  o.overdue = ended < #due
  if o.overdue then
    for _, token in ipairs(o.tokens) do
      local ends = tonumber(call('ZSCORE', o.expiry, token))
      if ends and ends <= now then finish(o, token, 'expired') end
    end
  end
  if o.prefix and o.fresh > o.count then pool().lower(o) end
  advance(o)
end

-- A server clock that was set back would keep the lease of a dead holder, and everybody behind it, until the clock has
-- caught up. But nothing may last longer from now than the longest span that the object has known: what does is cut to
-- it, which is never less than its holder counts on. Asked for only where somebody is kept waiting.
local function unwind(o)
  local latest = call('ZRANGE', o.expiry, -1, -1, 'WITHSCORES')[2]
  local bound = now + o.ttl + 1000
  if latest and tonumber(latest) > bound then
    local late = call('ZRANGE', o.expiry, -100, -1, 'WITHSCORES')
    for i = 1, #late, 2 do
      if tonumber(late[i + 1]) > bound then call('ZADD', o.expiry, now + o.ttl, late[i]) end
    end
    o.more = o.more or #late == 200 and tonumber(late[2]) > bound
  end
  if o.recover > bound then
    o.recover = now + o.ttl
    call('HSET', o.obj, 'recover', int(o.recover))
  end
end

-- Milliseconds until the next thing that may change who holds: an expiry, or the end of a recovery. 0: at once, for some of
-- that is left to be done.
local function wake(o)
  unwind(o)
  local next_at = tonumber(call('ZRANGE', o.expiry, 0, 0, 'WITHSCORES')[2] or 0)
  if o.recover > now and (next_at == 0 or o.recover < next_at) then next_at = o.recover end
  return o.more and 0 or math.max(0, next_at - now)
end

-- At which of those who wait a token stands, and how long its place runs if that is in the queue: who waits for a condition
-- stands behind all who wait for the lock.
local function position(o, token, e)
  local rank = call('ZRANK', o.queue, token)
  if rank then return rank + 1, e.place end
  local wait = o.waits and wait_of(token, e.names)
  return call('ZCARD', o.queue) + (wait and call('ZRANK', o.waits, wait) or 0) + 2, nil
end

-- When a place should come back. One call does the work for all, so that the head comes when there is something to do.
-- Another one comes when all before it have run out, for then it is the head; and otherwise a little later than those
-- before it: were all to come at once, an expiry would wake a herd. All renew their places anyway, which bounds how long
-- those before it can keep it.
local SPACING, FAR = 5, 128
local function wake_at(o, soonest, at, place)
  local spaced = soonest + (at - 1) * SPACING
  if at == 1 or at > FAR or not place then return int(spaced) end
  -- Nearest first: one that lives has its end far away.
  local head_at, bound = soonest, math.min(spaced, place / 3)
  for rank = at - 2, 0, -1 do
    local before = call('ZRANGE', o.queue, rank, rank)[1]
    head_at = math.max(head_at, tonumber(before and call('ZSCORE', o.expiry, before) or 0) - now)
    if head_at >= bound then return int(spaced) end
  end
  return int(head_at)
end

local function nobody_waits(o) return call('EXISTS', o.queue, o.waits or o.queue) == 0 end

local function drop(o) call('UNLINK', unpack(KEYS, o.at + 1, o.at + o.width)) end

-- Tells the first of those who wait, and whose client seems to be alive, to come again for what this call has left to be
-- done. The caller's own learn it from the reply.
local function call_again(o)
  local first = call('ZRANGE', o.queue, 0, FAR - 1)
  local tries = 3
  for _, token in ipairs(first) do
    if tonumber(call('ZSCORE', o.expiry, token) or 0) > now then
      for _, own_token in ipairs(o.tokens) do
        if token == own_token then return end
      end
      local e = find(o, token)
      if e and tell(e.channel, { 'again', token }) > 0 then return end
      tries = tries - 1
      if tries == 0 then return end
    end
  end
end

-- What every script does last: writes the counters back, drops or times a first-user object, tells the controller.
-- True when that has ended the object.
local function close(o)
  if not o.exists then return true end
  local lasting = (o.declared or o.kept) and not o.draining
  if o.changed and not lasting and o.held == 0 and nobody_waits(o) then
    drop(o)
    if o.draining then
      -- So that nobody takes the end for a loss of data.
      call('HSET', o.obj, 'drained', 1)
      call('PEXPIREAT', o.obj, int(now + 86400000))
      tell(o.events, { 'changed', object_of(o) })
    end
    return true
  end
  if o.changed == true then save(o) end
  if o.more or o.overdue then call_again(o) end
  if o.retained then
    for i = o.at + 1, o.at + o.width do call('PEXPIREAT', KEYS[i], int(o.retained)) end
  elseif not (o.declared or o.kept) then
    -- Leases end by themselves; the keys of an object that nobody touches again must, too.
    -- They still outlive all that is in them where nothing was added and more than the longest span is left.
    if o.changed or call('PTTL', o.obj) <= o.ttl then
      local ttl = int(o.ttl * 2 + 1000)
      call('PEXPIRE', o.obj, ttl)
      call('PEXPIRE', o.holders, ttl)
      call('PEXPIRE', o.expiry, ttl)
      if o.ticket > 0 then
        call('PEXPIRE', o.queue, ttl)
        if o.waits then call('PEXPIRE', o.waits, ttl) end
      end
    end
  end
  -- A declared object that has come to another server of a cluster, alive, waits for the controller to declare it there.
  if o.watched and (o.changed or o.declared and o.run ~= o.here) then
    call('HDEL', o.obj, 'watched')
    tell(o.events, { 'changed', object_of(o) })
  end
end

-- Somebody asks for a declared object that is not there: the controller may have to declare it (again).
local function missing(o) tell(o.events, { 'missing', object_of(o) }) end

-- A client says the newest fencing token that it has seen of a declared object. Data that has not granted it is older, also
-- where the server process is the one that the object was declared under: it may have been cut off while another one was the
-- master (a failback). So the object recovers, for everybody, until the controller has declared it again.
local function outdated(o, seen)
  if not o.declared or o.last >= seen then return end
  o.run, o.last, o.changed = false, seen, true
  call('HDEL', o.obj, 'run')
  missing(o)
end
