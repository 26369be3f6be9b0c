//! A read-write lock: many readers, or one writer.

use std::{sync::Arc, time::Duration};

use crate::{
    Error, Lease, ObjectRef, Options,
    lease::session::Session,
    lease::{
        acquire::{Handle, acquired},
        machine::request::Wait,
        object_keys::ObjectKeys,
    },
    protocol::calls::Downgrade,
};

/// A lock that many may read under, or one may write under. Made by its first user and gone with its last.
///
/// It is a semaphore of very many permits: a reader takes one, a writer takes all of them. So it is fair like a
/// semaphore: first come, first served. A writer who waits is not overtaken by later readers, and readers who wait behind
/// it are granted together when it is done: neither starves.
///
/// ```no_run
/// # async fn run(client: tenure::Client) -> Result<(), tenure::Error> {
/// let index = client.rw_lock("search-index")?;
/// let reading = index.read().await?;
/// // ... with any number of others ...
/// reading.release().await?;
///
/// let writing = index.write().await?;
/// // ... alone; then read what was written, before any other writer ...
/// let reading = writing.downgrade().await?;
/// reading.release().await?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct RwLock {
    handle: Handle,
}

/// As many readers as there could ever be.
const ALL: u64 = 1 << 30;

impl RwLock {
    pub(crate) fn new(session: Arc<Session>, target: Arc<ObjectKeys>) -> Self {
        Self {
            handle: Handle::new(session, target, ALL),
        }
    }

    /// The same lock, acquired with these options.
    ///
    /// ```no_run
    /// # fn run(index: tenure::RwLock) -> tenure::RwLock {
    /// index.with(tenure::Options::new().reason("nightly rebuild"))
    /// # }
    /// ```
    #[must_use]
    pub fn with(mut self, options: Options) -> Self {
        self.handle.options = options;
        self
    }

    /// The lock's full name.
    ///
    /// ```no_run
    /// # fn run(index: tenure::RwLock) {
    /// println!("{}", index.object());
    /// # }
    /// ```
    #[must_use]
    pub fn object(&self) -> &ObjectRef {
        &self.handle.target.object
    }

    /// Waits for a read lease, as long as it takes, outages of Redis included. One command without a writer or waiter.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] names the option, [`Error::Refused`] has the error reply of Redis.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the queue, and gives back what had been granted meanwhile, in the background. Its
    /// position in the queue is lost.
    ///
    /// ```no_run
    /// # async fn run(index: tenure::RwLock) -> Result<(), tenure::Error> {
    /// index.read().await?.release().await
    /// # }
    /// ```
    pub async fn read(&self) -> Result<Lease, Error> {
        acquired(self.handle.acquire(1, Wait::Forever).await)
    }

    /// Waits to read for at most `timeout`; then leaves the queue and returns `None`. Zero is one attempt.
    ///
    /// # Errors
    /// As [`RwLock::read`], and [`Error::Unreachable`] when Redis does not answer up to the timeout.
    ///
    /// # Cancel safety
    /// As [`RwLock::read`].
    ///
    /// ```no_run
    /// # async fn run(index: tenure::RwLock) -> Result<(), tenure::Error> {
    /// let reading = index.read_timeout(std::time::Duration::from_secs(1)).await?;
    /// # Ok(()) }
    /// ```
    pub async fn read_timeout(&self, timeout: Duration) -> Result<Option<Lease>, Error> {
        self.handle.acquire(1, Wait::for_up_to(timeout)).await
    }

    /// Takes a read lease if there is neither a writer nor a waiter, else returns `None`. One command.
    ///
    /// # Errors
    /// As [`RwLock::read`], and [`Error::Unreachable`] when Redis does not answer within the response timeout.
    ///
    /// # Cancel safety
    /// As [`RwLock::read`].
    ///
    /// ```no_run
    /// # async fn run(index: tenure::RwLock) -> Result<(), tenure::Error> {
    /// let reading = index.try_read().await?;
    /// # Ok(()) }
    /// ```
    pub async fn try_read(&self) -> Result<Option<Lease>, Error> {
        self.handle.acquire(1, Wait::Not).await
    }

    /// Waits to write, as long as it takes, outages of Redis included. One command when the lock is free.
    ///
    /// # Errors
    /// As [`RwLock::read`].
    ///
    /// # Cancel safety
    /// As [`RwLock::read`].
    ///
    /// ```no_run
    /// # async fn run(index: tenure::RwLock) -> Result<(), tenure::Error> {
    /// index.write().await?.release().await
    /// # }
    /// ```
    pub async fn write(&self) -> Result<WriteLease, Error> {
        acquired(self.exclusive(Wait::Forever).await)
    }

