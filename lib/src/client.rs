//! The client: one connection, on which all locks, semaphores and pools of a process live.

use std::{fmt, sync::Arc, time::Duration};

use redis::{ConnectionAddr, IntoConnectionInfo, ProtocolVersion};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

#[cfg(feature = "memory")]
use crate::Memory;
use crate::{
    Control, Error, Identity, KeyedLock, Kind, Lock, LockMany, LockPool, ObjectRef, Params, ReentrantLock,
    Register, RwLock, Semaphore, control, keyed_lock,
    object::check_namespace,
    wire::{
        ledger::{Ledger, Place},
        link::{Backend, Link, Receiver, Target},
        releaser::{self, Job},
        renewal,
    },
};

/// A connection to Redis, and the way to everything else. Cheap to clone; one per process is enough, however many locks.
///
/// # When Redis is gone
/// The client connects again by itself, with delays from 20 ms to 1 s. What waits goes on waiting with its place in
/// the queue, as long as Redis comes back before the place runs out; leases run on until their deadline, are renewed when
/// Redis is back, and are lost otherwise: see [`Lease`](crate::Lease).
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
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) link: Link,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) jobs: mpsc::UnboundedSender<Job>,
    /// Where this client's pushes come in.
    pub(crate) channel: Arc<str>,
    pub(crate) identity: Identity,
    prefix: String,
    namespace: String,
    events: Option<Arc<control::Mailbox>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.ledger.close();
    }
}

impl Client {
    /// Connects with the defaults of [`Client::builder`].
    ///
    /// # Errors
    /// See [`ClientBuilder::connect`].
    ///
    /// ```no_run
    /// # async fn run() -> Result<(), tenure::Error> {
    /// let client = tenure::Client::connect("redis://:secret@redis.tenure:6379").await?;
    /// # Ok(()) }
    /// ```
    pub async fn connect(url: &str) -> Result<Self, Error> {
        Self::builder(url).connect().await
    }

    /// Sets up a client: `redis://[user][:password@]host[:port][/database]`, or with the feature `tls` `rediss://` and the
    /// same.
    ///
    /// ```no_run
    /// # async fn run() -> Result<(), tenure::Error> {
    /// let client = tenure::Client::builder("redis://127.0.0.1").namespace("ml").connect().await?;
    /// # Ok(()) }
    /// ```
    pub fn builder(url: &str) -> ClientBuilder {
        ClientBuilder::to(Server::At(url.to_owned()))
    }

    /// A lock of this name in the client's namespace. Locks need no declaration. No command is sent.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] when the name could not be a key's part, see [`ObjectRef`].
    ///
    /// ```no_run
    /// # fn run(client: tenure::Client) -> Result<(), tenure::Error> {
    /// let lock = client.lock("nightly-migration")?;
    /// # Ok(()) }
    /// ```
    pub fn lock(&self, name: &str) -> Result<Lock, Error> {
        Ok(Lock::new(self.clone(), self.place(Kind::Lock, name)?))
    }

    /// A lock of this name that its owner, the handle that is returned, may take again while it holds it. No command is
    /// sent.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] when the name could not be a key's part, see [`ObjectRef`].
    ///
    /// ```no_run
    /// # fn run(client: tenure::Client) -> Result<(), tenure::Error> {
    /// let account = client.reentrant_lock("account-17")?;
    /// # Ok(()) }
    /// ```
    pub fn reentrant_lock(&self, name: &str) -> Result<ReentrantLock, Error> {
        Ok(ReentrantLock::new(self.lock(name)?))
    }

    /// A read-write lock of this name in the client's namespace. It needs no declaration. No command is sent.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] when the name could not be a key's part, see [`ObjectRef`].
    ///
    /// ```no_run
    /// # fn run(client: tenure::Client) -> Result<(), tenure::Error> {
    /// let index = client.rw_lock("search-index")?;
    /// # Ok(()) }
    /// ```
    pub fn rw_lock(&self, name: &str) -> Result<RwLock, Error> {
        Ok(RwLock::new(self.clone(), self.place(Kind::RwLock, name)?))
    }

