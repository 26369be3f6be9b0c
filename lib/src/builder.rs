//! The settings of a client.

mod binding;
mod connect;
mod env;

use std::{fmt, sync::Arc, time::Duration};

#[cfg(feature = "memory")]
use crate::memory::Memory;
use crate::{AddressResolver, Client, CredentialsProvider, Error, Identity, protocol::channel};

/// The settings of a connection, and the identity of its user. Made by [`Client::builder`].
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
    credentials: UserAndPassword,
    sentinel_credentials: UserAndPassword,
    provider: Option<Arc<dyn CredentialsProvider>>,
    sentinel_provider: Option<Arc<dyn CredentialsProvider>>,
    resolver: Option<Arc<dyn AddressResolver>>,
    identity: Identity,
    namespace: Option<String>,
    prefix: String,
    connect_timeout: Duration,
    response_timeout: Duration,
    listen: Option<EventChannels>,
    #[cfg(feature = "tls")]
    tls: crate::transport::tls::Tls,
}

/// No server answers sooner: every call would be repeated for ever.
const SHORTEST_TIMEOUT: Duration = Duration::from_millis(1);

/// Returns the channels of events for a prefix and a namespace.
type EventChannels = fn(&str, &str) -> Arc<str>;

/// User and password.
type UserAndPassword = (Option<String>, Option<String>);

#[derive(Clone)]
enum Server {
    At(String),
    #[cfg(feature = "memory")]
    InMemory(Memory),
}

impl ClientBuilder {
    pub(crate) fn at(url: &str) -> Self {
        Self::to(Server::At(url.to_owned()))
    }

    fn to(server: Server) -> Self {
        Self {
            server,
            credentials: (None, None),
            sentinel_credentials: (None, None),
            provider: None,
            sentinel_provider: None,
            resolver: None,
            identity: Identity::from_env(),
            namespace: None,
            prefix: "tenure".to_owned(),
            connect_timeout: Duration::from_secs(10),
            response_timeout: Duration::from_secs(3),
            listen: None,
            #[cfg(feature = "tls")]
            tls: crate::transport::tls::Tls::default(),
        }
    }

    #[cfg(feature = "memory")]
    pub(crate) fn in_memory(memory: Memory) -> Self {
        Self::to(Server::InMemory(memory))
    }

    /// The ACL user, if it does not stand in the URL. It needs a password, too; an empty text counts as none.
    ///
    /// ```
    /// let builder = tenure::Client::builder("redis://127.0.0.1").username("worker");
    /// ```
    pub fn username(mut self, username: impl AsRef<str>) -> Self {
        self.credentials.0 = Some(username.as_ref().to_owned());
        self
    }

    /// The password, if it does not stand in the URL. An empty text counts as none.
    ///
    /// ```
    /// let builder = tenure::Client::builder("redis://127.0.0.1").password("secret");
    /// ```
    pub fn password(mut self, password: impl AsRef<str>) -> Self {
        self.credentials.1 = Some(password.as_ref().to_owned());
        self
    }

    /// User, where there is one, and password of the Sentinels, if they do not stand in the URL. They often are others than
    /// those of the servers, or there are none.
    ///
    /// ```
    /// let builder = tenure::Client::builder("redis+sentinel://sentinel.tenure/main")
    ///     .sentinel_credentials(None, "secret");
    /// ```
    pub fn sentinel_credentials(mut self, username: Option<&str>, password: impl AsRef<str>) -> Self {
        let password = password.as_ref().to_owned();
        self.sentinel_credentials = (username.map(str::to_owned), Some(password));
        self
    }

    /// Asks for the credentials at each connect, in place of those in the URL: for passwords that are changed and tokens that
    /// run out. [`FileCredentials`](crate::FileCredentials) reads a mounted Secret; an asynchronous closure is a provider, too.
    ///
    /// While a server denies them, a call waits for others, until its own timeout; [`ClientBuilder::connect`] until
    /// [`ClientBuilder::connect_timeout`]. Then they end with [`Error::Authentication`].
    ///
    /// ```
    /// let secret = tenure::FileCredentials::new("/etc/redis/password");
    /// let builder = tenure::Client::builder("redis://127.0.0.1").credentials(secret);
    /// ```
    pub fn credentials(mut self, provider: impl CredentialsProvider) -> Self {
        self.provider = Some(Arc::new(provider));
        self
    }

