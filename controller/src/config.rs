//! Config: flags and environment variables.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use clap::{Parser, ValueEnum};
use jiff::SignedDuration;
use tenure::CredentialsProvider;

use crate::bundled::credentials::OwnPasswords;

/// Declares LockPools and Semaphores in Redis, gives back what ended pods held, and reports in each object's status who
/// holds and who waits.
///
/// The controller never grants anything: programs talk to Redis themselves, through the library. It may be stopped,
/// killed or away for a while without any effect on who holds what.
///
/// The API server is found as kubectl finds it: through KUBECONFIG or ~/.kube/config, and in a pod through its service
/// account.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "tenure-controller",
    version,
    max_term_width = 100,
    args_override_self = true
)]
pub(crate) struct Config {
    // No doc comment: that would have to mark the URL up.
    #[arg(
        long,
        help = "Where Redis is: redis://host[:port][/database], one server or any one of a cluster; \
                redis+sentinel://host[:port][,host[:port]]/service[/database]; with TLS rediss for redis",
        env = "TENURE_REDIS_URL",
        hide_env_values = true,
        default_value = "redis://127.0.0.1:6379",
        value_name = "URL"
    )]
    pub(crate) redis_url: String,

    /// User name in Redis, if its ACL has one for Tenure
    #[arg(long, env = "TENURE_REDIS_USERNAME", value_name = "NAME")]
    pub(crate) redis_username: Option<String>,

    /// File with the password for Redis, such as a mounted Secret; a line break at its end does not count, and it is
    /// read again when it changes
    #[arg(long, env = "TENURE_REDIS_PASSWORD_FILE", value_name = "FILE")]
    pub(crate) redis_password_file: Option<PathBuf>,

    /// Secret with the password for Redis in the key password, as NAMESPACE/NAME, in place of the file. It is made if it is missing in the
    /// Secret, replaced when the annotation tenure.dev/rotate changes, and the only one of the controller's user in Redis, beside
    /// the key previous-password. That user needs the rights that docs/redis.md lists for --access
    #[arg(long, env = "TENURE_REDIS_SECRET", value_name = "NAMESPACE/NAME", value_parser = secret, conflicts_with = "redis_password_file")]
    pub(crate) redis_secret: Option<(String, String)>,

    /// Secret that gets a random password in the key node-password, as NAMESPACE/NAME: the servers of a replicated Redis share it. It is
    /// written if it is missing, and never replaced
    #[arg(long, env = "TENURE_REDIS_NODE_SECRET", value_name = "NAMESPACE/NAME", value_parser = secret)]
    pub(crate) redis_node_secret: Option<(String, String)>,

    /// Secret that gets a certificate for Redis and the authority that has signed it, as NAMESPACE/NAME. The file of --redis-ca-file is
    /// written with that authority
    #[arg(
        long,
        env = "TENURE_REDIS_TLS_SECRET",
        value_name = "NAMESPACE/NAME",
        value_parser = secret,
        requires = "redis_ca_file",
        requires = "redis_tls_names"
    )]
    pub(crate) redis_tls_secret: Option<(String, String)>,

    /// The names and IP addresses in that certificate, separated by commas
    #[arg(
        long,
        env = "TENURE_REDIS_TLS_NAMES",
        value_delimiter = ',',
        value_name = "NAMES"
    )]
    pub(crate) redis_tls_names: Vec<String>,

    /// File with the certificate authorities, in PEM, of which one must have signed the certificate of Redis; the system's
    /// if absent. This file and those of the client certificate are read again at each connect
    #[arg(long, env = "TENURE_REDIS_CA_FILE", value_name = "FILE")]
    pub(crate) redis_ca_file: Option<PathBuf>,

    /// File with the certificate, in PEM, to show to a Redis that asks for one
    #[arg(
        long,
        env = "TENURE_REDIS_CLIENT_CERT_FILE",
        value_name = "FILE",
        requires = "redis_client_key_file"
    )]
    pub(crate) redis_client_cert_file: Option<PathBuf>,

    /// File with the private key of that certificate, in PEM
    #[arg(
        long,
        env = "TENURE_REDIS_CLIENT_KEY_FILE",
        value_name = "FILE",
        requires = "redis_client_cert_file"
    )]
    pub(crate) redis_client_key_file: Option<PathBuf>,

    /// The prefix of all keys in Redis; the programs that hold and wait must use the same
    #[arg(
        long,
        env = "TENURE_REDIS_KEY_PREFIX",
        default_value = "tenure",
        value_name = "PREFIX"
    )]
    pub(crate) redis_key_prefix: String,

    /// Namespaces to work in, separated by commas; all of them if absent
    #[arg(long, env = "TENURE_WATCH_NAMESPACES", value_delimiter = ',', value_name = "NAMESPACES", value_parser = namespace)]
    pub(crate) watch_namespaces: Vec<String>,

    /// The ConfigMap that backs the fencing tokens of all objects after a loss of data, as NAMESPACE/NAME; controllers of the
    /// same objects must share it. It is made if it is missing and that is allowed. If absent, the status of each object is
    /// written before the object is declared again, and a recovery takes longer the more objects there are
    #[arg(long, env = "TENURE_EPOCH_RECORD", value_name = "NAMESPACE/NAME", value_parser = config_map)]
    pub(crate) epoch_record: Option<(String, String)>,

    /// The identity of this installation, as NAMESPACE/NAME of a Lease, by default of the name of --epoch-record; controllers of
    /// the same objects must share it. It is recorded in the status of each object, and an installation leaves the objects of
    /// another one alone while the Lease of that one exists. The Lease is made if it is missing and that is allowed. If absent,
    /// nothing is recorded, and the objects of other installations are left alone
    #[arg(long, env = "TENURE_INSTALLATION", value_name = "NAMESPACE/NAME", value_parser = lease)]
    pub(crate) installation: Option<(String, String)>,

    /// Give each allowed namespace a Redis user that reaches its objects alone, and keep the user's credentials in a Secret
    /// tenure-access of the namespace. A namespace is allowed by the label tenure.dev/access: "true", or by --access-namespaces.
    /// The controller's own Redis user needs the rights that docs/redis.md lists for this
    #[arg(long, env = "TENURE_ACCESS")]
    pub(crate) access: bool,

    /// Namespaces that are allowed without the label, separated by commas
    #[arg(long, env = "TENURE_ACCESS_NAMESPACES", value_delimiter = ',', value_name = "NAMESPACES", value_parser = namespace)]
    pub(crate) access_namespaces: Vec<String>,

    /// The URL of Redis in the Secrets, without credentials; that of --redis-url without its credentials if absent
    #[arg(
        long,
        env = "TENURE_ACCESS_REDIS_URL",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub(crate) access_redis_url: Option<String>,

    /// The age at which a password is replaced, such as 720h; 0s: never
    #[arg(long, env = "TENURE_ACCESS_MAX_AGE", default_value = "720h", value_name = "DURATION", value_parser = duration_or_zero)]
    pub(crate) access_max_age: Duration,

    /// The time for which a password that was replaced stays valid; pods that got it as an environment variable must have
    /// been restarted by then
    #[arg(long, env = "TENURE_ACCESS_OVERLAP", default_value = "24h", value_name = "DURATION", value_parser = duration)]
    pub(crate) access_overlap: Duration,

    /// The address for /livez, /readyz and /metrics, by default of this machine alone; 0.0.0.0 serves other machines, as probes
    /// of a cluster need, and port 0 takes a free port, which the log shows
    #[arg(long, env = "TENURE_LISTEN", default_value = "127.0.0.1:8080", value_name = "ADDRESS:PORT", value_parser = address)]
    pub(crate) listen: SocketAddr,

    /// The format of the log, which goes to standard error
    #[arg(long, env = "TENURE_LOG_FORMAT", value_enum, default_value_t = LogFormat::Human, value_name = "FORMAT")]
    pub(crate) log_format: LogFormat,

    /// The level of the log: error, warn, info, debug or trace; or a list such as info,kube=debug
    #[arg(long, env = "TENURE_LOG_LEVEL", default_value = "info", value_name = "LEVEL", value_parser = log_level)]
    pub(crate) log_level: String,

    /// The time for which holders of a deleted object with deletionPolicy Drain may keep their leases, such as 300s or
    /// 1h
    #[arg(long, env = "TENURE_DRAIN_TIMEOUT", default_value = "300s", value_name = "DURATION", value_parser = duration)]
    pub(crate) drain_timeout: Duration,

    /// The time for which Redis may be unreachable before a deleted object is released without its keys being removed
    #[arg(long, env = "TENURE_CLEANUP_TIMEOUT", default_value = "60s", value_name = "DURATION", value_parser = duration)]
    pub(crate) cleanup_timeout: Duration,
}