    /// The semaphore that a `Semaphore` resource of this name declares in the client's namespace. No command is sent.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] when the name could not be a key's part, see [`ObjectRef`].
    ///
    /// ```no_run
    /// # fn run(client: tenure::Client) -> Result<(), tenure::Error> {
    /// let callers = client.semaphore("api-callers")?;
    /// # Ok(()) }
    /// ```
    pub fn semaphore(&self, name: &str) -> Result<Semaphore, Error> {
        Ok(Semaphore::new(self.clone(), self.place(Kind::Semaphore, name)?))
    }

    /// The pool that a `LockPool` resource of this name declares in the client's namespace. No command is sent.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] when the name could not be a key's part, see [`ObjectRef`].
    ///
    /// ```no_run
    /// # fn run(client: tenure::Client) -> Result<(), tenure::Error> {
    /// let seats = client.lock_pool("gpu-seats")?;
    /// # Ok(()) }
    /// ```
    pub fn lock_pool(&self, name: &str) -> Result<LockPool, Error> {
        Ok(LockPool::new(self.clone(), self.place(Kind::Pool, name)?))
    }

    /// The lock that a namespace (any text) and parameters name. No command is sent.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] when the parameters make no key, see [`Params::key`].
    ///
    /// ```no_run
    /// # fn run(client: tenure::Client) -> Result<(), tenure::Error> {
    /// let refresh = client.keyed_lock("token_refresh", [("user_id", 42)])?;
    /// println!("{}", refresh.key());
    /// # Ok(()) }
    /// ```
    pub fn keyed_lock(&self, namespace: &str, params: impl Into<Params>) -> Result<KeyedLock, Error> {
        let key = params.into().key(namespace)?;
        let lock = self.lock(&keyed_lock::name(namespace, key))?;
        Ok(KeyedLock::new(lock, key))
    }

    /// Several keyed locks, to be held all together or not at all. What is named twice is locked once. No command is sent.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] when parameters make no key, see [`Params::key`], or when there are no keys.
    ///
    /// ```no_run
    /// # fn run(client: tenure::Client) -> Result<(), tenure::Error> {
    /// let transfer = client.lock_many([("account", [("id", 17)]), ("account", [("id", 4)])])?;
    /// # Ok(()) }
    /// ```
    pub fn lock_many<N, P>(&self, keys: impl IntoIterator<Item = (N, P)>) -> Result<LockMany, Error>
    where
        N: AsRef<str>,
        P: Into<Params>,
    {
        let locks = keys
            .into_iter()
            .map(|(namespace, params)| self.keyed_lock(namespace.as_ref(), params))
            .collect::<Result<_, _>>()?;
        LockMany::new(self.clone(), locks)
    }

    /// The register of this name in the client's namespace. Registers need no declaration. No command is sent.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] when the name could not be a key's part, see [`ObjectRef`].
    ///
    /// ```no_run
    /// # fn run(client: tenure::Client) -> Result<(), tenure::Error> {
    /// let newest = client.register("newest-report")?;
    /// # Ok(()) }
    /// ```
    pub fn register(&self, name: &str) -> Result<Register, Error> {
        Ok(Register::new(self.clone(), self.place(Kind::Register, name)?))
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
        Control::new(self.clone())
    }

    /// Who this client says it is.
    ///
    /// ```no_run
    /// # fn run(client: tenure::Client) {
    /// println!("{}", client.identity().process);
    /// # }
    /// ```
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.inner.identity
    }

    /// Waits until everything that was dropped before is given back, or cannot be. Call it before the process ends when
    /// others should not have to wait for leases to run out.
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
        let (done, wait) = oneshot::channel();
        if self.inner.jobs.send(Job::Flush(done)).is_ok() {
            // An error means that the runtime shuts down: nothing is left to wait for.
            let _ = wait.await;
        }
    }

    pub(crate) fn keys(&self, object: &ObjectRef) -> Vec<String> {
        object.keys(&self.inner.prefix)
    }

    pub(crate) fn events(&self) -> Option<&Arc<control::Mailbox>> {
        self.inner.events.as_ref()
    }

    fn place(&self, kind: Kind, name: &str) -> Result<Arc<Place>, Error> {
        let object = ObjectRef::new(kind, &self.inner.namespace, name)?;
        let keys = self.keys(&object);
        Ok(Arc::new(Place { object, keys }))
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("namespace", &self.inner.namespace)
            .finish_non_exhaustive()
    }
}

