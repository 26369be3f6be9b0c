-- Kinds: the number of keys of an object of each kind, in the order of lib/src/protocol/object.rs.

local WIDTHS = { lock = 5, rwlock = 4, semaphore = 4, pool = 7 }
