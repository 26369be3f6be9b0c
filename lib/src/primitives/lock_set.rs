//! Several keyed locks at once: all of them, or none.
//!
//! The locks lie on different servers of a cluster, so that no script takes them together. Their order makes it safe:
//! each client sorts them by key, and waits for a lock only while it holds none behind it. So no two clients can wait
//! for each other.
//!
//! First the client requests all of them at once, without waiting: one round trip, which is enough if all are free. If
//! one is taken, the client keeps those before it, gives back those behind it, and then waits for the rest one by one,
//! in order. If a lease expires meanwhile (Redis was unreachable for longer than a lease), the client starts again.

use std::sync::Arc;

use std::{ops::Deref, time::Duration};

use futures_util::future::{join_all, select_all};
use tokio::time::Instant;
use uuid::Uuid;

use crate::{
    Error, KeyedLease, KeyedLock, Options,
    lease::session::Session,
    lease::{acquire::acquired, claim::AT_ONCE, machine::request::Wait},
    transport::later,
};

/// Several [`KeyedLock`]s that are held together: all or nothing. Made by [`Client::lock_set`](crate::Client::lock_set).
///
/// Two of these with keys in common never wait for one another. Each lock stays an ordinary lock: who wants only one of
/// them waits in the same queue.
///
/// # What it costs
/// One command a lock, all in one round trip, when all are free; the same to give them back. Otherwise at most three
/// commands a lock until all are held, and a round trip, or a wait, for each from the first that was taken.
///
/// ```no_run
/// # async fn run(client: tenure::Client) -> Result<(), tenure::Error> {
/// let accounts = client.lock_set([("account", [("id", 17)]), ("account", [("id", 4)])])?;
/// let leases = accounts.acquire().await?;
/// leases.check()?;
/// leases.release().await?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct LockSet {
    session: Arc<Session>,
    /// By key, each once.
    locks: Vec<KeyedLock>,
}

impl LockSet {
    pub(crate) fn new(session: Arc<Session>, mut locks: Vec<KeyedLock>) -> Result<Self, Error> {
        if locks.is_empty() {
            return Err(Error::invalid("keys", "are none", "name at least one"));
        }
        locks.sort_by_key(KeyedLock::key);
        locks.dedup_by_key(|lock| lock.key());
        Ok(Self { session, locks })
    }

    /// The same locks, acquired with these options.
    ///
    /// ```no_run
    /// # fn run(accounts: tenure::LockSet) -> tenure::LockSet {
    /// accounts.with(tenure::Options::new().reason("transfer"))
    /// # }
    /// ```
    #[must_use]
    #[allow(clippy::needless_pass_by_value)] // as for every other object
    pub fn with(mut self, options: Options) -> Self {
        self.locks = self
            .locks
            .into_iter()
            .map(|lock| lock.with(options.clone()))
            .collect();
        self
    }

    /// The keys, sorted, each once.
    ///
    /// ```no_run
    /// # fn run(accounts: tenure::LockSet) {
    /// for key in accounts.keys() {
    ///     println!("{key}");
    /// }
    /// # }
    /// ```
    pub fn keys(&self) -> impl Iterator<Item = Uuid> {
        self.locks.iter().map(KeyedLock::key)
    }

    /// Waits until all are ours, as long as it takes, outages of Redis included. Those at the front of the order are held
    /// while we wait for others: their [`Options::max_hold`] counts from then.
    ///
    /// # Errors
    /// As [`KeyedLock::acquire`]; then none is held.
    ///
    /// # Cancel safety
    /// Dropping the future gives back all that it has got, and leaves the queue, in the background.
    ///
    /// ```no_run
    /// # async fn run(accounts: tenure::LockSet) -> Result<(), tenure::Error> {
    /// let leases = accounts.acquire().await?;
    /// # Ok(()) }
    /// ```
    pub async fn acquire(&self) -> Result<LeaseSet, Error> {
        acquired(self.take(Wait::Forever).await)
    }

    /// Waits for at most `timeout`; then gives back what it has got, and returns `None`. Zero is one attempt.
    ///
    /// # Errors
    /// As [`KeyedLock::acquire_timeout`]; then none is held.
    ///
    /// # Cancel safety
    /// As [`LockSet::acquire`].
    ///
    /// ```no_run
    /// # async fn run(accounts: tenure::LockSet) -> Result<(), tenure::Error> {
    /// let within = std::time::Duration::from_secs(1);
    /// let leases = accounts.acquire_timeout(within).await?;
    /// # Ok(()) }
    /// ```
    pub async fn acquire_timeout(&self, timeout: Duration) -> Result<Option<LeaseSet>, Error> {
        self.take(Wait::for_up_to(timeout)).await
    }

