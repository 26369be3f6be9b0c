-- Call: the version of the protocol, errors, commands, the clock, and the budget of a call.
--
-- A function that is defined here is created in each call of each script that includes it, for about 1,300 instructions of the
-- server; a command costs about 8,000 more. So a script answers ordinary small calls in a fast lane before its first include,
-- whose outcome is that of the slow way: an acquire and a release without contention cost 145,000 instructions with it, and
-- 390,000 without.
--
-- No call works for other clients for more than about a millisecond. It has a budget of units, which are counted and not
-- timed, so that all servers decide the same: the end of a lease or of a queue entry is one unit, a grant two, and both one more
-- for every four resources. When the budget is used up, the call leaves the rest: it replies wake 0 to the head of the queue, or
-- publishes `again` to it, and each later call goes on. If that message is lost, the renewals of the queue entries go on.
-- A lease that has run out and is not ended yet counts as held, but cannot be renewed, released or used.

-- Numbers become digits: Lua's own conversion would write large ones with an exponent.
local format = string.format
local function int(n) return format('%d', n) end

-- The protocol that this script speaks. It stands before the run id in each call ("2 run-id"), in each object that lies in
-- a hash, and before a lease that lies alone. An object of an older one (0: without a version) is changed into
-- one of today when it is opened. Nothing of a newer one is read.
local PROTOCOL = 2
local spoken, here = string.match(ARGV[1], '^(%d+) (.*)$')
if spoken ~= int(PROTOCOL) then return redis.error_reply('VERSION - ' .. (spoken or 0) .. ' ' .. PROTOCOL) end

local function check_version(obj, written)
  if tonumber(written) > PROTOCOL then error({ err = 'VERSION ' .. obj .. ' ' .. written .. ' ' .. PROTOCOL }) end
end

-- Raises what is wrong with an object, so that its client can name it: the key, or "-" where the text names it, and the text.
local function damaged(key, what) error({ err = 'DAMAGED ' .. key .. ' ' .. what }) end

-- Runs a command. If its key has another type of value than Tenure keeps there, the error names the key. Any other error
-- (no memory, no replicas) is not about the object, and is raised as it is.
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

-- Units of work for others that are left to this call.
local budget = 64
