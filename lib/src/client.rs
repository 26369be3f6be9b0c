//! The client: one connection a server, on which all locks, semaphores and pools of a process live.

use std::{fmt, sync::Arc, time::Duration};

use tokio::sync::oneshot;

use crate::{
    Control, Error, Identity, KeyedLock, Kind, Lock, LockPool, LockSet, Params, ReentrantLock, Register,
    RwLock, Semaphore, control,
    lease::{releaser::Job, session::Session},
    primitives::keyed_lock,
};

/// A connection to Redis (in a cluster: one to each master), and the way to everything else. Cheap to clone; one per process is enough, however many locks.
///
/// # When Redis is gone
/// The client connects again on its own, with delays from 20 ms to 1 s. Waiters keep their positions in the queue if
/// Redis is back before their queue entries expire; leases run until their deadline, are renewed when Redis is back,
/// and are lost otherwise: see [`Lease`](crate::Lease).
///
/// Dropping the last clone, and all leases, closes the connection. Background releases still under way are finished first
/// if the runtime lives; [`Client::close`] waits for them.
///
/// ```no_run
/// # async fn run() -> Result<(), tenure::Error> {
/// let client = tenure::Client::connect("redis://127.0.0.1:6379").await?;
/// let lease = client.lock("nightly-migration")?.acquire().await?;
/// // ... this code runs in one place at a time ...
/// lease.release().await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Client {
    pub(crate) session: Arc<Session>,
    pub(crate) events: Option<Arc<control::Mailbox>>,
}

impl Client {
    /// The prefix of all keys: `tenure`, unless [`ClientBuilder::key_prefix`](crate::ClientBuilder::key_prefix) has set another one.
    ///
    /// ```no_run
    /// # fn run(client: tenure::Client, seats: tenure::ObjectRef) {
    /// println!("{}", seats.removal_command(client.key_prefix()));
    /// # }
    /// ```
    #[must_use]
    pub fn key_prefix(&self) -> &str {
        &self.session.prefix
    }