    /// Waits to write for at most `timeout`; then leaves the queue and returns `None`. Zero is one attempt.
    ///
    /// # Errors
    /// As [`RwLock::read_timeout`].
    ///
    /// # Cancel safety
    /// As [`RwLock::read`].
    ///
    /// ```no_run
    /// # async fn run(index: tenure::RwLock) -> Result<(), tenure::Error> {
    /// let writing = index.write_timeout(std::time::Duration::from_secs(1)).await?;
    /// # Ok(()) }
    /// ```
    pub async fn write_timeout(&self, timeout: Duration) -> Result<Option<WriteLease>, Error> {
        self.exclusive(Wait::for_up_to(timeout)).await
    }

    /// Takes the write lease if the lock is free and has no waiter, else returns `None`. One command.
    ///
    /// # Errors
    /// As [`RwLock::try_read`].
    ///
    /// # Cancel safety
    /// As [`RwLock::read`].
    ///
    /// ```no_run
    /// # async fn run(index: tenure::RwLock) -> Result<(), tenure::Error> {
    /// let writing = index.try_write().await?;
    /// # Ok(()) }
    /// ```
    pub async fn try_write(&self) -> Result<Option<WriteLease>, Error> {
        self.exclusive(Wait::Not).await
    }

    /// Takes over the lease to read that [`Lease::detach`] has left: see [`Lock::adopt`](crate::Lock::adopt). A
    /// [`WriteLease`] cannot be detached.
    ///
    /// # Errors
    /// As [`Lock::adopt`](crate::Lock::adopt).
    ///
    /// # Cancel safety
    /// As [`Lock::adopt`](crate::Lock::adopt).
    ///
    /// ```no_run
    /// # async fn run(index: tenure::RwLock, secret: String) -> Result<(), tenure::Error> {
    /// let reading = index.adopt(&secret).await?;
    /// # Ok(()) }
    /// ```
    pub async fn adopt(&self, secret: &str) -> Result<Option<Lease>, Error> {
        self.handle.adopt(secret).await
    }

    async fn exclusive(&self, wait: Wait) -> Result<Option<WriteLease>, Error> {
        Ok(self
            .handle
            .acquire(ALL, wait)
            .await?
            .map(|lease| WriteLease { lease }))
    }
}

/// A [`Lease`] to write.
///
/// ```no_run
/// # async fn run(index: tenure::RwLock) -> Result<(), tenure::Error> {
/// let writing = index.write().await?;
/// writing.check()?; // all that a lease can do
/// writing.release().await
/// # }
/// ```
#[derive(Debug)]
#[must_use = "dropping a lease gives it back at once"]
pub struct WriteLease {
    lease: Lease,
}

impl WriteLease {
    /// Goes on reading, under the same fencing token, and lets the readers in who stand next in the queue. No writer comes
    /// between. One command.
    ///
    /// # Errors
    /// [`Error::Lost`] when the lease is lost; [`Error::Unreachable`] when Redis did not answer before the lease's end.
    ///
    /// # Cancel safety
    /// Dropping the future gives the lease back.
    ///
    /// ```no_run
    /// # async fn run(writing: tenure::WriteLease) -> Result<(), tenure::Error> {
    /// let reading = writing.downgrade().await?;
    /// # Ok(()) }
    /// ```
    pub async fn downgrade(self) -> Result<Lease, Error> {
        let lease = self.lease;
        lease.check()?;
        let downgrade = Downgrade {
            token: lease.token(),
            permits: 1,
        };
        if !lease.call(&downgrade).await? {
            return Err(lease.lose("it was not held any more"));
        }
        // The answer may have come after the lease's end.
        lease.check()?;
        Ok(lease)
    }

    /// The lease alone, for code that holds leases of any object, and for [`Lease::detach`].
    ///
    /// ```no_run
    /// # fn run(writing: tenure::WriteLease) {
    /// let secret = writing.into_lease().detach();
    /// # }
    /// ```
    pub fn into_lease(self) -> Lease {
        self.lease
    }

    /// Gives the lock back: see [`Lease::release`].
    ///
    /// # Errors
    /// As [`Lease::release`].
    ///
    /// # Cancel safety
    /// As [`Lease::release`].
    ///
    /// ```no_run
    /// # async fn run(writing: tenure::WriteLease) -> Result<(), tenure::Error> {
    /// writing.release().await
    /// # }
    /// ```
    pub async fn release(self) -> Result<(), Error> {
        self.lease.release().await
    }
}

impl std::ops::Deref for WriteLease {
    type Target = Lease;

    fn deref(&self) -> &Lease {
        &self.lease
    }
}