/// How to connect, and who connects. Made by [`Client::builder`].
///
/// ```no_run
/// # async fn run() -> Result<(), tenure::Error> {
/// use std::time::Duration;
///
/// let client = tenure::Client::builder("redis://127.0.0.1")
///     .password(&std::env::var("REDIS_PASSWORD").unwrap_or_default())
///     .connect_timeout(Duration::from_secs(30))
///     .connect()
///     .await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
#[must_use = "a builder does nothing until it connects"]
pub struct ClientBuilder {
    server: Server,
    credentials: (Option<String>, Option<String>),
    identity: Identity,
    namespace: Option<String>,
    prefix: String,
    connect_timeout: Duration,
    response_timeout: Duration,
    listen: bool,
    #[cfg(feature = "tls")]
    tls: crate::tls::Tls,
}

#[derive(Clone)]
enum Server {
    At(String),
    #[cfg(feature = "memory")]
    InMemory(Memory),
}

impl ClientBuilder {
    fn to(server: Server) -> Self {
        Self {
            server,
            credentials: (None, None),
            identity: Identity::from_env(),
            namespace: None,
            prefix: "tenure".to_owned(),
            connect_timeout: Duration::from_secs(10),
            response_timeout: Duration::from_secs(3),
            listen: false,
            #[cfg(feature = "tls")]
            tls: crate::tls::Tls::default(),
        }
    }

    #[cfg(feature = "memory")]
    pub(crate) fn in_memory(memory: Memory) -> Self {
        Self::to(Server::InMemory(memory))
    }

    /// The ACL user, if it does not stand in the URL.
    ///
    /// ```
    /// let builder = tenure::Client::builder("redis://127.0.0.1").username("worker");
    /// ```
    pub fn username(mut self, username: &str) -> Self {
        self.credentials.0 = Some(username.to_owned());
        self
    }

    /// The password, if it does not stand in the URL.
    ///
    /// ```
    /// let builder = tenure::Client::builder("redis://127.0.0.1").password("secret");
    /// ```
    pub fn password(mut self, password: &str) -> Self {
        self.credentials.1 = Some(password.to_owned());
        self
    }

    /// Whose namespace the objects are in. Default: `POD_NAMESPACE`, else `default`.
    ///
    /// It is checked by [`ClientBuilder::connect`].
    ///
    /// ```
    /// let builder = tenure::Client::builder("redis://127.0.0.1").namespace("ml");
    /// ```
    pub fn namespace(mut self, namespace: &str) -> Self {
        self.namespace = Some(namespace.to_owned());
        self
    }

    /// Who holds, as others see it. Default: [`Identity::from_env`].
    ///
    /// ```
    /// let mut me = tenure::Identity::from_env();
    /// me.process = "nightly-import".into();
    /// let builder = tenure::Client::builder("redis://127.0.0.1").identity(me);
    /// ```
    pub fn identity(mut self, identity: Identity) -> Self {
        self.identity = identity;
        self
    }

    /// What all keys and channels begin with. Default: `tenure`. Clients and controller have to agree on it.
    ///
    /// It is checked by [`ClientBuilder::connect`]: ASCII letters, digits and `- _ . :`.
    ///
    /// ```
    /// let builder = tenure::Client::builder("redis://127.0.0.1").key_prefix("staging");
    /// ```
    pub fn key_prefix(mut self, prefix: &str) -> Self {
        prefix.clone_into(&mut self.prefix);
        self
    }

    /// How long [`ClientBuilder::connect`] tries. Default: 10 s.
    ///
    /// ```
    /// let patient = std::time::Duration::from_secs(60);
    /// let builder = tenure::Client::builder("redis://127.0.0.1").connect_timeout(patient);
    /// ```
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long one command may take before the connection counts as broken. Default: 3 s. It should be well below a
    /// lease, so that a second try fits in.
    ///
    /// ```
    /// let quick = std::time::Duration::from_millis(500);
    /// let builder = tenure::Client::builder("redis://127.0.0.1").response_timeout(quick);
    /// ```
    pub fn response_timeout(mut self, timeout: Duration) -> Self {
        self.response_timeout = timeout;
        self
    }

