-- Entry: the value that is stored for a token, which is a lease or a queue entry.

---- include lib/object.lua

-- Nothing where the value is not one of Tenure's.
local function parse_entry(value)
  local permits, lease, place, max_hold, grace, since, channel, names, holder =
    string.match(value, '^(%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%S+) (%S+) (.*)$')
  if not permits then return nil end
  return { permits = tonumber(permits), lease = tonumber(lease), place = tonumber(place), max_hold = tonumber(max_hold),
    grace = tonumber(grace), since = tonumber(since), channel = channel, names = names, holder = holder }
end

-- What stands under a token. Nothing where part of the object is gone or cannot be read: by an eviction, or by somebody's
-- hand.
local function value_of(object, token) return object.values[token] or call('HGET', object.obj, 't:' .. token) end
local function find_entry(object, token)
  local value = value_of(object, token)
  return value and parse_entry(value)
end

local function store(object, token, entry)
  local value = format('%d %d %d %d %d %d %s %s %s', entry.permits, entry.lease, entry.place, entry.max_hold, entry.grace, entry.since, entry.channel,
    entry.names, entry.holder)
  object.values[token] = value
  object.ttl = math.max(object.ttl, entry.lease, entry.place, entry.grace)
  save(object, 't:' .. token, value)
end

-- A lease never reaches past the longest hold, counted from when it was granted.
local function lease_end(entry)
  local ends = now + entry.lease
  if entry.max_hold > 0 then ends = math.min(ends, entry.since + entry.max_hold) end
  return ends
end
