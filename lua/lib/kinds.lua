-- Kinds: the parts of an object of each kind, behind its key `obj`, as in lib/src/protocol/object.rs.

local PARTS = {
  lock = { 'holders', 'queue', 'expiry', 'waits' },
  rwlock = { 'holders', 'queue', 'expiry' },
  semaphore = { 'holders', 'queue', 'expiry' },
  pool = { 'holders', 'queue', 'expiry', 'resources', 'free', 'selectors' },
}
