//! A pool: named resources, of which each has one holder at a time.

use std::{collections::BTreeMap, ops::Deref, sync::Arc, time::Duration};

use crate::{
    Client, Error, Lease, ObjectRef, Options,
    acquire::{Handle, Wait},
    lock::acquired,
    wire::ledger::Place,
};

/// A pool of resources that a `LockPool` resource declares.
///
/// Acquiring takes any free resource, in the declared order (least recently used, unless it says otherwise). Resources may
/// be added, removed and disabled while the pool is in use: a resource taken away while held is drained, that is, its
/// holder keeps it and nobody gets it next. Fair like [`Lock`](crate::Lock).
///
/// ```no_run
/// # async fn run(client: tenure::Client) -> Result<(), tenure::Error> {
/// let seat = client.lock_pool("gpu-seats")?.acquire().await?;
/// println!("{} on {:?}", seat.resource(), seat.properties().get("host"));
/// seat.release().await?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct LockPool {
    handle: Handle,
}

impl LockPool {
    pub(crate) fn new(client: Client, place: Arc<Place>) -> Self {
        Self {
            handle: Handle::new(client, place, 0),
        }
    }

    /// The same pool, acquired with these options.
    #[must_use]
    pub fn with(mut self, options: Options) -> Self {
        self.handle.options = options;
        self
    }

    /// The pool's full name.
    #[must_use]
    pub fn object(&self) -> &ObjectRef {
        &self.handle.place.object
    }

    /// Waits for a free resource, as long as it takes, outages of Redis included. One command when one is free.
    ///
    /// # Errors
    /// [`Error::NotDeclared`] when the pool is not declared within five seconds, or is deleted meanwhile;
    /// [`Error::InvalidInput`] names the option, [`Error::Refused`] has Redis' words.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the queue, and gives back what had been granted meanwhile, in the background. Its place
    /// in the queue is lost.
    pub async fn acquire(&self) -> Result<PoolLease, Error> {
        acquired(self.take(Wait::Forever).await)
    }

    /// Waits for at most `timeout`; then leaves the queue and returns `None`. Zero is one attempt.
    ///
    /// # Errors
    /// As [`LockPool::acquire`], and [`Error::Unreachable`] when Redis does not answer up to the timeout.
    ///
    /// # Cancel safety
    /// As [`LockPool::acquire`].
    pub async fn acquire_timeout(&self, timeout: Duration) -> Result<Option<PoolLease>, Error> {
        self.take(Wait::for_up_to(timeout)).await
    }

    /// Takes a resource if one is free and nobody waits, else returns `None`. One command.
    ///
    /// # Errors
    /// [`Error::NotDeclared`] at once, [`Error::Unreachable`] when Redis does not answer within the response timeout;
    /// else as [`LockPool::acquire`].
    ///
    /// # Cancel safety
    /// As [`LockPool::acquire`].
    pub async fn try_acquire(&self) -> Result<Option<PoolLease>, Error> {
        self.take(Wait::Not).await
    }

    async fn take(&self, wait: Wait) -> Result<Option<PoolLease>, Error> {
        let Some(lease) = self.handle.acquire(1, wait).await? else {
            return Ok(None);
        };
        // Should the properties not be readable, dropping the lease gives the resource back.
        let [(name, properties)] = &lease.hold().grant.resources[..] else {
            return Err(Error::protocol(&lease.hold().grant.resources));
        };
        let properties = match properties.as_str() {
            "" => BTreeMap::new(),
            json => serde_json::from_str(json).map_err(|_| Error::protocol(json))?,
        };
        Ok(Some(PoolLease {
            resource: name.clone(),
            properties,
            lease,
        }))
    }
}

/// A [`Lease`] of one resource of a pool.
///
/// ```no_run
/// # async fn run(client: tenure::Client) -> Result<(), tenure::Error> {
/// let seat = client.lock_pool("gpu-seats")?.acquire().await?;
/// seat.check()?; // all that a lease can do
/// println!("{}", seat.resource());
/// # Ok(()) }
/// ```
#[derive(Debug)]
#[must_use = "dropping a lease gives its resource back at once"]
pub struct PoolLease {
    lease: Lease,
    resource: String,
    properties: BTreeMap<String, String>,
}

impl PoolLease {
    /// The resource's name.
    #[must_use]
    pub fn resource(&self) -> &str {
        &self.resource
    }

    /// The resource's properties, as declared when it was granted.
    #[must_use]
    pub fn properties(&self) -> &BTreeMap<String, String> {
        &self.properties
    }

    /// The lease alone, for code that holds leases of any object.
    pub fn into_lease(self) -> Lease {
        self.lease
    }

    /// Gives the resource back: see [`Lease::release`].
    ///
    /// # Errors
    /// As [`Lease::release`].
    ///
    /// # Cancel safety
    /// As [`Lease::release`].
    pub async fn release(self) -> Result<(), Error> {
        self.lease.release().await
    }
}

impl Deref for PoolLease {
    type Target = Lease;

    fn deref(&self) -> &Lease {
        &self.lease
    }
}
