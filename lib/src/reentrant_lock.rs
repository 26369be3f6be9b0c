//! A reentrant lock: a lock that its owner may take again.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::sync::Mutex;

use crate::{Error, Lease, Lock, ObjectRef, Options};

/// A [`Lock`] that its owner may take again while it holds it, as often as [`ReentrantLock::MAX_DEPTH`].
///
/// The owner is this handle and its clones, not a thread or task: pass clones to what should be able to come in again. A
/// handle that [`Client::reentrant_lock`](crate::Client::reentrant_lock) makes anew is another owner, in this process or
/// elsewhere, and waits its turn.
///
/// Taking it again renews the lease, keeps its fencing token, and counts; the lock is given back with the last of the
/// leases. To others it is the lock of that name, so `lock("x")` and `reentrant_lock("x")` exclude each other.
///
/// ```no_run
/// # async fn run(client: tenure::Client) -> Result<(), tenure::Error> {
/// let account = client.reentrant_lock("account-17")?;
/// let outer = account.acquire().await?;
/// let inner = account.acquire().await?; // at once
/// assert_eq!(inner.fencing_token(), outer.fencing_token());
/// inner.release().await?; // still held
/// outer.release().await?; // given back
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct ReentrantLock {
    lock: Lock,
    /// Locked while the owner comes in, so that of two clones one takes the lock and the other comes in again.
    held: Arc<Mutex<Weak<Lease>>>,
}

impl ReentrantLock {
    /// How often an owner may hold it at once.
    ///
    /// ```
    /// assert_eq!(tenure::ReentrantLock::MAX_DEPTH, 1000);
    /// ```
    pub const MAX_DEPTH: usize = 1000;

    pub(crate) fn new(lock: Lock) -> Self {
        Self {
            lock,
            held: Arc::default(),
        }
    }

    /// The same lock and owner, acquired with these options.
    ///
    /// ```no_run
    /// # fn run(account: tenure::ReentrantLock) -> tenure::ReentrantLock {
    /// account.with(tenure::Options::new().reason("transfer"))
    /// # }
    /// ```
    #[must_use]
    pub fn with(mut self, options: Options) -> Self {
        self.lock = self.lock.with(options);
        self
    }

    /// The lock's full name.
    ///
    /// ```no_run
    /// # fn run(account: tenure::ReentrantLock) {
    /// println!("{}", account.object());
    /// # }
    /// ```
    #[must_use]
    pub fn object(&self) -> &ObjectRef {
        self.lock.object()
    }

    /// How often this owner holds it now.
    ///
    /// ```no_run
    /// # async fn run(account: tenure::ReentrantLock) {
    /// println!("{}", account.depth().await);
    /// # }
    /// ```
    pub async fn depth(&self) -> usize {
        self.held.lock().await.strong_count()
    }

    /// Waits until the lock is ours, or comes in again. One command either way when nobody else holds.
    ///
    /// # Errors
    /// [`Error::TooLarge`] at [`ReentrantLock::MAX_DEPTH`]; [`Error::Lost`] when the lease that is to be taken again is
    /// lost; else as [`Lock::acquire`].
    ///
    /// # Cancel safety
    /// As [`Lock::acquire`]. What is held already stays held.
    ///
    /// ```no_run
    /// # async fn run(account: tenure::ReentrantLock) -> Result<(), tenure::Error> {
    /// account.acquire().await?.release().await
    /// # }
    /// ```
    pub async fn acquire(&self) -> Result<ReentrantLease, Error> {
        let mut held = self.held.lock().await;
        if let Some(again) = self.again(&held).await? {
            return Ok(again);
        }
        Ok(enter(&mut held, self.lock.acquire().await?))
    }