    /// Takes all locks if all are free and none has a waiter, else gives back the ones that it has taken, and returns
    /// `None`.
    ///
    /// Of several that try at the same moment for the same keys, each may find one taken by another, so that none gets
    /// all. [`LockSet::acquire_timeout`] sorts that out, however short the timeout.
    ///
    /// # Errors
    /// As [`KeyedLock::try_acquire`]; then none is held.
    ///
    /// # Cancel safety
    /// As [`LockSet::acquire`].
    ///
    /// ```no_run
    /// # async fn run(accounts: tenure::LockSet) -> Result<(), tenure::Error> {
    /// let leases = accounts.try_acquire().await?;
    /// # Ok(()) }
    /// ```
    pub async fn try_acquire(&self) -> Result<Option<LeaseSet>, Error> {
        self.take(Wait::Not).await
    }

    async fn take(&self, wait: Wait) -> Result<Option<LeaseSet>, Error> {
        // A try has the time of one command.
        let attempt = later(self.session.link.response_timeout());
        let end = match wait {
            Wait::Not => Some(attempt),
            wait => wait.end(),
        };
        let time_over = || !matches!(wait, Wait::Not) && wait.is_over(Instant::now());
        let mut answered = false;
        loop {
            let mut leases = Vec::with_capacity(self.locks.len());
            let outcome = self.collect(wait, end, &mut leases, &mut answered).await;
            if !matches!(outcome, Ok(true)) {
                self.give_back(leases, end).await;
                return match outcome {
                    // The servers answered before, and are connected: the time ended while a request was under way.
                    Err(error)
                        if error.is_unreachable() && answered && time_over() && self.is_connected() =>
                    {
                        Ok(None)
                    }
                    outcome => outcome.map(|_| None),
                };
            }
            let leases = LeaseSet { leases };
            let Err(lost) = leases.check() else {
                return Ok(Some(leases));
            };
            self.give_back(leases.leases, end).await;
            if wait.is_over(Instant::now()) {
                return Err(Error::Unreachable {
                    reason: format!("{lost} while the others were waited for: ask for longer leases"),
                });
            }
        }
    }

    fn is_connected(&self) -> bool {
        let (session, mut locks) = (&self.session, self.locks.iter());
        locks.all(|lock| session.link.health_of(&session.keys(lock.object())).is_ok())
    }