/// A form of the log.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Lines for people
    Human,
    /// One JSON object a line
    Json,
}

/// A setting that cannot be used; names it, and the action that mends it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error(
        "--redis-password-file: {0}: write the password into a file that this user may read, or leave the flag out"
    )]
    Password(Box<dyn std::error::Error + Send + Sync>),
    #[error("{flag}: {source}")]
    Redis {
        flag: &'static str,
        source: tenure::Error,
    },
    #[error("{flag} {problem}")]
    Access { flag: &'static str, problem: String },
}

impl Config {
    /// A client for Redis that connects as soon as Redis is there, with the passwords of the Secret, if there is one.
    pub(crate) async fn redis(&self, own: Option<Arc<OwnPasswords>>) -> Result<tenure::Client, ConfigError> {
        let mut builder = tenure::Client::builder(&self.redis_url)
            // The controller has objects in all namespaces and none of its own.
            .namespace("default")
            .key_prefix(&self.redis_key_prefix)
            .with_events();
        if let Some(username) = &self.redis_username {
            builder = builder.username(username);
        }
        if let Some(path) = &self.redis_password_file {
            let mut secret = tenure::FileCredentials::new(path);
            if let Some(username) = &self.redis_username {
                secret = secret.username(username);
            }
            // A file that is not usable now is a mistake; one that changes later is read again.
            secret.credentials().await.map_err(ConfigError::Password)?;
            builder = builder.credentials(secret);
        }
        if let Some(own) = own {
            builder = builder.credentials(move || {
                let next = own.next();
                async move { next }
            });
        }
        if let Some(path) = &self.redis_ca_file {
            builder = builder.tls_ca_file(path);
        }
        if let (Some(certificate), Some(key)) = (&self.redis_client_cert_file, &self.redis_client_key_file) {
            builder = builder.tls_client_certificate_files(certificate, key);
        }
        builder.connect_lazily().map_err(|source| {
            let flag = match &source {
                tenure::Error::InvalidInput { field, .. } => match *field {
                    "key_prefix" => "--redis-key-prefix",
                    "username" => "--redis-username, --redis-password-file",
                    "tls_ca" => "--redis-ca-file",
                    "tls_client_certificate" => "--redis-client-cert-file, --redis-client-key-file",
                    _ => "--redis-url",
                },
                _ => "--redis-url",
            };
            ConfigError::Redis { flag, source }
        })
    }

