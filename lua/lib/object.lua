-- Object: reads and writes the counters of an object, and publishes messages.
--
-- An object lies in four keys (a lock in five, a pool in seven), all with one hash tag {namespace/kind/name}. A script is given
-- the first one, and the others have the same name but for their ends:
--   obj        hash: the object's fields, and one field t:<token> for each lease and each waiter; or a lease alone, see
--              `unfold`
--   holders    sorted set: token -> fencing token         (oldest lease first)
--   queue      sorted set: token -> ticket                (head first)
--   expiry     sorted set: token -> milliseconds of the server's clock, for leases and queue entries
--   waits      sorted set: "@condition ticket token" -> 0, of those who wait for a condition of the lock, so that the
--              first one of each condition is found by its name   (locks)
--   resources  hash: resource -> "1" in service or "0" disabled, then its properties; "x": a generated one from `fresh`
--              on that is held   (pools)
--   free       sorted set: resource -> the time of its release, in microseconds         (pools)
--   selectors  sorted set: "line ticket token" -> 0, the queue entries by their selectors, so that the first one
--              of each line is found by its name: "=" and one resource, ">" and several, "?" and properties, "-" for any
--              (pools)
--
-- Fields of obj:
--   state      "version limit held last ticket ttl next marks lease max_hold recover run", with spaces in between: one text, because a
--              script pays for each field that it reads or writes
--              version   the protocol that the object was written in
--              limit     permits, or resources in service
--              held      permits that are held
--              last      newest fencing token
--              ticket    of the newest queue entry
--              ttl       the longest lease, queue entry or grace so far: the keys of first-user objects outlive the last touch by
--                        twice that
--              next      no lease or queue entry ends before, in milliseconds of the server's clock
--              marks     letters, or "-": d declared, k kept (a pool that programs keep), w watched (the controller gets a message
--                        at the next change), x draining (being withdrawn), t retained (withdrawn, but there until then)
--              lease, max_hold  of the declaration, in milliseconds
--              recover   nothing new is granted before
--              run       the server's run id when it was declared, or "-"
--   protocol   the version once more, for clients of protocol 1, which look for it there
--   declared (digest of the declaration), retained (until when), drained (the object does not exist any more, because it was
--   withdrawn), beside (first users have leases from between a loss and the declaration);
--   pools: order, and if generated: prefix, count, fresh (the lowest index never handed out; above count while a smaller
--   count is being applied), beyond (how many of those in `resources` are not below count).
--
-- A value t:<token> reads "permits lease ttl max_hold grace since channel names holder": milliseconds; ttl
-- is the life of a queue entry. Names of a lease
-- are a pool's resources, joined by commas. The names of a queue entry of a pool are its selector: "=" and
-- the resources, "?" and properties as in a URL's query, "~" and the preferred resource, or "-" for any. Names in a
-- lock are "@" and the condition that it was notified of, "@condition#ticket" while it waits for that
-- (and "#priority", which it gets in the queue, unless that is 0), or "-". The holder is
-- JSON that the scripts never read.

---- include lib/call.lua
---- include lib/kinds.lua

-- Returns a number of a call. A larger one than any object needs, 317 years in milliseconds, is cut: the counters of an object have 16
-- digits at most, and no sum of a time and this number has more.
local function amount(text) return math.min(tonumber(text), 9999999999999) end

-- Most leases of first-user objects are given back before another client asks. Until then such a lease lies in obj alone, as
-- a string: "v2 token", the seconds and microseconds of its grant, and the request of acquire. The time of its grant in
-- microseconds is its fencing token. The key ends with the lease, so that a renewal has only that to write, and there is nothing
-- left to be ended. All but the fast lanes unfold it first.
-- MGET reads it, because it returns nil for a hash, where GET fails.
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
    -- Of protocol 1, and of before there were versions.
    ends, fence, token, permits, lease, limit, ttl, channel, holder =
      string.match(rest or alone, '^(%d+) (%d+) (%S+) (%d+) (%d+) 0 (%d+) (%d+) (%S+) (.*)$')
    if not ends then damaged(obj, 'holds a string that is no lease') end
  end
  -- Its fencing token is the time of its grant, which renewals leave as it is.
  local value =
    format('%d %d %d 0 0 %d %s - %s', permits, lease, math.min(ttl, lease), math.floor(fence / 1000), channel, holder)
  ends = int(ends)
  call('UNLINK', obj)
  local state = format('%d %d %d %d 0 %s %s - 0 0 0 -', PROTOCOL, amount(limit), permits, fence, lease, ends)
  call('HSET', obj, 'state', state, 'protocol', PROTOCOL, 't:' .. token, value)
  call('ZADD', stem .. 'holders', int(fence), token)
  call('ZADD', stem .. 'expiry', ends, token)
