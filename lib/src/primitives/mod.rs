//! The primitives: locks, semaphores, pools, conditions and registers.

pub(crate) mod condvar;
pub(crate) mod keyed_lock;
pub(crate) mod lock;
pub(crate) mod lock_set;
pub(crate) mod params;
pub(crate) mod pool;
pub(crate) mod reentrant_lock;
pub(crate) mod register;
pub(crate) mod rw_lock;
pub(crate) mod semaphore;
