//! An object and its keys, and the newest fencing token that was seen of it.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use crate::protocol::{message::Grant, object::ObjectRef};

/// An object and its keys, which a handle, its clones and its leases share.
#[derive(Debug)]
pub(crate) struct ObjectKeys {
    pub(crate) object: ObjectRef,
    pub(crate) keys: Vec<Arc<str>>,
    newest: AtomicU64,
}

impl ObjectKeys {
    pub(crate) fn new(object: ObjectRef, keys: Vec<Arc<str>>) -> Self {
        Self {
            object,
            keys,
            newest: AtomicU64::new(0),
        }
    }

    /// Notes a grant. It shows that the object is declared, and how far its fencing tokens have got at least: a server that
    /// replies otherwise has lost data.
    pub(crate) fn saw(&self, grant: &Grant) {
        if grant.declared {
            self.saw_newest(grant.fence);
        }
    }

    /// Notes the newest fencing token that a reply names, which is 0 unless the object is declared.
    pub(crate) fn saw_newest(&self, newest: u64) {
        self.newest.fetch_max(newest, Ordering::Relaxed);
    }

    /// The newest fencing token that was seen while the object was declared, or 0.
    pub(crate) fn newest(&self) -> u64 {
        self.newest.load(Ordering::Relaxed)
    }
}
