-- Entry: the value that is stored for a token, which is a lease or a queue entry.

---- include lib/object.lua

-- Returns the fields of a value, or nil if it is not one of Tenure.
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

-- Returns the newest fencing token of a declared object, and 0 of another. A client that has seen it makes no object of
-- that name as a first user, because a declared object that is gone will recover.
local function newest_of(object) return object.declared and object.last or 0 end

-- Returns the entry of a token, or nil if part of it is missing (an eviction) or cannot be read (it was overwritten).
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

-- Returns the end of a lease that is renewed now. It never lies beyond the longest hold, counted from the grant.
local function lease_end(entry)
  local ends = now + entry.lease
  if entry.max_hold > 0 then ends = math.min(ends, entry.since + entry.max_hold) end
  return ends
end
