//! A lock: one holder at a time.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::sync::watch;

use crate::{
    Condvar, Control, Error, Lease, ObjectRef, Options,
    control::HolderView,
    lease::session::Session,
    lease::{
        acquire::{Handle, acquired},
        machine::request::Wait,
        object_keys::ObjectKeys,
    },
};

/// A lock over Redis, made by its first user and gone with its last: at most one lease at a time.
///
/// Fair: requests are granted in the order in which they arrive, and no request overtakes another, not even
/// [`Lock::try_acquire`]. A release grants the lock to the next waiter in the same step and wakes only that one. Not
/// reentrant: a second `acquire` in the same process waits like that of any other client.
///
/// Its fencing tokens grow as long as the server's clock does not go back, because an unused lock has no data in Redis.
///
/// ```no_run
/// # async fn run(client: tenure::Client) -> Result<(), tenure::Error> {
/// use std::time::Duration;
///
/// let lock = client.lock("nightly-migration")?.with(tenure::Options::new().reason("schema 42"));
/// match lock.acquire_timeout(Duration::from_secs(5)).await? {
///     Some(lease) => lease.release().await?,
///     None => println!("another client holds the lock"),
/// }
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Lock {
    handle: Handle,
}

impl Lock {
    pub(crate) fn new(session: Arc<Session>, target: Arc<ObjectKeys>) -> Self {
        Self {
            handle: Handle::new(session, target, 1),
        }
    }

    /// The same lock, acquired with these options.
    ///
    /// ```no_run
    /// # fn run(lock: tenure::Lock) -> tenure::Lock {
    /// lock.with(tenure::Options::new().reason("schema 42"))
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
    /// # fn run(lock: tenure::Lock) {
    /// println!("{}", lock.object());
    /// # }
    /// ```
    #[must_use]
    pub fn object(&self) -> &ObjectRef {
        &self.handle.target.object
    }

    /// A condition of this lock: what its holders wait for, see [`Condvar`]. No command is sent.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] when the name has other characters than an [`ObjectRef`]'s.
    ///
    /// ```no_run
    /// # fn run(lock: tenure::Lock) -> Result<(), tenure::Error> {
    /// let not_empty = lock.condvar("not-empty")?;
    /// # Ok(()) }
    /// ```
    pub fn condvar(&self, name: impl AsRef<str>) -> Result<Condvar, Error> {
        Condvar::new(self.handle.clone(), name.as_ref())
    }

    /// Returns the holder, or `None` if the lock is free. The holder may have changed by the time of the answer. One
    /// command.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::Refused`].
    ///
    /// # Cancel safety
    /// Cancel safe: it only looks.
    ///
    /// ```no_run
    /// # async fn run(lock: tenure::Lock) -> Result<(), tenure::Error> {
    /// if let Some(view) = lock.holder().await? {
    ///     println!("held by {} since {:?}: {}", view.holder.process, view.since, view.reason);
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn holder(&self) -> Result<Option<HolderView>, Error> {
        let snapshot = Control::new(self.handle.session.clone())
            .look(self.object(), 1)
            .await?;
        Ok(snapshot.and_then(|snapshot| snapshot.holders.into_iter().next()))
    }

    /// Returns whether the lock is held. That may have changed by the time of the answer. One command.
    ///
    /// # Errors
    /// As [`Lock::holder`].
    ///
    /// # Cancel safety
    /// As [`Lock::holder`].
    ///
    /// ```no_run
    /// # async fn run(lock: tenure::Lock) -> Result<(), tenure::Error> {
    /// println!("taken: {}", lock.is_locked().await?);
    /// # Ok(()) }
    /// ```
    pub async fn is_locked(&self) -> Result<bool, Error> {
        Ok(self.holder().await?.is_some())
    }

    /// Takes over the lease that [`Lease::detach`](crate::Lease::detach) has left, by its secret, and renews it. One command.
    ///
    /// Of all who have the secret, one gets the lease; the others get `None`. The adopted lease has the old one's fencing token, length, longest hold, grace,
    /// permits and resources; only the reason is that of these options. It has a secret of its own, for the next
    /// [`Lease::detach`](crate::Lease::detach).
    ///
    /// `None` also if the lease has run out, or if its object recovers from a loss of Redis' data: a lease that no client
    /// holds is lost then.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] when that is no secret of a lease, [`Error::Unreachable`] when Redis does not answer within the
    /// response timeout, [`Error::NotReplicated`], [`Error::Refused`]. After [`Error::Unreachable`] the lease may have been
    /// adopted: then it is given back in the background, and the secret adopts nothing any more.
    ///
    /// # Cancel safety
    /// Dropping the future gives the lease back, in the background, if it had been adopted. If it had not, it stays detached:
    /// it may be adopted until it runs out.
    ///
    /// ```no_run
    /// # async fn run(lock: tenure::Lock, secret: String) -> Result<(), tenure::Error> {
    /// let lease = lock.adopt(&secret).await?;
    /// # Ok(()) }
    /// ```
    pub async fn adopt(&self, secret: &str) -> Result<Option<Lease>, Error> {
        self.handle.adopt(secret).await
    }

