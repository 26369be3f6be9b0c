//! A lock: one holder at a time.

use std::{sync::Arc, time::Duration};

use crate::{
    Client, Error, Lease, ObjectRef, Options,
    acquire::{Handle, Wait},
    wire::ledger::Place,
};

/// A lock over Redis, made by its first user and gone with its last: at most one lease at a time.
///
/// Fair: whoever asks first is granted first, and nobody overtakes, not even [`Lock::try_acquire`]. A release grants the
/// next in the queue in the same step and wakes that one alone. Not reentrant: a second `acquire` in the same process
/// waits like anybody else's.
///
/// Its fencing tokens grow as long as the server's clock does not go back, for a lock keeps nothing while nobody uses it.
///
/// ```no_run
/// # async fn run(client: tenure::Client) -> Result<(), tenure::Error> {
/// use std::time::Duration;
///
/// let lock = client.lock("nightly-migration")?.with(tenure::Options::new().reason("schema 42"));
/// match lock.acquire_timeout(Duration::from_secs(5)).await? {
///     Some(lease) => lease.release().await?,
///     None => println!("somebody else is at it"),
/// }
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Lock {
    handle: Handle,
}

impl Lock {
    pub(crate) fn new(client: Client, place: Arc<Place>) -> Self {
        Self {
            handle: Handle {
                client,
                place,
                options: Options::new(),
                first_limit: 1,
            },
        }
    }

    /// The same lock, acquired with these options.
    #[must_use]
    pub fn with(mut self, options: Options) -> Self {
        self.handle.options = options;
        self
    }

    /// The lock's full name.
    #[must_use]
    pub fn object(&self) -> &ObjectRef {
        &self.handle.place.object
    }

    /// Waits until the lock is ours, as long as it takes, outages of Redis included.
    ///
    /// One command when the lock is free.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] names the option, [`Error::Refused`] has Redis' words.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the queue, and gives back what had been granted meanwhile, in the background. Its place
    /// in the queue is lost.
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
    pub async fn acquire_timeout(&self, timeout: Duration) -> Result<Option<Lease>, Error> {
        self.handle.acquire(1, Wait::for_up_to(timeout)).await
    }

    /// Takes the lock if it is free and nobody waits for it, else returns `None`. One command.
    ///
    /// # Errors
    /// As [`Lock::acquire`], and [`Error::Unreachable`] when Redis does not answer within the response timeout.
    ///
    /// # Cancel safety
    /// As [`Lock::acquire`].
    pub async fn try_acquire(&self) -> Result<Option<Lease>, Error> {
        self.handle.acquire(1, Wait::Not).await
    }
}

/// Who waits for ever is never told that the place is taken.
pub(crate) fn acquired<T>(result: Result<Option<T>, Error>) -> Result<T, Error> {
    result.and_then(|lease| lease.ok_or_else(|| Error::protocol("busy, to a request that waits")))
}