    /// As [`ClientBuilder::credentials`], for the Sentinels.
    ///
    /// ```
    /// let secret = tenure::FileCredentials::new("/etc/sentinel/password");
    /// let builder = tenure::Client::builder("redis+sentinel://sentinel.tenure/main")
    ///     .sentinel_credentials_provider(secret);
    /// ```
    pub fn sentinel_credentials_provider(mut self, provider: impl CredentialsProvider) -> Self {
        self.sentinel_provider = Some(Arc::new(provider));
        self
    }

    /// Finds the addresses of the servers in place of the system, at each connect: for a tunnel into a network of which the names
    /// are not known outside. Names in the URL, and those that servers announce, stay as they are, also for TLS.
    ///
    /// ```
    /// # fn run(tunnel: impl tenure::AddressResolver) {
    /// let builder = tenure::Client::builder("rediss://redis.tenure").resolver(tunnel);
    /// # }
    /// ```
    pub fn resolver(mut self, resolver: impl AddressResolver) -> Self {
        self.resolver = Some(Arc::new(resolver));
        self
    }

    /// Whose namespace the objects are in. Default: `POD_NAMESPACE`, else `default`; [`Client::builder_from_env`] reads
    /// `TENURE_NAMESPACE` before that.
    ///
    /// It is checked by [`ClientBuilder::connect`].
    ///
    /// ```
    /// let builder = tenure::Client::builder("redis://127.0.0.1").namespace("ml");
    /// ```
    pub fn namespace(mut self, namespace: impl AsRef<str>) -> Self {
        self.namespace = Some(namespace.as_ref().to_owned());
        self
    }

    /// The identity of the holder, as other clients see it. Default: [`Identity::from_env`].
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

    /// The prefix of all keys and channels. Default: `tenure`. Clients and controller must use the same.
    ///
    /// It is checked by [`ClientBuilder::connect`]: 1 to 64 ASCII letters, digits and `- _ . :`.
    ///
    /// ```
    /// let builder = tenure::Client::builder("redis://127.0.0.1").key_prefix("staging");
    /// ```
    pub fn key_prefix(mut self, prefix: impl AsRef<str>) -> Self {
        prefix.as_ref().clone_into(&mut self.prefix);
        self
    }

    /// The time for which [`ClientBuilder::connect`] tries, 1 ms or longer; more than ten years count as ten. Default:
    /// 10 s.
    ///
    /// ```
    /// let patient = std::time::Duration::from_secs(60);
    /// let builder = tenure::Client::builder("redis://127.0.0.1").connect_timeout(patient);
    /// ```
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// The longest time for one command, after which the connection counts as broken, 1 ms or longer. Default: 3 s. It
    /// should be well below a lease, so that a second attempt fits in.
    ///
    /// The client asks a server for its time if it has been silent for this long, but at least 1 s and at most 10 s: a
    /// dead connection is noticed within twice as long, also by an idle client.
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
    /// That feature turns on the feature `ring` of the crate rustls. If another dependency turns on its feature
    /// `aws-lc-rs` as well, rustls selects no provider of cryptography: the program has to install one with
    /// `CryptoProvider::install_default` before it connects. Without it, [`connect`](Self::connect) returns
    /// [`Error::InvalidInput`].
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
        self.tls.ca = Some(crate::transport::tls::Pem::Is(pem.into().into()));
        self
    }

    /// As [`tls_ca`](Self::tls_ca), from a file that is read when the client is built and again at each connect, so
    /// that certificates can be replaced while the client runs. If the file cannot be read or used at a connect, Redis
    /// counts as unreachable until it can.
    ///
    /// ```no_run
    /// # async fn run() -> Result<(), tenure::Error> {
    /// let client = tenure::Client::builder("rediss://redis.tenure")
    ///     .tls_ca_file("/etc/redis-tls/ca.crt")
    ///     .tls_client_certificate_files("/etc/redis-tls/tls.crt", "/etc/redis-tls/tls.key")
    ///     .connect()
    ///     .await?;
    /// # Ok(()) }
    /// ```
    #[cfg(feature = "tls")]
    pub fn tls_ca_file(mut self, path: impl Into<std::path::PathBuf>) -> Self {
        self.tls.ca = Some(crate::transport::tls::Pem::file(path));
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
        let (certificate, key) = (certificate.into().into(), key.into().into());
        self.tls.client = Some((
            crate::transport::tls::Pem::Is(certificate),
            crate::transport::tls::Pem::Is(key),
        ));
        self
    }

    /// As [`tls_client_certificate`](Self::tls_client_certificate), from files that are read as those of
    /// [`tls_ca_file`](Self::tls_ca_file).
    ///
    /// ```
    /// let builder = tenure::Client::builder("rediss://redis.tenure")
    ///     .tls_client_certificate_files("/etc/redis-tls/tls.crt", "/etc/redis-tls/tls.key");
    /// ```
    #[cfg(feature = "tls")]
    pub fn tls_client_certificate_files(
        mut self,
        certificate: impl Into<std::path::PathBuf>,
        key: impl Into<std::path::PathBuf>,
    ) -> Self {
        self.tls.client = Some((
            crate::transport::tls::Pem::file(certificate),
            crate::transport::tls::Pem::file(key),
        ));
        self
    }

    /// Also receive the events of [`Control::events`](crate::Control::events), as a controller does.
    ///
    /// ```
    /// let builder = tenure::Client::builder("redis://127.0.0.1").with_events();
    /// ```
    pub fn with_events(mut self) -> Self {
        self.listen = Some(|prefix, _namespace| channel::of_events(prefix));
        self
    }

    /// As [`with_events`](Self::with_events), of the objects of the client's own namespace alone: for a user that has no more rights.
    ///
    /// ```
    /// let builder = tenure::Client::builder("redis://127.0.0.1").namespace("ml").with_namespace_events();
    /// ```
    pub fn with_namespace_events(mut self) -> Self {
        self.listen = Some(channel::of_event);
        self
    }
}

