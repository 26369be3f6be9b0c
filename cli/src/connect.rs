//! The way to Redis: `--redis-url`, or the settings of the environment.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use tenure::{Client, ClientBuilder};

use crate::{duration, exit::Failure};

#[derive(Debug, Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct Connection {
    #[arg(
        long,
        global = true,
        value_name = "URL",
        help = "Where Redis is: redis://[user][:password@]host[:port][/database], with TLS rediss://; Sentinels: \
                redis+sentinel://host[:port][,host[:port]]/service. If absent, the environment has it: TENURE_REDIS_URL, or \
                the Secret tenure-access, mounted below SERVICE_BINDING_ROOT"
    )]
    redis_url: Option<String>,

    /// File with the certificate authorities, in PEM, of which one must have signed the certificate of Redis
    #[arg(long, global = true, value_name = "FILE")]
    redis_ca_file: Option<PathBuf>,

    /// Prefix of all keys in Redis
    #[arg(long, global = true, env = "TENURE_REDIS_KEY_PREFIX", value_name = "PREFIX")]
    key_prefix: Option<String>,

    /// Namespace of the objects; if absent, that of the Secret or of the pod, else `default`
    #[arg(
        short,
        long,
        global = true,
        env = "TENURE_NAMESPACE",
        value_name = "NAMESPACE"
    )]
    namespace: Option<String>,

    /// Time to wait for the first connection to Redis
    #[arg(long, global = true, default_value = "10s", value_parser = duration::parse, value_name = "DURATION")]
    connect_timeout: Duration,
}

impl Connection {
    /// Connects, for at most as long as the caller can wait.
    pub(crate) async fn connect(&self, at_most: Option<Duration>) -> Result<Client, Failure> {
        let timeout = at_most.map_or(self.connect_timeout, |most| most.min(self.connect_timeout));
        // No server answers within nothing: a caller that does not wait for its object waits for the connection.
        let timeout = if timeout.is_zero() {
            self.connect_timeout
        } else {
            timeout
        };
        Ok(self.builder()?.connect_timeout(timeout).connect().await?)
    }

    fn builder(&self) -> Result<ClientBuilder, Failure> {
        let mut builder = match &self.redis_url {
            Some(url) => Client::builder(url),
            None => Client::builder_from_env()?,
        };
        if let Some(file) = &self.redis_ca_file {
            builder = builder.tls_ca_file(file);
        }
        for (setting, value) in [
            (ClientBuilder::key_prefix as fn(_, _) -> _, &self.key_prefix),
            (ClientBuilder::namespace, &self.namespace),
        ] {
            if let Some(value) = value.as_ref().filter(|value| !value.is_empty()) {
                builder = setting(builder, value);
            }
        }
        Ok(builder)
    }
}