    /// Trusts these certificate authorities (PEM, one or more) in place of the system's. Needs a `rediss://` URL and the
    /// feature `tls`.
    ///
    /// ```no_run
    /// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
    /// let client = tenure::Client::builder("rediss://redis.tenure")
    ///     .tls_ca(std::fs::read("/etc/redis-tls/ca.crt")?)
    ///     .tls_client_certificate(std::fs::read("/etc/redis-tls/tls.crt")?, std::fs::read("/etc/redis-tls/tls.key")?)
    ///     .connect()
    ///     .await?;
    /// # Ok(()) }
    /// ```
    #[cfg(feature = "tls")]
    pub fn tls_ca(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.tls.ca = Some(pem.into());
        self
    }

    /// Shows this certificate (PEM, with those between it and its authority) and proves it with its private key (PEM).
    /// Needs a `rediss://` URL and the feature `tls`.
    ///
    /// ```no_run
    /// # fn run(certificate: Vec<u8>, key: Vec<u8>) {
    /// let builder = tenure::Client::builder("rediss://redis.tenure").tls_client_certificate(certificate, key);
    /// # }
    /// ```
    #[cfg(feature = "tls")]
    pub fn tls_client_certificate(
        mut self,
        certificate: impl Into<Vec<u8>>,
        key: impl Into<Vec<u8>>,
    ) -> Self {
        self.tls.client = Some((certificate.into(), key.into()));
        self
    }

    /// Also receive the events of [`Control::events`], as a controller does.
    ///
    /// ```
    /// let builder = tenure::Client::builder("redis://127.0.0.1").with_events();
    /// ```
    pub fn with_events(mut self) -> Self {
        self.listen = true;
        self
    }

    /// Connects, and tries on for as long as [`ClientBuilder::connect_timeout`] says: Redis may come up after its users.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] names the setting, [`Error::Authentication`] and [`Error::UnsupportedServer`] come at
    /// once, [`Error::Unreachable`] after the timeout, with what the last try met.
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing behind.
    ///
    /// ```no_run
    /// # async fn run() -> Result<(), tenure::Error> {
    /// let client = tenure::Client::builder("redis://127.0.0.1").connect().await?;
    /// # Ok(()) }
    /// ```
    pub async fn connect(self) -> Result<Client, Error> {
        let until = Instant::now() + self.connect_timeout;
        let client = self.connect_lazily()?;
        client.inner.link.session(until).await?;
        Ok(client)
    }

    /// Returns at once and connects in the background, trying for ever. For programs that report themselves whether Redis
    /// is there, as the controller does. Has to be called in a tokio runtime.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] names the setting.
    ///
    /// ```no_run
    /// # async fn run() -> Result<(), tenure::Error> {
    /// let client = tenure::Client::builder("redis://127.0.0.1").connect_lazily()?;
    /// println!("{:?}", client.control().server());
    /// # Ok(()) }
    /// ```
    pub fn connect_lazily(self) -> Result<Client, Error> {
        let namespace = self
            .namespace
            .clone()
            .unwrap_or_else(|| self.identity.namespace.clone());
        check_namespace(&namespace)?;
        let prefix_ok = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
        if self.prefix.is_empty() || !self.prefix.chars().all(prefix_ok) {
            return Err(Error::invalid(
                "key_prefix",
                format!("{:?} cannot begin a key", self.prefix),
                "use ASCII letters, digits and - _ . :",
            ));
        }
        for (field, timeout) in [
            ("connect_timeout", self.connect_timeout),
            ("response_timeout", self.response_timeout),
        ] {
            if timeout.is_zero() {
                return Err(Error::invalid(field, "is zero", "use a duration above zero"));
            }
        }
        let (backend, address) = match &self.server {
            Server::At(url) => {
                let (client, address) = self.target(url)?;
                (Backend::Redis(Box::new(client)), address)
            }
            #[cfg(feature = "memory")]
            Server::InMemory(memory) => {
                let backend = Backend::Memory(memory.clone(), self.identity.process.as_str().into());
                (backend, "the in-memory twin".to_owned())
            }
        };
        let channel: Arc<str> = format!("{}:client:{}", self.prefix, backend.draw().simple()).into();
        let events_channel = format!("{}:events", self.prefix);
        let mut channels = vec![channel.to_string()];
        let ledger = Arc::new(Ledger::default());
        let mut receiver: Arc<dyn Receiver> = ledger.clone();
        let mut events = None;
        if self.listen {
            channels.push(events_channel.clone());
            let mailbox = Arc::new(control::Mailbox::new(events_channel.clone(), ledger.clone()));
            receiver = mailbox.clone();
            events = Some(mailbox);
        }
        let target = Target {
            backend,
            address,
            channels,
            events_channel,
            response_timeout: self.response_timeout,
        };
        let link = Link::start(target, receiver);
        let (jobs, jobs_in) = mpsc::unbounded_channel();
        tokio::spawn(renewal::run(
            ledger.clone(),
            link.clone(),
            channel.clone(),
            jobs.clone(),
        ));
        tokio::spawn(releaser::run(jobs_in, link.clone()));
        let inner = Inner {
            link,
            ledger,
            jobs,
            channel,
            identity: self.identity,
            prefix: self.prefix,
            namespace,
            events,
        };
        Ok(Client {
            inner: Arc::new(inner),
        })
    }

