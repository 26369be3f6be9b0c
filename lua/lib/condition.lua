-- Condition: the entries that wait for a condition of a lock, and how they come into its queue.

---- include lib/queue.lua

-- Returns the member of `waits` for a token whose names state that it waits for a condition.
local function wait_of(token, names)
  local condition, ticket = string.match(names, '^(@[^#]*)#(%d+)#?%-?%d*$')
  return condition and condition .. ' ' .. ticket .. ' ' .. token
end

-- Returns the priority with which a waiter for a condition enters the queue of the lock: the number after the ticket
-- in its names.
local function priority_of(names) return tonumber(string.match(names, '#%d+#(-?%d+)$') or 0) end

-- Moves the longest waiter for a condition into the queue of the lock. When it is granted the lock, its wait ends.
-- Its entry keeps its end, because its client has not called: a dead waiter gains no time by a notification.
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
