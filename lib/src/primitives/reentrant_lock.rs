//! A reentrant lock: a lock that its owner may take again.
//!
//! The tasks of an owner act as one. Its lease is in `current`, under a mutex that no task keeps while awaiting: a task
//! that finds a lease there re-enters by renewing it, beside others that do the same. If there is none, one task at a
//! time requests the lock (`asking`), and the others wait for its outcome: if it is granted they re-enter; if it is
//! given up, fails or is dropped, the next one requests it. `in_queue` is set once the server has queued the request,
//! which means that another owner holds the lock: then a `try_acquire` of the owner returns `None` at once.

use std::{
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use tokio::{
    sync::{Mutex as AsyncMutex, MutexGuard as AsyncMutexGuard, watch},
    time::{Instant, timeout_at},
};

use crate::{
    Error, Lease, Lock, ObjectRef, Options,
    lease::claim::AT_ONCE,
    transport::{lock, unreachable},
};

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
    owner: Arc<Owner>,
}

#[derive(Debug, Default)]
struct Owner {
    /// The lease that this owner has, for as long as one of its tasks keeps it.
    current: Mutex<Weak<Lease>>,
    /// Locked by the one task that asks the server.
    asking: AsyncMutex<()>,
    /// `true` while the request of that task is in the queue.
    in_queue: Arc<watch::Sender<bool>>,
}

/// Marks the task that requests the lock for its owner. Dropping it forgets that the request has a queue entry.
struct Asking<'a> {
    in_queue: &'a watch::Sender<bool>,
    _alone: AsyncMutexGuard<'a, ()>,
}

impl Owner {
    async fn asking(&self) -> Asking<'_> {
        Asking {
            _alone: self.asking.lock().await,
            in_queue: &self.in_queue,
        }
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.in_queue.send_replace(false);
    }
}

impl ReentrantLock {
    /// The most times that an owner may hold the lock at once.
    ///
    /// ```
    /// assert_eq!(tenure::ReentrantLock::MAX_DEPTH, 1000);
    /// ```
    pub const MAX_DEPTH: usize = 1000;

    pub(crate) fn new(lock: Lock) -> Self {
        let owner = Arc::new(Owner::default());
        Self {
            lock: lock.telling(owner.in_queue.clone()),
            owner,
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

    /// Returns how many times this owner holds the lock now: 0 while its first task waits. A task that is about to
    /// re-enter counts already. No command is sent.
    ///
    /// ```no_run
    /// # fn run(account: tenure::ReentrantLock) {
    /// println!("{}", account.depth());
    /// # }
    /// ```
    #[must_use]
    pub fn depth(&self) -> usize {
        lock(&self.owner.current).strong_count()
    }

    /// Waits until this owner holds the lock, or re-enters it. One command in either case if no other owner holds it.
    /// While Redis does not answer, a lock that is held is re-entered without a renewal: the lease runs up to its
    /// deadline.
    ///
    /// Of several tasks of one owner, one waits in the queue, and the others come in again when it has the lock. If it gives
    /// up before, the next of them asks, and stands behind those who wait by then.
    ///
    /// # Errors
    /// [`Error::TooLarge`] at [`ReentrantLock::MAX_DEPTH`]; [`Error::Lost`] when the lease that is to be taken again is
    /// lost, until the last of its [`ReentrantLease`]s is gone; else as [`Lock::acquire`].
    ///
    /// # Cancel safety
    /// As [`Lock::acquire`]. A lease that is held stays held, and the owner's other tasks go on.
    ///
    /// ```no_run
    /// # async fn run(account: tenure::ReentrantLock) -> Result<(), tenure::Error> {
    /// account.acquire().await?.release().await
    /// # }
    /// ```
    pub async fn acquire(&self) -> Result<ReentrantLease, Error> {
        if let Some(again) = self.again().await? {
            return Ok(again);
        }
        let _asking = self.owner.asking().await;
        match self.again().await? {
            Some(again) => Ok(again),
            None => Ok(self.enter(self.lock.acquire().await?)),
        }
    }

    /// Waits for at most `timeout`, for the owner's other tasks too; then leaves the queue and returns `None`. Zero is one
    /// attempt.
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
        if timeout.is_zero() {
            return self.try_acquire().await;
        }
        let Some(end) = Instant::now().checked_add(timeout) else {
            return self.acquire().await.map(Some);
        };
        if let Some(again) = self.again_until(Some(end)).await? {
            return Ok(Some(again));
        }
        let Ok(_asking) = timeout_at(end, self.owner.asking()).await else {
            return Ok(None);
        };
        if let Some(again) = self.again_until(Some(end)).await? {
            return Ok(Some(again));
        }
        let left = end.saturating_duration_since(Instant::now());
        // Other tasks of this owner have used up the time. The rest is too short for an answer, and a server that had no time to
        // answer is not unreachable.
        if left < AT_ONCE && left < timeout / 2 {
            return Ok(None);
        }
        let lease = self.lock.acquire_timeout(left).await?;
        Ok(lease.map(|lease| self.enter(lease)))
    }

    /// Takes the lock if it is free or ours, else returns `None`. One command.
    ///
    /// While another task of this owner has asked the server, its answer counts for this one too: it is waited for, as long
    /// as for any answer. `None` if that task stands in the queue.
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
        if let Some(again) = self.again().await? {
            return Ok(Some(again));
        }
        let mut in_queue = self.owner.in_queue.subscribe();
        let answered = async {
            tokio::select! {
                biased;
                asking = self.owner.asking() => Some(asking),
                // The sender lives as long as the owner.
                _ = in_queue.wait_for(|in_queue| *in_queue) => None,
            }
        };
        let patience = self.lock.response_timeout();
        let Ok(answered) = tokio::time::timeout(patience, answered).await else {
            let problem = format!("another task of the same owner has had no answer for {patience:?}");
            return Err(unreachable(&self.object().to_string(), problem));
        };
        let Some(_asking) = answered else {
            return Ok(None);
        };
        if let Some(again) = self.again().await? {
            return Ok(Some(again));
        }
        let lease = self.lock.try_acquire().await?;
        Ok(lease.map(|lease| self.enter(lease)))
    }

    fn enter(&self, lease: Lease) -> ReentrantLease {
        let lease = Arc::new(lease);
        *lock(&self.owner.current) = Arc::downgrade(&lease);
        ReentrantLease { lease }
    }

    async fn again(&self) -> Result<Option<ReentrantLease>, Error> {
        self.again_until(None).await
    }

    /// The lease runs up to its deadline, even if Redis has not answered.
    async fn again_until(&self, end: Option<Instant>) -> Result<Option<ReentrantLease>, Error> {
        let Some(lease) = lock(&self.owner.current).upgrade() else {
            return Ok(None);
        };
        if Arc::strong_count(&lease) > Self::MAX_DEPTH {
            let object = self.object().clone();
            let limit = Self::MAX_DEPTH as u64;
            return Err(Error::TooLarge {
                object,
                asked: limit + 1,
                limit,
            });
        }
        let renewed = match end {
            Some(end) => timeout_at(end, lease.renew()).await.unwrap_or(Ok(())),
            None => lease.renew().await,
        };
        match renewed {
            Err(error) if !error.is_unreachable() => return Err(error),
            _ => lease.check()?,
        }
        Ok(Some(ReentrantLease { lease }))
    }
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
