-- Condition: the entries that wait for a condition of a lock, and how they come into its queue.

---- include lib/queue.lua

-- The member of waits that stands for a token whose names say that it waits for a condition.
local function wait_of(token, names)
  local condition, ticket = string.match(names, '^(@[^#]*)#(%d+)#?%-?%d*$')
  return condition and condition .. ' ' .. ticket .. ' ' .. token
end

-- With which priority a place that waits for a condition enters the lock's queue: it stands behind the ticket in its names.
local function priority_of(names) return tonumber(string.match(names, '#%d+#(-?%d+)$') or 0) end

-- Moves the one who has waited longest for a condition into the lock's queue: when it is granted, it wakes up. The end of
-- its place stays as it was, for its client has said nothing: dead ones do not gain a new life by being notified.
local function notify(object, condition)
  while true do
    local member = call('ZRANGE', object.waits, '[' .. condition .. ' ', '(' .. condition .. '!', 'BYLEX', 'LIMIT', 0, 1)[1]
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