    /// The namespace and the name of the Lease that identifies the installation.
    pub(crate) fn installation(&self) -> Option<&(String, String)> {
        self.installation.as_ref().or(self.epoch_record.as_ref())
    }

    /// The scopes to watch: each namespace, or everything.
    pub(crate) fn scopes(&self) -> Vec<Option<String>> {
        let named = self
            .watch_namespaces
            .iter()
            .filter(|namespace| !namespace.is_empty());
        let mut namespaces: Vec<String> = named.cloned().collect();
        if namespaces.is_empty() {
            return vec![None];
        }
        namespaces.sort();
        namespaces.dedup();
        namespaces.into_iter().map(Some).collect()
    }
}

const DURATION_FIX: &str = "write a number and a unit, such as 90s, 5m or 1h";

fn duration(text: &str) -> Result<Duration, String> {
    let duration = duration_or_zero(text)?;
    if duration.is_zero() {
        return Err(format!("it is zero: {DURATION_FIX}"));
    }
    Ok(duration)
}

fn duration_or_zero(text: &str) -> Result<Duration, String> {
    let signed: SignedDuration = text
        .parse()
        .map_err(|_| format!("it is not a duration: {DURATION_FIX}"))?;
    Duration::try_from(signed).map_err(|_| format!("it is negative: {DURATION_FIX}"))
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        "it is not an address and a port: write such as 0.0.0.0:8080, 127.0.0.1:0 or [::]:8080".to_owned()
    })
}

