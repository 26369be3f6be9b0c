#!lua flags=allow-oom
-- observe: returns the state of an object, its holders and its waiters.
-- KEYS  obj
-- ARGV  version and run id, how many holders and how many waiters to list, watch (1: publish a message on the
--       controller's channel at the next change); and, if not from the first ones, behind how many of each; and if a
--       declaration may follow: 1, floor (the floor of fencing tokens that is kept outside: data in which no token has got
--       so far is not current)
-- Reply nil when there is no such object, else
--       now digest current limit held free waiting last recover draining wake
--       holders: { token fence expires value }..., oldest lease first
--       waiters: { token value }..., head of the queue first
--       longest
--       current: 1 when it was declared in the present life of the server process that answers, else 0
--       longest: milliseconds; no lease, queue entry or grace of it has run for longer
--       If a declaration may follow, all this as the last value of: now in microseconds, the run id, drained (1: there is no
--       such object because it was withdrawn, and its last lease has ended)
-- If more leases have expired than one call ends, the rest counts as held, and wake is 1: observe again.
-- O(log n + what is listed).
---- include lib/settle.lua
---- include lib/waiting.lua
---- include lib/close.lua
local object = open(KEYS[1])
if ARGV[5] == '1' then outdated(object, tonumber(ARGV[6])) end
settle(object)
local function answer(found)
  if ARGV[5] ~= '1' then return found end
  return { int(now_us), here, not found and call('HEXISTS', object.obj, 'drained') or 0, found }
end
local soonest = object.exists and wake(object)
if close(object) then return answer(false) end
if ARGV[3] == '1' and object.declared and not object.watched then
  object.watched = true
  save(object)
end

local first = tonumber(ARGV[4] or 0)
local last = first + tonumber(ARGV[2]) - 1
local holders, waiters = {}, {}
if last >= first then
  local held = call('ZRANGE', object.holders, first, last, 'WITHSCORES')
  for i = 1, #held, 2 do
    local value, expires = call('HGET', object.obj, 't:' .. held[i]), call('ZSCORE', object.expiry, held[i])
    if value and expires then holders[#holders + 1] = { held[i], int(tonumber(held[i + 1])), expires, value } end
  end
  for _, token in ipairs(call('ZRANGE', object.queue, first, last)) do
    local value = call('HGET', object.obj, 't:' .. token)
    if value then waiters[#waiters + 1] = { token, value } end
  end
end
local current = object.declared and object.run == here
if object.overdue or object.more then soonest = 1 end
return answer({
  int(now),
  object.declared or '',
  current and 1 or 0,
  int(object.limit),
  int(object.held),
  int(math.max(0, available(object))),
  call('ZCARD', object.queue),
  int(object.last),
  int(object.recover),
  object.draining and 1 or 0,
  int(soonest),
  holders,
  waiters,
  int(object.ttl),
})
