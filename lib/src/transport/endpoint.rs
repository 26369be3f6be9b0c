//! Reads a URL: its servers or Sentinels, and the credentials.

use std::{sync::Arc, time::Duration};

use redis::{
    ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion, RedisConnectionInfo,
    io::tcp::{TcpSettings, socket2::TcpKeepalive},
};

#[cfg(feature = "tls")]
use crate::transport::tls::Tls;
use crate::{Credentials, CredentialsProvider, Error, protocol::error::ESCAPES};

const FORMS: &str = "use redis://[user][:password@]host[:port][,host[:port]][/database], \
                     redis+sentinel://[user][:password@]host[:port][,host[:port]]/service[/database]\
                     [?sentinel_username=USER&sentinel_password=PASSWORD], \
                     or for TLS the same with rediss:// or rediss+sentinel://";
/// Load balancers forget idle connections after a minute at the earliest.
const KEEPALIVE: Duration = Duration::from_secs(15);
const SENTINEL_PORT: u16 = 26379;

/// The content of a URL.
#[derive(Debug)]
pub(crate) struct ParsedUrl {
    pub(crate) hosts: Vec<ConnectionInfo>,
    pub(crate) sentinel: Option<Sentinel>,
    /// With TLS.
    #[cfg_attr(not(feature = "tls"), allow(dead_code))]
    pub(crate) secure: bool,
}

/// That the hosts are Sentinels.
#[derive(Debug, Clone)]
pub(crate) struct Sentinel {
    /// The service that they watch.
    pub(crate) service: String,
    /// With their own user and password.
    pub(crate) settings: RedisConnectionInfo,
}

pub(crate) fn unusable(problem: impl Into<String>) -> Error {
    Error::invalid("url", problem, FORMS)
}

/// Reads a URL. Its errors do not show it: it may hold a password.
pub(crate) fn read(url: &str) -> Result<ParsedUrl, Error> {
    let (scheme, rest) = url.split_once("://").ok_or_else(|| unusable("has no scheme"))?;
    let secure = scheme.starts_with("rediss") || scheme == "valkeys";
    if let Some(problem) = tls_problem(secure, rest, cfg!(feature = "tls")) {
        return Err(unusable(problem));
    }
    let parse = |url: &str| {
        url.into_connection_info().map_err(|error| {
            unescaped(rest).unwrap_or_else(|| unusable(format!("is not usable ({})", error.category())))
        })
    };
    if scheme.ends_with("unix") {
        return Ok(ParsedUrl {
            hosts: vec![parse(url)?],
            sentinel: None,
            secure: false,
        });
    }
    // Nothing reads what stands behind it: a password would end there.
    if rest.contains('#') {
        return Err(unescaped(rest).unwrap_or_else(|| escape('#')));
    }
    let (authority, tail) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let (user, hosts) = match authority.rsplit_once('@') {
        Some((user, hosts)) => (format!("{user}@"), hosts),
        None => (String::new(), authority),
    };
    let Some(scheme) = scheme.strip_suffix("+sentinel") else {
        let hosts = hosts
            .split(',')
            .map(|host| parse(&format!("{scheme}://{user}{host}{tail}")));
        return Ok(ParsedUrl {
            hosts: hosts.collect::<Result<_, _>>()?,
            sentinel: None,
            secure,
        });
    };
    let path = tail.strip_prefix('/').unwrap_or(tail);
    let (service, tail) = path.split_at(path.find(['/', '?', '#']).unwrap_or(path.len()));
    if service.is_empty() {
        return Err(unusable("does not say which service of the Sentinels"));
    }
    let hosts = hosts.split(',').map(|host| {
        let has_port = host.rsplit(']').next().is_some_and(|end| end.contains(':'));
        let port = if has_port {
            String::new()
        } else {
            format!(":{SENTINEL_PORT}")
        };
        parse(&format!("{scheme}://{user}{host}{port}{tail}"))
    });
    let hosts: Vec<_> = hosts.collect::<Result<_, _>>()?;
    let query = tail.split_once('?').map_or("", |(_, query)| query);
    let parameter = |key: &str| {
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs
            .find(|(name, _)| *name == key)
            .map_or("", |(_, value)| value)
    };
    // The driver takes the escapes out of what stands before a host.
    let (username, password) = (parameter("sentinel_username"), parameter("sentinel_password"));
    let own = parse(&format!("redis://{username}:{password}@sentinel"))?;
    Ok(ParsedUrl {
        hosts,
        sentinel: Some(Sentinel {
            service: service.to_owned(),
            settings: own.redis_settings().clone(),
        }),
        secure,
    })
}

/// A character that ends the user name or password early, if one seems to. It is the character alone that is shown.
fn unescaped(rest: &str) -> Option<Error> {
    let (before, _) = rest.rsplit_once('@')?;
    before.chars().find(|c| "/?#".contains(*c)).map(escape)
}

