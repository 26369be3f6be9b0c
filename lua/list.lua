#!lua flags=allow-oom
-- list: returns some of a pool's named resources, and the state of each.
-- KEYS  obj
-- ARGV  version and run id, cursor ("0" at first), about how many; or "=" and a name, for that one alone
-- Reply cursor of the rest ("0": none), then for each resource: name, its entry ("1" in service or "0" disabled, and its
--       properties), "free" or "held" or "disabled" or "damaged" (its entry cannot be read: it is not granted)
-- A resource that is added or taken away meanwhile may be missing or not; none of the others is missing, and one may come
-- twice. O(how many).
---- include lib/settle.lua
---- include lib/close.lua
local object = open(KEYS[1])
settle(object)
local cursor, found
if string.sub(ARGV[2], 1, 1) == '=' then
  local name = string.sub(ARGV[2], 2)
  local record = call('HGET', object.resources, name)
  cursor, found = '0', record and { name, record } or {}
else
  cursor, found = unpack(call('HSCAN', object.resources, ARGV[2], 'COUNT', ARGV[3]))
end
local reply = { cursor }
object.records = {}
for i = 1, #found, 2 do
  object.records[found[i]] = found[i + 1]
  local state = 'held'
  if not pool().properties_of(object, found[i]) then
    state = 'damaged'
  elseif string.sub(found[i + 1], 1, 1) == '0' then
    state = 'disabled'
  elseif call('ZSCORE', object.free, found[i]) then
    state = 'free'
  end
  reply[#reply + 1] = found[i]
  reply[#reply + 1] = found[i + 1]
  reply[#reply + 1] = state
end
close(object)
return reply
