//! Session: what all handles of a client share.

use std::{fmt, sync::Arc};

use tokio::sync::mpsc;

use crate::{
    Error, Identity, Kind, ObjectRef,
    lease::{object_keys::ObjectKeys, registry::LeaseRegistry, releaser::Job},
    transport::router::Router,
};

/// The connections, leases and identity of a client. The connections close with the last handle or lease.
pub(crate) struct Session {
    pub(crate) link: Router,
    pub(crate) registry: Arc<LeaseRegistry>,
    pub(crate) jobs: mpsc::UnboundedSender<Job>,
    /// The name of this client, by which the server pushes to it.
    pub(crate) client: Arc<str>,
    pub(crate) identity: Identity,
    /// The identity as JSON, for a holder without a reason.
    pub(crate) holder: Arc<str>,
    pub(crate) prefix: String,
    pub(crate) namespace: String,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.registry.close();
    }
}

impl Session {
    pub(crate) fn keys(&self, object: &ObjectRef) -> Vec<Arc<str>> {
        object.keys(&self.prefix)
    }

    /// An object of the client's namespace.
    pub(crate) fn target(&self, kind: Kind, name: &str) -> Result<Arc<ObjectKeys>, Error> {
        let object = ObjectRef::new(kind, &self.namespace, name)?;
        let keys = self.keys(&object);
        Ok(Arc::new(ObjectKeys::new(object, keys)))
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}