end

-- Returns a number of an object. A missing one is `default`; without a default it must be there.
local function counter(obj, field, text, default)
  if not text and default then return default end
  if not text or #text > 16 or not string.match(text, '^%d+$') then
    damaged(obj, 'has ' .. (text and 'no number' or 'nothing') .. ' in its field ' .. field)
  end
  return tonumber(text)
end

-- An end that never comes.
local NEVER = 9000000000000000

-- Writes `state`, and other fields along with it.
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

-- Reads what `state` has, into the object.
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

-- Reads an object of before there was `state`: each part of it lay in a field of its own, and waiters for a condition stood in
-- `waits` by their tokens, with their tickets, before there were versions. Writes it in the form of today.
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

-- Reads an object, and the values of the tokens, in one command; what only declared objects and pools that programs keep
-- have, in a second one.
-- `alone` is the lease that lies in obj alone, or false; nil where the caller has not looked.
local function open(obj, tokens, alone)
  local stem, kind = string.match(obj, '^(.*{[^/]*/(%l+)/[^}]*}:)obj$')
  if not PARTS[kind] then error({ err = 'ERR ' .. tostring(obj) .. ' is not the key of an object' }) end
  -- A long list is left to be found one by one: Lua's stack bounds what a command can be given at once.
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
      -- Without it, the pool was declared before it was kept, and the next declaration marks anew what is held.
      object.unmarked, object.beyond = not got[7], counter(obj, 'beyond', got[7], 0)
    end
  end
  return object
end

-- Sets when a lease or a queue entry ends.
local function set_end(object, token, ends)
  call('ZADD', object.expiry, int(ends), token)
  if ends < object.next then
    object.next, object.unsaved = ends, true
  end
end

-- Returns the keys of an object.
local function keys_of(object)
  local keys = { object.obj }
  for i, part in ipairs(PARTS[object.kind]) do
    keys[i + 1] = object.stem .. part
  end
  return keys
end

-- Publishes a message, and returns the number of its receivers. It begins with the run id of the server: the servers of a cluster
-- pass messages on, and a client takes only those of the server that it is connected to.
-- A refused message (the user has no right to the channel) is lost, as any push may be: an error here would leave half of
-- the script's effects. `command` is SPUBLISH for a sharded channel.
local function publish(command, channel, lines)
  for i, line in ipairs(lines) do
    lines[i] = type(line) == 'number' and int(line) or line
  end
  local heard = redis.pcall(command, channel, here .. '\n' .. table.concat(lines, '\n'))
  return type(heard) == 'number' and heard or 0
end

-- Publishes a message to the client of an entry, on its channel in the namespace of the object. Clients of protocol 1 gave the
-- full name of their channel, which has no namespace; no other name is published to, because it may be of another namespace.
-- In a cluster the name of a client has a slash, and its channel is sharded: the client is subscribed to it in the slot of the
-- object.
local function push(object, entry, lines)
  local old = string.match(object.obj, '^[^{]*') .. 'client:'
  if string.sub(entry.channel, 1, #old) == old then return publish('PUBLISH', entry.channel, lines) end
  local command = string.find(entry.channel, '/', 1, true) and 'SPUBLISH' or 'PUBLISH'
  return publish(command, string.match(object.obj, '^[^/]*/') .. 'client/' .. entry.channel .. '}', lines)
end

local function object_name(object) return string.match(object.obj, '{(.*)}') end

-- Publishes an event of the object to the controller. In a cluster a call has all keys of its objects, behind the first ones, and
-- the controller is subscribed to a sharded channel of each object.
local function announce(object, event)
  if string.sub(KEYS[#KEYS], -4) ~= ':obj' then
    return publish('SPUBLISH', object.stem .. 'events', { event, object_name(object) })
  end
  publish('PUBLISH', string.match(object.obj, '^[^/]*/') .. 'events}', { event, object_name(object) })
end