    /// Takes the lock from its holder, ahead of all waiters, and notifies the holder of the reason: its lease is lost,
    /// and its next step should not take place. For people and their tools, where a holder is known to hang. The next
    /// fencing token is larger, as always; `why` has at most 256 bytes; `None` only while the lock is in its grace
    /// after an expiry. One command.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] names the option, [`Error::Unreachable`], [`Error::Refused`].
    ///
    /// # Cancel safety
    /// Dropping the future gives the lock back if it had been taken over.
    ///
    /// ```no_run
    /// # async fn run(lock: tenure::Lock) -> Result<(), tenure::Error> {
    /// let lease = lock.take_over("its pod hangs, ticket 4711").await?;
    /// # Ok(()) }
    /// ```
    pub async fn take_over(&self, why: &str) -> Result<Option<Lease>, Error> {
        self.handle.take_over(why).await
    }

    /// Returns the state of the lock, for a caller who could wait for `within`.
    ///
    /// # Errors
    /// As [`Lock::holder`].
    ///
    /// # Cancel safety
    /// As [`Lock::holder`].
    ///
    /// ```no_run
    /// # async fn run(lock: tenure::Lock) -> Result<(), tenure::Error> {
    /// if lock.status(std::time::Duration::from_secs(60)).await? == tenure::LockStatus::Unavailable {
    ///     println!("come back later");
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn status(&self, within: Duration) -> Result<LockStatus, Error> {
        let Some(snapshot) = Control::new(self.handle.session.clone())
            .look(self.object(), 1)
            .await?
        else {
            return Ok(LockStatus::Free);
        };
        Ok(match snapshot.holders.first() {
            None => LockStatus::Free,
            Some(view) if ends_within(view.expires, snapshot.now, within) => LockStatus::Locked,
            Some(_) => LockStatus::Unavailable,
        })
    }

    /// The same lock, which reports when a request has joined the queue.
    pub(crate) fn telling(mut self, in_queue: Arc<watch::Sender<bool>>) -> Self {
        self.handle.in_queue = Some(in_queue);
        self
    }

    pub(crate) fn response_timeout(&self) -> Duration {
        self.handle.session.link.response_timeout()
    }

    /// Waits until the lock is ours, as long as it takes, outages of Redis included.
    ///
    /// One command when the lock is free.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] names the option, [`Error::Refused`] has the error reply of Redis.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the queue, and gives back what had been granted meanwhile, in the background. Its
    /// position in the queue is lost.
    ///
    /// ```no_run
    /// # async fn run(lock: tenure::Lock) -> Result<(), tenure::Error> {
    /// let lease = lock.acquire().await?;
    /// # Ok(()) }
    /// ```
    pub async fn acquire(&self) -> Result<Lease, Error> {
        acquired(self.handle.acquire(1, Wait::Forever).await)
    }

    /// Waits for at most `timeout`; then leaves the queue and returns `None`. Zero is one attempt.
    ///
    /// # Errors
    /// As [`Lock::acquire`], and [`Error::Unreachable`] when Redis does not answer up to the timeout.
    ///
    /// # Cancel safety
    /// As [`Lock::acquire`].
    ///
    /// ```no_run
    /// # async fn run(lock: tenure::Lock) -> Result<(), tenure::Error> {
    /// let within = std::time::Duration::from_secs(1);
    /// if let Some(lease) = lock.acquire_timeout(within).await? {
    ///     lease.release().await?;
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn acquire_timeout(&self, timeout: Duration) -> Result<Option<Lease>, Error> {
        self.handle.acquire(1, Wait::for_up_to(timeout)).await
    }

    /// Takes the lock if it is free and has no waiter, else returns `None`. One command.
    ///
    /// # Errors
    /// As [`Lock::acquire`], and [`Error::Unreachable`] when Redis does not answer within the response timeout.
    ///
    /// # Cancel safety
    /// As [`Lock::acquire`].
    ///
    /// ```no_run
    /// # async fn run(lock: tenure::Lock) -> Result<(), tenure::Error> {
    /// let Some(lease) = lock.try_acquire().await? else {
    ///     return Ok(()); // another client holds the lock
    /// };
    /// # Ok(()) }
    /// ```
    pub async fn try_acquire(&self) -> Result<Option<Lease>, Error> {
        self.handle.acquire(1, Wait::Not).await
    }
}

fn ends_within(expires: SystemTime, now: SystemTime, within: Duration) -> bool {
    expires.duration_since(now).map_or(true, |left| left <= within)
}

/// The state of a lock. No lease of Tenure is without an end, so there is no state for that.
///
/// ```
/// assert_ne!(tenure::LockStatus::Free, tenure::LockStatus::Locked);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockStatus {
    /// The lock is free.
    Free,
    /// It is held, under a lease that runs out within the time asked for, unless it is renewed.
    Locked,
    /// It is held under a lease that runs on for longer.
    Unavailable,
}
