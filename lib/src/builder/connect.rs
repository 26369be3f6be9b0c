//! Connecting: from the settings to a client.

use std::sync::{Arc, Mutex};

use redis::RedisConnectionInfo;
use tokio::sync::mpsc;

#[cfg(feature = "memory")]
use crate::memory;
use crate::{
    Client, ClientBuilder, CredentialsProvider, Error,
    builder::{SHORTEST_TIMEOUT, Server, UserAndPassword},
    control,
    lease::{registry::LeaseRegistry, releaser, renewer, session::Session},
    protocol::{
        channel::ClientChannels,
        name::{check_namespace, check_prefix},
    },
    transport::{
        backend::Channels,
        cluster::ClusterSeeds,
        connection::{ConnectionConfig, Endpoint},
        endpoint::{self, Access, Servers},
        later,
        resolver::Resolver,
        router::Router,
        sentinel::Sentinels,
        uptime::Uptime,
        url::{self, Sentinel},
    },
};

impl ClientBuilder {
    /// Connects, to any master of a cluster, and tries for as long as [`ClientBuilder::connect_timeout`]: Redis may
    /// start after its clients.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] names the setting, [`Error::Authentication`] and [`Error::UnsupportedServer`] come at
    /// once (with a provider of credentials, the former after the timeout), [`Error::Unreachable`] after the timeout, with what
    /// the last try met.
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
        let until = later(self.connect_timeout);
        let client = self.connect_lazily()?;
        client.session.link.connected(until).await?;
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
        check_prefix(&self.prefix)?;
        self.identity.check()?;
        for (field, timeout) in [
            ("connect_timeout", self.connect_timeout),
            ("response_timeout", self.response_timeout),
        ] {
            if timeout < SHORTEST_TIMEOUT {
                return Err(Error::invalid(
                    field,
                    format!("is {timeout:?}"),
                    "use at least 1 ms",
                ));
            }
        }
        let (uptime, draw) = self.sources();
        let uptime = Arc::new(uptime);
        let registry = Arc::new(LeaseRegistry::new(uptime.clone()));
        let client: Arc<str> = draw().simple().to_string().into();
        let own = ClientChannels::new(&self.prefix, &namespace, &client);
        let mut config = ConnectionConfig {
            channels: Channels {
                own: own.clone(),
                events: self.listen.map(|channels| channels(&self.prefix, &namespace)),
            },
            response_timeout: self.response_timeout,
            receiver: registry.clone(),
            credentials_change: self.provider.is_some() || self.sentinel_provider.is_some(),
            accepted: Mutex::default(),
            uptime,
            draw,
        };
        let mut events = None;
        if self.listen.is_some() {
            let mailbox = Arc::new(control::Mailbox::new(&self.prefix, own, registry.clone()));
            config.receiver = mailbox.clone();
            events = Some(mailbox);
        }
        let holder = self.identity.holder("")?;
        let link = self.link(Arc::new(config))?;
        let (jobs, jobs_in) = mpsc::unbounded_channel();
        tokio::spawn(renewer::run(
            registry.clone(),
            link.clone(),
            client.clone(),
            jobs.clone(),
        ));
        tokio::spawn(releaser::run(jobs_in, link.clone()));
        let session = Session {
            link,
            registry,
            jobs,
            client,
            identity: self.identity,
            holder,
            prefix: self.prefix,
            namespace,
        };
        Ok(Client {
            session: Arc::new(session),
            events,
        })
    }

    /// The clock of the client, and the source of its tokens. Those of the in-memory server follow its seed.
    fn sources(&self) -> (Uptime, Box<dyn Fn() -> uuid::Uuid + Send + Sync>) {
        match &self.server {
            Server::At(_) => (Uptime::system(), Box::new(uuid::Uuid::new_v4)),
            #[cfg(feature = "memory")]
            Server::InMemory(memory) => {
                let (clock, random) = (memory.clone(), memory.clone());
                (
                    Uptime::with_suspends(move || clock.suspended()),
                    Box::new(move || uuid::Uuid::from_u128(random.draw())),
                )
            }
        }
    }

    fn link(&self, config: Arc<ConnectionConfig>) -> Result<Router, Error> {
        #[allow(
            clippy::infallible_destructuring_match,
            reason = "there is another variant with the feature `memory`"
        )]
        let url = match &self.server {
            Server::At(url) => url,
            #[cfg(feature = "memory")]
            Server::InMemory(memory) => {
                let process = self.identity.process.as_str().into();
                let server = memory::ProcessServer {
                    memory: memory.clone(),
                    process,
                };
                let endpoint = Endpoint::Local(Arc::new(server));
                return Ok(Router::start(
                    "the in-memory twin".to_owned(),
                    endpoint,
                    config,
                    None,
                ));
            }
        };
        let named = url::read(url)?;
        #[cfg(feature = "tls")]
        if !named.secure && self.tls.is_given() {
            return Err(url::invalid(
                "has a scheme without TLS, but certificates are given",
                "use rediss:// or rediss+sentinel://, or set no certificates",
            ));
        }
        let settings = named.hosts.first().map(|host| host.redis_settings().clone());
        let access = |servers: Servers,
                      settings: RedisConnectionInfo,
                      credentials: &UserAndPassword,
                      provider: &Option<Arc<dyn CredentialsProvider>>| {
            let credentials = (credentials.0.as_deref(), credentials.1.as_deref());
            let (provider, resolver) = (provider.clone(), self.resolver.clone().map(Resolver));
            #[cfg(feature = "tls")]
            return Access::new(
                servers,
                settings,
                credentials,
                provider,
                resolver,
                named.secure.then(|| self.tls.clone()),
            );
            #[cfg(not(feature = "tls"))]
            Access::new(servers, settings, credentials, provider, resolver)
        };
        let redis = Arc::new(access(
            Servers::Redis,
            settings.unwrap_or_default(),
            &self.credentials,
            &self.provider,
        )?);
        let clients = |access: &Access| -> Result<Vec<_>, Error> {
            let hosts = named.hosts.iter().cloned();
            hosts.map(|host| access.client(host)).collect()
        };
        if let Some(Sentinel { service, settings }) = named.sentinel.clone() {
            let own = access(
                Servers::Sentinels,
                settings,
                &self.sentinel_credentials,
                &self.sentinel_provider,
            )?;
            let sentinels = Sentinels {
                service: service.clone(),
                asked: clients(&own)?,
                own,
                access: redis,
                patience: self.response_timeout,
            };
            return Ok(Router::start(
                service,
                Endpoint::Sentinels(sentinels),
                config,
                None,
            ));
        }
        let servers = clients(&redis)?;
        let address = servers.iter().map(endpoint::of).collect::<Vec<_>>().join(", ");
        let seeds = ClusterSeeds {
            access: redis.clone(),
            config: config.clone(),
            seeds: servers.clone(),
        };
        Ok(Router::start(
            address,
            Endpoint::At(servers, redis),
            config,
            Some(seeds),
        ))
    }
}
