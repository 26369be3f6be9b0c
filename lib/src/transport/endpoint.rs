//! Makes the driver's clients for the servers of a URL, with its credentials and TLS settings.

use std::{sync::Arc, time::Duration};

use redis::{
    AsyncConnectionConfig, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion,
    RedisConnectionInfo,
    io::tcp::{TcpSettings, socket2::TcpKeepalive},
};

#[cfg(feature = "tls")]
use crate::transport::tls::Tls;
use crate::{
    Credentials, CredentialsProvider, Error,
    transport::{
        resolver::Resolver,
        url::{self, unusable},
    },
};

/// Load balancers forget idle connections after a minute at the earliest.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// Small calls go out at once, and what lies between knows for as long as a connection is idle that it is not forgotten.
fn tcp_settings() -> TcpSettings {
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE)
        .with_interval(KEEPALIVE / 3);
    TcpSettings::default().set_nodelay(true).set_keepalive(keepalive)
}

/// The credentials and TLS settings, for any server.
pub(crate) struct Access {
    settings: RedisConnectionInfo,
    /// Knows the credentials, in place of the settings.
    provider: Option<Arc<dyn CredentialsProvider>>,
    /// Finds the servers' addresses, in place of the system.
    resolver: Option<Resolver>,
    #[cfg(feature = "tls")]
    tls: Option<Tls>,
}

/// The servers that an [`Access`] is for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Servers {
    Redis,
    Sentinels,
}

impl Servers {
    /// The error of a user without a password, which the driver would not send at all. The user stands in the URL, or is
    /// `given` to the builder.
    fn no_password(self, given: bool) -> Error {
        match self {
            Self::Redis if given => Error::invalid(
                "username",
                "is set, and there is no password",
                "set one, too (ClientBuilder::password); a user that needs none accepts any",
            ),
            Self::Redis => url::invalid(
                "has a user and no password",
                "write user:password@ (?user=USER&pass=PASSWORD for a socket), :password@ for a password alone, or use \
                 ClientBuilder::password; a user that needs none accepts any",
            ),
            Self::Sentinels if given => Error::invalid(
                "sentinel_credentials",
                "have a user and no password",
                "set both; a user that needs none accepts any",
            ),
            Self::Sentinels => url::invalid(
                "has a sentinel_username and no password of the Sentinels",
                "add &sentinel_password=PASSWORD, or use ClientBuilder::sentinel_credentials",
            ),
        }
    }
}

impl Access {
    /// An empty user or password counts as none.
    pub(crate) fn new(
        servers: Servers,
        settings: RedisConnectionInfo,
        credentials: (Option<&str>, Option<&str>),
        provider: Option<Arc<dyn CredentialsProvider>>,
        resolver: Option<Resolver>,
        #[cfg(feature = "tls")] tls: Option<Tls>,
    ) -> Result<Self, Error> {
        let mut settings = settings
            .set_protocol(ProtocolVersion::RESP3)
            .set_skip_set_lib_name();
        let given = credentials.0.filter(|username| !username.is_empty());
        if let Some(username) = given {
            settings = settings.set_username(username);
        }
        if let Some(password) = credentials.1.filter(|password| !password.is_empty()) {
            settings = settings.set_password(password);
        }
        if provider.is_none() && settings.username().is_some() && settings.password().is_none() {
            return Err(servers.no_password(given.is_some()));
        }
        Ok(Self {
            settings,
            provider,
            resolver,
            #[cfg(feature = "tls")]
            tls,
        })
    }

    /// The settings of a connection, with a timeout for the connect and for each command.
    pub(crate) fn connection(&self, timeout: Duration) -> AsyncConnectionConfig {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(timeout))
            .set_response_timeout(Some(timeout));
        match &self.resolver {
            Some(resolver) => config.set_dns_resolver(resolver.clone()),
            None => config,
        }
    }

    /// The number of the database.
    pub(crate) fn database(&self) -> i64 {
        self.settings.db()
    }

    /// The credentials to use now, if they change; the settings have them otherwise.
    pub(crate) async fn credentials(&self, patience: Duration) -> Result<Option<Credentials>, Error> {
        let Some(provider) = &self.provider else {
            return Ok(None);
        };
        let failed = |reason: String| Error::Unreachable {
            reason: format!("the credentials provider failed: {reason}"),
        };
        match tokio::time::timeout(patience, provider.credentials()).await {
            Ok(Ok(credentials)) => Ok(Some(credentials)),
            Ok(Err(error)) => Err(failed(error.to_string())),
            Err(_elapsed) => Err(failed(format!("nothing within {patience:?}"))),
        }
    }

    /// The client with the credentials and certificates to use now, and the credentials if they change.
    pub(crate) async fn current(
        &self,
        client: &redis::Client,
        patience: Duration,
    ) -> Result<(redis::Client, Option<Credentials>), Error> {
        let credentials = self.credentials(patience).await?;
        let mut info = client.get_connection_info().clone();
        if let Some(credentials) = &credentials {
            let mut settings = info.redis_settings().clone().set_password(&credentials.password);
            if let Some(username) = &credentials.username {
                settings = settings.set_username(username);
            }
            info = info.set_redis_settings(settings);
        }
        #[cfg(feature = "tls")]
        if let Some(tls) = self.tls.clone().filter(Tls::changes) {
            let read = tokio::task::spawn_blocking(move || tls.client(info)).await;
            // The files may be about to be replaced: the next connect reads them again.
            let client = read
                .map_err(|error| error.to_string())
                .and_then(|client| client.map_err(|error| error.to_string()))
                .map_err(|reason| Error::Unreachable { reason })?;
            return Ok((client, credentials));
        }
        if credentials.is_none() {
            return Ok((client.clone(), None));
        }
        let client = redis::Client::open(info)
            .map_err(|error| unusable(format!("is not usable ({})", error.category())))?;
        Ok((client, credentials))
    }

    /// No connection is made yet.
    pub(crate) fn client(&self, info: ConnectionInfo) -> Result<redis::Client, Error> {
        let info = info
            .set_redis_settings(self.settings.clone())
            .set_tcp_settings(tcp_settings());
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            return tls.client(info);
        }
        redis::Client::open(info).map_err(|error| unusable(format!("is not usable ({})", error.category())))
    }

    /// A server that another one has named.
    pub(crate) fn client_at(&self, host: &str, port: u16) -> Result<redis::Client, Error> {
        let host = host.to_owned();
        #[cfg(feature = "tls")]
        let secure = self.tls.is_some();
        #[cfg(not(feature = "tls"))]
        let secure = false;
        let addr = if secure {
            ConnectionAddr::TcpTls {
                host,
                port,
                insecure: false,
                tls_params: None,
            }
        } else {
            ConnectionAddr::Tcp(host, port)
        };
        let info = addr
            .into_connection_info()
            .map_err(|error| super::unreachable("a server's address", error))?;
        self.client(info)
    }
}

/// The address of a client, for people.
pub(crate) fn of(client: &redis::Client) -> String {
    match client.get_connection_info().addr() {
        ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => join(host, *port),
        ConnectionAddr::Unix(path) => path.display().to_string(),
        other => other.to_string(),
    }
}

/// Host and port, as Redis writes them.
pub(crate) fn join(host: &str, port: u16) -> String {
    format!("{host}:{port}")
}
