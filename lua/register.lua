-- register: reads, writes or deletes one value, if a condition holds.
-- KEYS  value
-- ARGV  version and run id, token, memory ms, action (get, set, delete), condition (always, missing, gt, lt, ge,
--       le, eq, ne), or missing (1: the condition also holds where nothing is stored), argument, new value, expiry (keep,
--       never, or milliseconds from now)
-- Reply applied
--       kept [stored, ms to live (-1: for ever)]   the condition does not hold, there is nothing to delete, or get
-- `value` is a string: "int 5", "float 0.5" ("inf", "-inf"), "text hello". A condition compares the argument with
-- the stored value. Numbers compare exactly, whole and floating ones too; texts are equal or not, and neither is greater.
-- `done` is a sorted set: token -> the time of its write. A repeated token gets "applied" again and changes nothing,
-- for as long as its memory lasts; a call that changed nothing is not remembered, and a repeat compares again.
-- O(log n) in the writes remembered.
---- include lib/call.lua
local value, done, token = KEYS[1], string.sub(KEYS[1], 1, -6) .. 'done', ARGV[2]
local action, condition, or_missing, argument = ARGV[4], ARGV[5], ARGV[6] == '1', ARGV[7]

local function read(text)
  local kind, rest = string.match(text, '^(%a+) (.*)$')
  local number
  if rest == 'inf' then
    number = math.huge
  elseif rest == '-inf' then
    number = -math.huge
  else
    number = tonumber(rest)
  end
  return { kind = kind, rest = rest, number = kind ~= 'text' and number or nil }
end

-- Returns -1, 0 or 1. Lua has only doubles, which do not distinguish large whole numbers; but rounding keeps the order, so that
-- only numbers that round to the same double are compared by their digits.
local function order(a, b)
  if a.number ~= b.number then return a.number < b.number and -1 or 1 end
  if a.number == 0 or a.kind == b.kind and a.kind ~= 'int' then return 0 end
  local x = a.kind == 'int' and a.rest or int(a.number)
  local y = b.kind == 'int' and b.rest or int(b.number)
  if x == y then return 0 end
  local less = #x < #y or #x == #y and x < y
  return less == (a.number > 0) and -1 or 1
end

local ON_ORDER = {
  gt = function(c) return c > 0 end,
  lt = function(c) return c < 0 end,
  ge = function(c) return c >= 0 end,
  le = function(c) return c <= 0 end,
  eq = function(c) return c == 0 end,
  ne = function(c) return c ~= 0 end,
}

local function holds(stored)
  if condition == 'always' then return true end
  if not stored then return or_missing or condition == 'missing' end
  if condition == 'missing' then return false end
  local a, b = read(argument), read(stored)
  if a.number and b.number then return ON_ORDER[condition](order(a, b)) end
  if condition == 'eq' then return argument == stored end
  return condition == 'ne' and argument ~= stored
end

if action ~= 'get' and call('ZSCORE', done, token) then return { 'applied' } end

local stored = call('GET', value)
if action == 'get' or not holds(stored) or action == 'delete' and not stored then
  if not stored then return { 'kept' } end
  return { 'kept', stored, int(call('PTTL', value)) }
end

local new, expiry = ARGV[8], ARGV[9]
if action == 'delete' then
  call('UNLINK', value)
elseif expiry ~= 'keep' then
  if expiry == 'never' then
    call('SET', value, new)
  else
    call('SET', value, new, 'PX', expiry)
  end
elseif new ~= stored then
  call('SET', value, new, 'KEEPTTL')
else
  return { 'applied' }
end
local memory = tonumber(ARGV[3])
call('ZADD', done, now, token)
-- More than one call adds, so that they become fewer; and not more than fits into one.
local forgotten = call('ZRANGE', done, '-inf', now - memory, 'BYSCORE', 'LIMIT', 0, 100)
if #forgotten > 0 then call('ZREM', done, unpack(forgotten)) end
call('PEXPIRE', done, memory)
return { 'applied' }