    /// Waits for at most `timeout`; then leaves the queue and returns `None`. Zero is one attempt.
    ///
    /// # Errors
    /// As [`ReentrantLock::acquire`] and [`Lock::acquire_timeout`].
    ///
    /// # Cancel safety
    /// As [`ReentrantLock::acquire`].
    ///
    /// ```no_run
    /// # async fn run(account: tenure::ReentrantLock) -> Result<(), tenure::Error> {
    /// let lease = account.acquire_timeout(std::time::Duration::from_secs(1)).await?;
    /// # Ok(()) }
    /// ```
    pub async fn acquire_timeout(&self, timeout: Duration) -> Result<Option<ReentrantLease>, Error> {
        // Another task of the same owner may be waiting for the lock: that wait is part of the timeout.
        let coming_in = async {
            let mut held = self.held.lock().await;
            match self.again(&held).await? {
                Some(again) => Ok(Some(again)),
                None => Ok(self
                    .lock
                    .acquire_timeout(timeout)
                    .await?
                    .map(|lease| enter(&mut held, lease))),
            }
        };
        let limit = timeout.saturating_add(self.lock.response_timeout());
        tokio::time::timeout(limit, coming_in).await.unwrap_or(Ok(None))
    }

    /// Takes the lock if it is free or ours, else returns `None`. One command.
    ///
    /// # Errors
    /// As [`ReentrantLock::acquire`] and [`Lock::try_acquire`].
    ///
    /// # Cancel safety
    /// As [`ReentrantLock::acquire`].
    ///
    /// ```no_run
    /// # async fn run(account: tenure::ReentrantLock) -> Result<(), tenure::Error> {
    /// let lease = account.try_acquire().await?;
    /// # Ok(()) }
    /// ```
    pub async fn try_acquire(&self) -> Result<Option<ReentrantLease>, Error> {
        let Ok(mut held) = self.held.try_lock() else {
            return Ok(None);
        };
        match self.again(&held).await? {
            Some(again) => Ok(Some(again)),
            None => Ok(self
                .lock
                .try_acquire()
                .await?
                .map(|lease| enter(&mut held, lease))),
        }
    }

    async fn again(&self, held: &Weak<Lease>) -> Result<Option<ReentrantLease>, Error> {
        let Some(lease) = held.upgrade() else {
            return Ok(None);
        };
        if held.strong_count() > Self::MAX_DEPTH {
            let object = self.object().clone();
            let limit = Self::MAX_DEPTH as u64;
            return Err(Error::TooLarge {
                object,
                asked: limit + 1,
                limit,
            });
        }
        lease.renew().await?;
        Ok(Some(ReentrantLease { lease }))
    }
}

fn enter(held: &mut Weak<Lease>, lease: Lease) -> ReentrantLease {
    let lease = Arc::new(lease);
    *held = Arc::downgrade(&lease);
    ReentrantLease { lease }
}

/// One of the leases of an owner of a [`ReentrantLock`].
///
/// ```no_run
/// # async fn run(account: tenure::ReentrantLock) -> Result<(), tenure::Error> {
/// let lease = account.acquire().await?;
/// lease.check()?; // all that a lease can do
/// lease.release().await
/// # }
/// ```
#[derive(Debug)]
#[must_use = "dropping the last lease gives the lock back at once"]
pub struct ReentrantLease {
    lease: Arc<Lease>,
}

impl ReentrantLease {
    /// Goes out. The last one gives the lock back: see [`Lease::release`].
    ///
    /// # Errors
    /// As [`Lease::release`], from the last one.
    ///
    /// # Cancel safety
    /// As [`Lease::release`].
    ///
    /// ```no_run
    /// # async fn run(lease: tenure::ReentrantLease) -> Result<(), tenure::Error> {
    /// lease.release().await
    /// # }
    /// ```
    pub async fn release(self) -> Result<(), Error> {
        match Arc::into_inner(self.lease) {
            Some(last) => last.release().await,
            None => Ok(()),
        }
    }
}

impl std::ops::Deref for ReentrantLease {
    type Target = Lease;

    fn deref(&self) -> &Lease {
        &self.lease
    }
}