fn namespace(text: &str) -> Result<String, String> {
    let text = text.trim();
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    // An empty list, as a variable that is set to nothing gives it, is no list.
    let fits = text.len() <= 63 && text.chars().all(inner) && !text.starts_with('-') && !text.ends_with('-');
    if fits {
        return Ok(text.to_owned());
    }
    Err("it is not a namespace: write names separated by commas, such as ml,web, each of 1 to 63 lower-case letters, digits and '-'".to_owned())
}

fn config_map(text: &str) -> Result<(String, String), String> {
    reference(text, "ConfigMap", "tenure/tenure-epoch")
}

fn lease(text: &str) -> Result<(String, String), String> {
    reference(text, "Lease", "tenure/tenure")
}

fn secret(text: &str) -> Result<(String, String), String> {
    reference(text, "Secret", "tenure/tenure-redis")
}

fn reference(text: &str, kind: &str, example: &str) -> Result<(String, String), String> {
    let name = |name: &str| {
        let ends = !name.starts_with(['-', '.']) && !name.ends_with(['-', '.']);
        let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c);
        (1..=253).contains(&name.len()) && ends && name.chars().all(inner)
    };
    match text.split_once('/') {
        Some((space, own)) if !space.is_empty() && namespace(space).is_ok() && name(own) => {
            Ok((space.to_owned(), own.to_owned()))
        }
        _ => Err(format!(
            "it is not a {kind}: write the namespace and the name of a {kind}, such as {example}"
        )),
    }
}