impl Client {
    /// Connects with the settings of the environment: see [`Client::builder_from_env`]. In a pod with the Secret `tenure-access`, no
    /// other setting is needed.
    ///
    /// # Errors
    /// As [`Client::builder_from_env`] and [`ClientBuilder::connect`].
    ///
    /// ```no_run
    /// # async fn run() -> Result<(), tenure::Error> {
    /// let client = tenure::Client::from_env().await?;
    /// # Ok(()) }
    /// ```
    pub async fn from_env() -> Result<Self, Error> {
        Self::builder_from_env()?.connect().await
    }

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
    pub async fn connect(url: impl AsRef<str>) -> Result<Self, Error> {
        Self::builder(url).connect().await
    }

    /// Sets up a client for one of
    ///
    /// | URL | leads to |
    /// |---|---|
    /// | `redis://[user][:password@]host[:port][/database]` | a server, or any one of a Redis Cluster: which of the two is found out |
    /// | the same with several hosts, `one:6379,two:6379` | the first that answers and is no replica; or a cluster with several places to ask |
    /// | `redis+sentinel://[user][:password@]host[:port][,host[:port]]/service[/database]` | the master that most of these Sentinels name, asked at each connect. User, password and database are those of the Redis servers; the Sentinels' own, if they have any, stand behind it: `?sentinel_username=…&sentinel_password=…` |
    /// | `rediss://`, `rediss+sentinel://` and the same | with TLS: needs the feature `tls` |
    /// | `unix:///path[?db=…][&user=…][&pass=…]` | a server on this machine, by its socket |
    ///
    /// Ports are 1 to 65535, by default 6379 and those of Sentinels 26379. Databases are numbers from 0, the default. User
    /// names and passwords are percent-encoded. `valkey` and `valkeys` are other names of the schemes `redis` and `rediss`.
    ///
    /// The URL is checked by [`ClientBuilder::connect`]: [`Error::InvalidInput`] on `url` names the part that is not usable,
    /// and shows no password.
    ///
    /// ```no_run
    /// # async fn run() -> Result<(), tenure::Error> {
    /// let client = tenure::Client::builder("redis://127.0.0.1").namespace("ml").connect().await?;
    /// # Ok(()) }
    /// ```
    pub fn builder(url: impl AsRef<str>) -> ClientBuilder {
        ClientBuilder::at(url.as_ref())
    }
}

#[cfg(feature = "memory")]
impl Memory {
    /// Sets up a client of this server, as [`Client::builder`](crate::Client::builder) does for one at a URL. User name and
    /// password mean nothing here.
    ///
    /// ```
    /// let memory = tenure::Memory::new();
    /// let builder = memory.client().namespace("ml");
    /// ```
    pub fn client(&self) -> ClientBuilder {
        ClientBuilder::in_memory(self.clone())
    }
}

impl fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither the URL nor the credentials: they may hold a password.
        f.debug_struct("ClientBuilder")
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}