    fn target(&self, url: &str) -> Result<(redis::Client, String), Error> {
        let unusable = |problem: String| {
            Error::invalid(
                "url",
                problem,
                "use redis://[user][:password@]host[:port][/database], or rediss:// for TLS",
            )
        };
        if let Some(problem) = tls_problem(url, cfg!(feature = "tls")) {
            return Err(unusable(problem.to_owned()));
        }
        // The driver's words may hold the URL, and with it the password.
        let info = url
            .into_connection_info()
            .map_err(|error| unusable(format!("is not usable ({})", error.category())))?;
        let address = match info.addr() {
            ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
                format!("{host}:{port}")
            }
            ConnectionAddr::Unix(path) => path.display().to_string(),
            other => other.to_string(),
        };
        let mut settings = info
            .redis_settings()
            .clone()
            .set_protocol(ProtocolVersion::RESP3)
            .set_skip_set_lib_name();
        if let Some(username) = &self.credentials.0 {
            settings = settings.set_username(username);
        }
        if let Some(password) = self
            .credentials
            .1
            .as_ref()
            .filter(|password| !password.is_empty())
        {
            settings = settings.set_password(password);
        }
        let info = info.set_redis_settings(settings);
        #[cfg(feature = "tls")]
        if url.starts_with("rediss://") {
            return Ok((self.tls.client(info)?, address));
        } else if self.tls.ca.is_some() || self.tls.client.is_some() {
            return Err(unusable(
                "is not one for TLS, but certificates are given".to_owned(),
            ));
        }
        let client = redis::Client::open(info)
            .map_err(|error| unusable(format!("is not usable ({})", error.category())))?;
        Ok((client, address))
    }
}

/// What is wrong with the URL as far as TLS goes.
fn tls_problem(url: &str, built_in: bool) -> Option<&'static str> {
    let wanted = url.starts_with("rediss://");
    if wanted && !built_in {
        return Some("asks for TLS, which needs the feature `tls` of the crate tenure");
    }
    (wanted && url.contains('#'))
        .then_some("asks for TLS without a check of the server's certificate, which protects from nobody")
}

impl fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither the URL nor the credentials: they may hold a password.
        f.debug_struct("ClientBuilder")
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::tls_problem;

    #[test]
    fn tls_needs_its_feature_and_a_check_of_the_certificate() {
        assert_eq!(tls_problem("redis://host", false), None);
        assert_eq!(tls_problem("rediss://host", true), None);
        assert!(
            tls_problem("rediss://host", false)
                .unwrap()
                .contains("feature `tls`")
        );
        assert!(
            tls_problem("rediss://host/#insecure", true)
                .unwrap()
                .contains("certificate")
        );
    }
}