fn escape(character: char) -> Error {
    let problem = format!("has the character {character}, which ends a user name or password");
    Error::invalid("url", problem, format!("if it belongs to one, {ESCAPES}"))
}

/// Returns the problem of the URL that concerns TLS, if any.
fn tls_problem(wanted: bool, rest: &str, built_in: bool) -> Option<&'static str> {
    if wanted && !built_in {
        return Some("asks for TLS, which needs the feature `tls` of the crate tenure");
    }
    (wanted && rest.ends_with("#insecure"))
        .then_some("asks for TLS without a check of the server's certificate, which protects from nobody")
}

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
    #[cfg(feature = "tls")]
    tls: Option<Tls>,
}

impl Access {
    pub(crate) fn new(
        settings: RedisConnectionInfo,
        credentials: (Option<&str>, Option<&str>),
        provider: Option<Arc<dyn CredentialsProvider>>,
        #[cfg(feature = "tls")] tls: Option<Tls>,
    ) -> Self {
        let mut settings = settings
            .set_protocol(ProtocolVersion::RESP3)
            .set_skip_set_lib_name();
        if let Some(username) = credentials.0 {
            settings = settings.set_username(username);
        }
        if let Some(password) = credentials.1.filter(|password| !password.is_empty()) {
            settings = settings.set_password(password);
        }
        Self {
            settings,
            provider,
            #[cfg(feature = "tls")]
            tls,
        }
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

#[cfg(test)]
mod tests {
    use super::{read, tls_problem};

    fn hosts(url: &str) -> Vec<String> {
        let named = read(url).unwrap();
        named.hosts.iter().map(|info| info.addr().to_string()).collect()
    }

    #[test]
    fn one_host_several_and_sentinels() {
        assert_eq!(hosts("redis://one"), ["one:6379"]);
        assert_eq!(
            hosts("redis://user:secret@one:7001,two,[::1]:7003"),
            ["one:7001", "two:6379", "::1:7003"]
        );
        assert_eq!(
            hosts("redis+sentinel://one,two:7,[::1]/main"),
            ["one:26379", "two:7", "::1:26379"]
        );
    }

    #[test]
    fn service_database_and_credentials_are_those_of_the_servers() {
        let url = "redis+sentinel://user:p%40ss@one,two/main/3?sentinel_username=u&sentinel_password=%40s";
        let named = read(url).unwrap();
        let sentinel = named.sentinel.unwrap();
        assert_eq!(sentinel.service, "main");
        let own = &sentinel.settings;
        assert_eq!(
            (own.db(), own.username(), own.password()),
            (0, Some("u"), Some("@s"))
        );
        for info in &named.hosts {
            let settings = info.redis_settings();
            assert_eq!(settings.db(), 3);
            assert_eq!(settings.username(), Some("user"));
            assert_eq!(settings.password(), Some("p@ss"));
        }
        let plain = read("redis+sentinel://one/main").unwrap().sentinel.unwrap();
        assert_eq!(
            (plain.settings.username(), plain.settings.password()),
            (None, None)
        );
        assert!(read("redis://one/3").unwrap().sentinel.is_none());
    }

    #[test]
    fn a_url_that_names_nothing_usable_is_refused_without_being_shown() {
        for (url, problem) in [
            ("one:6379", "no scheme"),
            ("redis+sentinel://one:secret@two", "which service"),
            ("redis+sentinel://one:secret@two/", "which service"),
            ("redis://one:secret@two,,three", "not usable"),
            ("redis://:secret@two/x", "not usable"),
            ("redis://:secret#1@two", "character #"),
            ("redis://:secret/1@two", "character /"),
            ("redis://:secret?1@two", "character ?"),
            ("redis://two#secret", "character #"),
            (
                "redis+sentinel://one/main?sentinel_password=secret#1",
                "character #",
            ),
        ] {
            let error = read(url).unwrap_err().to_string();
            assert!(
                error.starts_with("url ") && error.contains(problem),
                "{url}: {error}"
            );
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn tls_needs_its_feature_and_a_check_of_the_certificate() {
        assert_eq!(tls_problem(false, "host", false), None);
        assert_eq!(tls_problem(true, "host", true), None);
        let problem = tls_problem(true, "host", false).unwrap();
        assert!(problem.contains("feature `tls`"));
        let problem = tls_problem(true, "host/#insecure", true).unwrap();
        assert!(problem.contains("certificate"));
    }

    #[cfg(feature = "tls")]
    #[test]
    fn every_scheme_with_tls_is_seen_as_one() {
        for url in ["rediss://host", "rediss+sentinel://host/main", "valkeys://host"] {
            assert!(read(url).unwrap().secure, "{url}");
        }
    }
}