    /// The namespace of the client's objects.
    ///
    /// ```no_run
    /// # fn run(client: tenure::Client) {
    /// println!("the objects are those of {}", client.namespace());
    /// # }
    /// ```
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.session.namespace
    }

    /// A lock of this name in the client's namespace. Locks need no declaration. No command is sent.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] when the name could not be a key's part, see [`ObjectRef`](crate::ObjectRef).
    ///
    /// ```no_run
    /// # fn run(client: tenure::Client) -> Result<(), tenure::Error> {
    /// let lock = client.lock("nightly-migration")?;
    /// # Ok(()) }
    /// ```
    pub fn lock(&self, name: impl AsRef<str>) -> Result<Lock, Error> {
        Ok(Lock::new(
            self.session.clone(),
            self.session.target(Kind::Lock, name.as_ref())?,
        ))
    }

    /// A lock of this name that its owner, the handle that is returned, may take again while it holds it. No command is
    /// sent.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] when the name could not be a key's part, see [`ObjectRef`](crate::ObjectRef).
    ///
    /// ```no_run
    /// # fn run(client: tenure::Client) -> Result<(), tenure::Error> {
    /// let account = client.reentrant_lock("account-17")?;
    /// # Ok(()) }
    /// ```
    pub fn reentrant_lock(&self, name: impl AsRef<str>) -> Result<ReentrantLock, Error> {
        Ok(ReentrantLock::new(self.lock(name)?))
    }

    /// A read-write lock of this name in the client's namespace. It needs no declaration. No command is sent.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] when the name could not be a key's part, see [`ObjectRef`](crate::ObjectRef).
    ///
    /// ```no_run
    /// # fn run(client: tenure::Client) -> Result<(), tenure::Error> {
    /// let index = client.rw_lock("search-index")?;
    /// # Ok(()) }
    /// ```
    pub fn rw_lock(&self, name: impl AsRef<str>) -> Result<RwLock, Error> {
        Ok(RwLock::new(
            self.session.clone(),
            self.session.target(Kind::RwLock, name.as_ref())?,
        ))
    }

    /// The semaphore that a `Semaphore` resource of this name declares in the client's namespace. No command is sent.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] when the name could not be a key's part, see [`ObjectRef`](crate::ObjectRef).
    ///
    /// ```no_run
    /// # fn run(client: tenure::Client) -> Result<(), tenure::Error> {
    /// let callers = client.semaphore("api-callers")?;
    /// # Ok(()) }
    /// ```
    pub fn semaphore(&self, name: impl AsRef<str>) -> Result<Semaphore, Error> {
        Ok(Semaphore::new(
            self.session.clone(),
            self.session.target(Kind::Semaphore, name.as_ref())?,
        ))
    }

    /// The pool that a `LockPool` resource of this name declares in the client's namespace. No command is sent.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] when the name could not be a key's part, see [`ObjectRef`](crate::ObjectRef).
    ///
    /// ```no_run
    /// # fn run(client: tenure::Client) -> Result<(), tenure::Error> {
    /// let seats = client.lock_pool("gpu-seats")?;
    /// # Ok(()) }
    /// ```
    pub fn lock_pool(&self, name: impl AsRef<str>) -> Result<LockPool, Error> {
        Ok(LockPool::new(
            self.session.clone(),
            self.session.target(Kind::Pool, name.as_ref())?,
        ))
    }

    /// The lock that a namespace (any text) and parameters name. No command is sent.
    ///
    /// The parameters are an array of pairs, [`Params`], or [`params!`](crate::params!) for values of different types.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] when the parameters make no key, see [`Params::key`].
    ///
    /// ```no_run
    /// # fn run(client: tenure::Client) -> Result<(), tenure::Error> {
    /// let refresh = client.keyed_lock("token_refresh", [("user_id", 42)])?;
    /// println!("{}", refresh.key());
    /// let report = client.keyed_lock("report", tenure::params! { "year" => 2024, "region" => "eu" })?;
    /// # Ok(()) }
    /// ```
    pub fn keyed_lock(
        &self,
        namespace: impl AsRef<str>,
        params: impl Into<Params>,
    ) -> Result<KeyedLock, Error> {
        let namespace = namespace.as_ref();
        let key = params.into().key(namespace)?;
        let lock = self.lock(keyed_lock::name(namespace, key))?;
        Ok(KeyedLock::new(lock, key))
    }

    /// Returns several keyed locks, to be held all together or not at all. A lock that is named twice is taken once. No
    /// command is sent.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] when parameters make no key, see [`Params::key`], or when there are no keys.
    ///
    /// ```no_run
    /// # fn run(client: tenure::Client) -> Result<(), tenure::Error> {
    /// let transfer = client.lock_set([("account", [("id", 17)]), ("account", [("id", 4)])])?;
    /// # Ok(()) }
    /// ```
    pub fn lock_set<N, P>(&self, keys: impl IntoIterator<Item = (N, P)>) -> Result<LockSet, Error>
    where
        N: AsRef<str>,
        P: Into<Params>,
    {
        let locks = keys
            .into_iter()
            .map(|(namespace, params)| self.keyed_lock(namespace, params))
            .collect::<Result<_, _>>()?;
        LockSet::new(self.session.clone(), locks)
    }

    /// The register of this name in the client's namespace. Registers need no declaration. No command is sent.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] when the name could not be a key's part, see [`ObjectRef`](crate::ObjectRef).
    ///
    /// ```no_run
    /// # fn run(client: tenure::Client) -> Result<(), tenure::Error> {
    /// let newest = client.register("newest-report")?;
    /// # Ok(()) }
    /// ```
    pub fn register(&self, name: impl AsRef<str>) -> Result<Register, Error> {
        Ok(Register::new(
            self.session.clone(),
            self.session.target(Kind::Register, name.as_ref())?,
        ))
    }

    /// The controller's side of the protocol.
    ///
    /// ```no_run
    /// # async fn run(client: tenure::Client) -> Result<(), tenure::Error> {
    /// let seats = tenure::ObjectRef::new(tenure::Kind::Pool, "ml", "gpu-seats")?;
    /// let snapshot = client.control().look(&seats, 10).await?;
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn control(&self) -> Control {
        Control::with_mailbox(self.session.clone(), self.events.clone())
    }

    /// The identity of this client, as other clients see it.
    ///
    /// ```no_run
    /// # fn run(client: tenure::Client) {
    /// println!("{}", client.identity().process);
    /// # }
    /// ```
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.session.identity
    }

    /// Waits until everything that was dropped before is given back, or cannot be, for at most the
    /// [response timeout](crate::ClientBuilder::response_timeout): see [`Client::close_timeout`]. Call it before the process ends
    /// when others should not have to wait for leases to run out.
    ///
    /// Leases that are still held are not given back: drop or release them first. Clones of the client can be used as before.
    ///
    /// # Cancel safety
    /// Dropping the future only ends the waiting.
    ///
    /// ```no_run
    /// # async fn run(client: tenure::Client) {
    /// client.close().await;
    /// # }
    /// ```
    pub async fn close(self) {
        let patience = self.session.link.response_timeout();
        self.close_timeout(patience).await;
    }

    /// As [`Client::close`], for at most `timeout`. Returns `true` if all leases were given back or had expired. The
    /// rest is given back in the background as long as the runtime lives, for up to 60 s or until the lease has
    /// expired.
    ///
    /// # Cancel safety
    /// Dropping the future only ends the waiting.
    ///
    /// ```no_run
    /// # async fn run(client: tenure::Client) {
    /// if !client.close_timeout(std::time::Duration::from_secs(10)).await {
    ///     eprintln!("Redis does not answer: some leases will run out");
    /// }
    /// # }
    /// ```
    pub async fn close_timeout(self, timeout: Duration) -> bool {
        let (done, wait) = oneshot::channel();
        if self.session.jobs.send(Job::Flush(done)).is_err() {
            // The runtime shuts down: nothing is left to wait for.
            return true;
        }
        tokio::time::timeout(timeout, wait).await.is_ok()
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("namespace", &self.session.namespace)
            .finish_non_exhaustive()
    }
}