fn log_level(text: &str) -> Result<String, String> {
    match tracing_subscriber::EnvFilter::try_new(text) {
        Ok(_) if !text.trim().is_empty() && text.parse::<u8>().is_err() => Ok(text.to_owned()),
        _ => Err(
            "it is not a level: write error, warn, info, debug or trace, or a list such as info,kube=debug"
                .to_owned(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn parse(args: &[&str]) -> Result<Config, String> {
        let args = std::iter::once("tenure-controller").chain(args.iter().copied());
        Config::try_parse_from(args).map_err(|error| error.to_string())
    }

    #[test]
    fn without_flags_it_watches_everything_on_the_local_redis() {
        let config = parse(&[]).unwrap();
        assert_eq!(config.redis_url, "redis://127.0.0.1:6379");
        assert_eq!(config.scopes(), [None]);
        assert_eq!(config.drain_timeout, Duration::from_secs(300));
        assert_eq!(config.cleanup_timeout, Duration::from_secs(60));
    }

    #[test]
    fn namespaces_are_a_list_without_doubles() {
        let config = parse(&["--watch-namespaces", "web,ml,web"]).unwrap();
        assert_eq!(config.scopes(), [Some("ml".to_owned()), Some("web".to_owned())]);
        assert_eq!(parse(&["--watch-namespaces", ""]).unwrap().scopes(), [None]);
    }

    #[test]
    fn the_installation_is_that_of_the_record_of_epochs_unless_it_is_named() {
        let named = |name: &str| Some(("tenure".to_owned(), name.to_owned()));
        assert_eq!(parse(&[]).unwrap().installation(), None);
        let mut args = vec!["--epoch-record=tenure/epoch"];
        assert_eq!(parse(&args).unwrap().installation().cloned(), named("epoch"));
        args.push("--installation=tenure/main");
        assert_eq!(parse(&args).unwrap().installation().cloned(), named("main"));
    }

    #[test]
    fn a_bad_flag_is_named_together_with_the_fix() {
        for (args, fix) in [
            (["--drain-timeout", "soon"], "such as 90s"),
            (["--drain-timeout", "0s"], "such as 90s"),
            (["--cleanup-timeout", "-5s"], "such as 90s"),
            (["--listen", "8080"], "such as 0.0.0.0:8080"),
            (["--epoch-record", "tenure-epoch"], "such as tenure/tenure-epoch"),
            (["--epoch-record", "/tenure-epoch"], "such as tenure/tenure-epoch"),
            (["--epoch-record", "tenure/a/b"], "such as tenure/tenure-epoch"),
            (["--installation", "tenure"], "such as tenure/tenure"),
            (["--redis-secret", "tenure-redis"], "such as tenure/tenure-redis"),
            (
                ["--redis-node-secret", "tenure-redis"],
                "such as tenure/tenure-redis",
            ),
            (
                ["--redis-tls-secret", "tenure/a/b"],
                "such as tenure/tenure-redis",
            ),
            (["--watch-namespaces", "Ml"], "separated by commas"),
            (["--access-namespaces", "Ml"], "separated by commas"),
            (["--access-max-age", "-1h"], "such as 90s"),
            (["--access-overlap", "0s"], "such as 90s"),
            (["--log-format", "xml"], "[possible values: human, json]"),
            (["--log-level", "kube=loud"], "error, warn, info, debug or trace"),
        ] {
            let error = parse(&[&args.join("=")]).unwrap_err();
            assert!(
                error.contains(args[0]) && error.contains(fix),
                "{args:?}: {error}"
            );
        }
    }

    #[tokio::test]
    async fn a_bad_url_is_named_and_its_password_is_not() {
        for url in ["http://:hunter2@redis", "redis://:hunter2@redis:port"] {
            let error = parse(&["--redis-url", url])
                .unwrap()
                .redis(None)
                .await
                .unwrap_err()
                .to_string();
            assert!(
                error.starts_with("--redis-url: ") && error.contains("redis://["),
                "{error}"
            );
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_bad_tls_file_is_named_with_the_fix() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"no PEM").unwrap();
        let path = file.path().to_str().unwrap();
        let key_pair = ["--redis-client-cert-file", path, "--redis-client-key-file", path];
        for (args, flag, fix) in [
            (
                &["--redis-ca-file", "/does/not/exist"][..],
                "--redis-ca-file",
                "check the path",
            ),
            (&["--redis-ca-file", path], "--redis-ca-file", "use PEM"),
            (&key_pair, "--redis-client-cert-file", "use PEM"),
        ] {
            let args = [&["--redis-url", "rediss://redis"], args].concat();
            let error = parse(&args).unwrap().redis(None).await.unwrap_err().to_string();
            assert!(
                error.starts_with(flag) && error.contains(fix),
                "{args:?}: {error}"
            );
        }
        let lonely = parse(&["--redis-client-cert-file", path]).unwrap_err();
        assert!(lonely.contains("--redis-client-key-file"), "{lonely}");
        let plain = ["--redis-url", "redis://redis", "--redis-ca-file", path];
        let error = parse(&plain).unwrap().redis(None).await.unwrap_err().to_string();
        assert!(
            error.starts_with("--redis-url: ") && error.contains("rediss://"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_bad_password_file_is_named() {
        let missing = parse(&["--redis-password-file", "/does/not/exist"])
            .unwrap()
            .redis(None)
            .await
            .unwrap_err();
        assert!(
            missing
                .to_string()
                .contains("--redis-password-file: /does/not/exist"),
            "{missing}"
        );
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"\n").unwrap();
        let path = file.path().to_str().unwrap();
        let empty = parse(&["--redis-password-file", path])
            .unwrap()
            .redis(None)
            .await
            .unwrap_err();
        assert!(empty.to_string().contains("is empty"), "{empty}");
    }
}