    /// True when `leases` has all. Otherwise it has some, to be given back. `answered` becomes true when the servers of all
    /// locks have answered.
    async fn collect(
        &self,
        wait: Wait,
        end: Option<Instant>,
        leases: &mut Vec<KeyedLease>,
        answered: &mut bool,
    ) -> Result<bool, Error> {
        let waits = !matches!(wait, Wait::Not);
        let mut behind = Vec::new();
        let (mut refused, mut unreachable) = (None, None);
        let mut all = true;
        for tried in self.try_each(end).await? {
            match tried {
                Ok(Some(lease)) if all => leases.push(lease),
                Ok(Some(lease)) => behind.push(lease),
                Ok(None) => all = false,
                // A waiting request also waits for Redis.
                Err(error) if waits && error.is_unreachable() => {
                    all = false;
                    unreachable = Some(error);
                }
                Err(error) => refused = Some(error),
            }
        }
        *answered |= unreachable.is_none();
        if let Some(error) = refused {
            leases.extend(behind);
            return Err(error);
        }
        if all || !waits {
            leases.extend(behind);
            return Ok(all);
        }
        self.give_back(behind, end).await;
        for lock in &self.locks[leases.len()..] {
            let lease = match wait {
                Wait::Until(end) => match end.saturating_duration_since(Instant::now()) {
                    Duration::ZERO => return unreachable.map_or(Ok(false), Err),
                    left => lock.acquire_timeout(left).await?,
                },
                Wait::Forever | Wait::Not => Some(lock.acquire().await?),
            };
            match lease {
                Some(lease) => leases.push(lease),
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    async fn try_each(&self, end: Option<Instant>) -> Result<Vec<Result<Option<KeyedLease>, Error>>, Error> {
        let tries = join_all(self.locks.iter().map(KeyedLock::try_acquire));
        let Some(end) = end else {
            return Ok(tries.await);
        };
        tokio::time::timeout_at(end, tries)
            .await
            .map_err(|_| Error::Unreachable {
                reason: "no answer up to the timeout".to_owned(),
            })
    }

    /// All at once. Should Redis not answer in time, the rest is left to the background.
    async fn give_back(&self, leases: Vec<KeyedLease>, end: Option<Instant>) {
        let released = join_all(leases.into_iter().map(KeyedLease::release));
        let now = Instant::now();
        let patience = now + self.session.link.response_timeout();
        let until = end.map_or(patience, |end| end.max(now + AT_ONCE).min(patience));
        // A lease that is lost, or whose server is not reachable, expires.
        let _ = tokio::time::timeout_at(until, released).await;
    }
}

/// The leases of a [`LockSet`], sorted by key. Dropping it gives all of them back.
///
/// ```no_run
/// # async fn work() {}
/// # async fn run(client: tenure::Client) -> Result<(), tenure::Error> {
/// let leases = client.lock_set([("account", [("id", 17)]), ("account", [("id", 4)])])?.acquire().await?;
/// for lease in leases.iter() {
///     println!("{} under fencing token {}", lease.key(), lease.fencing_token());
/// }
/// tokio::select! {
///     () = work() => leases.release().await?,
///     cause = leases.lost() => eprintln!("stopped: {cause}"),
/// }
/// # Ok(()) }
/// ```
#[derive(Debug)]
#[must_use = "dropping leases gives them back at once"]
pub struct LeaseSet {
    leases: Vec<KeyedLease>,
}

impl LeaseSet {
    /// The lease of a key, if it is among them.
    ///
    /// ```no_run
    /// # fn run(account: tenure::KeyedLock, leases: tenure::LeaseSet) {
    /// if let Some(lease) = leases.get(account.key()) {
    ///     println!("fencing token {}", lease.fencing_token());
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn get(&self, key: Uuid) -> Option<&KeyedLease> {
        self.leases.iter().find(|lease| lease.key() == key)
    }

    /// An error if any of them is lost: for use before each step that needs them.
    ///
    /// # Errors
    /// [`Error::Lost`] of the first that is.
    ///
    /// ```no_run
    /// # fn run(leases: tenure::LeaseSet) -> Result<(), tenure::Error> {
    /// leases.check()?;
    /// # Ok(()) }
    /// ```
    pub fn check(&self) -> Result<(), Error> {
        self.leases.iter().try_for_each(|lease| lease.check())
    }

    /// Until when all are ours without another renewal. Renewals move it.
    ///
    /// ```no_run
    /// # fn run(leases: tenure::LeaseSet) {
    /// println!("until {:?}", leases.deadline());
    /// # }
    /// ```
    #[must_use]
    pub fn deadline(&self) -> Instant {
        let deadlines = self.leases.iter().map(|lease| lease.deadline());
        deadlines.min().unwrap_or_else(Instant::now)
    }

    /// Waits until one of them is lost, and returns the cause.
    ///
    /// # Cancel safety
    /// Cancel safe: it only watches.
    ///
    /// ```no_run
    /// # async fn run(leases: tenure::LeaseSet) {
    /// eprintln!("stop: {}", leases.lost().await);
    /// # }
    /// ```
    pub async fn lost(&self) -> String {
        let each = self.leases.iter().map(|lease| Box::pin(lease.lost()));
        select_all(each).await.0
    }

    /// The leases one by one, for code that ends them at different times.
    ///
    /// ```no_run
    /// # async fn run(leases: tenure::LeaseSet) -> Result<(), tenure::Error> {
    /// for lease in leases.into_leases() {
    ///     lease.release().await?;
    /// }
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn into_leases(self) -> Vec<KeyedLease> {
        self.leases
    }

    /// Gives all of them back, at once: see [`Lease::release`](crate::Lease::release).
    ///
    /// # Errors
    /// As [`Lease::release`](crate::Lease::release), of the first that could not be; the others are given back all the
    /// same.
    ///
    /// # Cancel safety
    /// Dropping the future leaves what is not yet given back to the background.
    ///
    /// ```no_run
    /// # async fn run(leases: tenure::LeaseSet) -> Result<(), tenure::Error> {
    /// leases.release().await
    /// # }
    /// ```
    pub async fn release(self) -> Result<(), Error> {
        let released = join_all(self.leases.into_iter().map(KeyedLease::release)).await;
        released.into_iter().collect()
    }
}

/// The leases, by key.
impl Deref for LeaseSet {
    type Target = [KeyedLease];

    fn deref(&self) -> &[KeyedLease] {
        &self.leases
    }
}
