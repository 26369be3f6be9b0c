//! The way to Redis: `--redis-url`, the settings of the environment, or a Secret that the user of a kubeconfig may read.

use std::{path::PathBuf, time::Duration};

use clap::{ArgMatches, Args, error::ErrorKind, parser::ValueSource};
use tenure::{Client, ClientBuilder, Error};

use crate::{
    duration,
    exit::Failure,
    kubernetes::{self, Forwards, Kubernetes},
};

#[derive(Debug, Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct Connection {
    #[arg(
        long,
        global = true,
        value_name = "URL",
        help = "Where Redis is: redis://[user][:password@]host[:port][/database], with TLS rediss://; Sentinels: \
                redis+sentinel://host[:port][,host[:port]]/service. If absent, --kubeconfig or --context leads to the Secret \
                tenure-access; without them, the environment has the URL: TENURE_REDIS_URL, or that Secret, mounted below \
                SERVICE_BINDING_ROOT; else the kubeconfig leads to the Secret. Other users can see arguments: a password is safer in the environment"
    )]
    redis_url: Option<String>,

    /// File with the certificate authorities, in PEM, of which one must have signed the certificate of Redis
    #[arg(long, global = true, value_name = "FILE")]
    redis_ca_file: Option<PathBuf>,

    /// Prefix of all keys in Redis
    #[arg(
        long,
        global = true,
        env = "TENURE_REDIS_KEY_PREFIX",
        hide_env_values = true,
        value_name = "PREFIX"
    )]
    key_prefix: Option<String>,

    /// Namespace of the objects; if absent, that of the Secret, of the pod or of the context, else `default`
    #[arg(
        short,
        long,
        global = true,
        env = "TENURE_NAMESPACE",
        hide_env_values = true,
        value_name = "NAMESPACE"
    )]
    namespace: Option<String>,

    /// Time to wait for the first connection to Redis
    #[arg(long, global = true, default_value = "10s", value_parser = duration::parse, value_name = "DURATION")]
    connect_timeout: Duration,

    #[command(flatten)]
    kubernetes: kubernetes::Settings,
}

impl Connection {
    /// Ignores the environment where a flag names the cluster: its settings belong to the Redis of the environment.
    pub(crate) fn prefer_flags(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        if !self.kubernetes.is_given() {
            return Ok(());
        }
        if self.redis_url.is_some() {
            let problem =
                "--redis-url, and --kubeconfig or --context, name two ways to Redis: give one of them\n";
            return Err(clap::Error::raw(ErrorKind::ArgumentConflict, problem));
        }
        for (id, value) in [
            ("namespace", &mut self.namespace),
            ("key_prefix", &mut self.key_prefix),
        ] {
            if matches.value_source(id) == Some(ValueSource::EnvVariable) {
                *value = None;
            }
        }
        Ok(())
    }

    /// Connects, for at most as long as the caller can wait.
    pub(crate) async fn connect(&self, at_most: Option<Duration>) -> Result<Client, Failure> {
        self.connect_as(at_most, |builder| builder).await
    }

    /// Connects, to hear of changes of the objects of the namespace.
    pub(crate) async fn connect_with_events(&self) -> Result<Client, Failure> {
        self.connect_as(None, ClientBuilder::with_namespace_events).await
    }

    async fn connect_as(
        &self,
        at_most: Option<Duration>,
        set: fn(ClientBuilder) -> ClientBuilder,
    ) -> Result<Client, Failure> {
        let timeout = at_most.map_or(self.connect_timeout, |most| most.min(self.connect_timeout));
        // No server answers within nothing: a caller that does not wait for its object waits for the connection.
        let timeout = if timeout.is_zero() {
            self.connect_timeout
        } else {
            timeout
        };
        let (builder, forwards) = self.builder().await?;
        let connected = set(builder).connect_timeout(timeout).connect();
        match forwards {
            None => connected.await.map_err(|error| self.unconnected(error)),
            Some(forwards) => tokio::select! {
                connected = connected => connected.map_err(|error| self.unconnected(error)),
                // Redis would count as unreachable until the timeout.
                refused = forwards.refused() => Err(refused),
            },
        }
    }

    /// The cluster of the kubeconfig or of the pod, if there is one. No request is sent.
    pub(crate) async fn kubernetes(&self) -> Result<Option<Kubernetes>, Failure> {
        self.kubernetes.find().await
    }

    /// The namespace that the user has named.
    pub(crate) fn namespace(&self) -> Option<&String> {
        self.namespace.as_ref().filter(|name| !name.is_empty())
    }

    /// The failure to connect. A server of another protocol, or TLS on one side alone, shows only as data that cannot be read, and a user
    /// of another namespace as a channel that is refused.
    fn unconnected(&self, error: Error) -> Failure {
        let text = error.to_string().lines().collect::<Vec<_>>().join(" ");
        let is_clear = ["refused", "lookup", "certificate"]
            .iter()
            .any(|part| text.contains(part));
        let fix = match error {
            Error::Unreachable { .. } if !is_clear => {
                ": check that Redis has this port, and that the URL begins with rediss:// if Redis has TLS, and only then".to_owned()
            }
            Error::Refused { .. } => self.other_namespace().unwrap_or_default(),
            _ => String::new(),
        };
        Failure {
            message: Some(text + &fix),
            ..Failure::from(error)
        }
    }

    /// The text about a Redis user of another namespace, if that is what the settings have.
    fn other_namespace(&self) -> Option<String> {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let url = match &self.redis_url {
            Some(url) => url.clone(),
            None if self.kubernetes.is_given() => return None,
            None => variable("TENURE_REDIS_URL")?,
        };
        let user = user_of(&url)
            .map(str::to_owned)
            .or_else(|| variable("TENURE_REDIS_USERNAME"))?;
        let own = user.strip_prefix(self.prefix())?.strip_prefix('.')?;
        let namespace = self.namespace().cloned().or_else(|| variable("POD_NAMESPACE"));
        let namespace = namespace.unwrap_or_else(|| "default".to_owned());
        (own != namespace).then(|| {
            format!(
                "; the Redis user {user} is that of the namespace {own}, and the command works in {namespace}: add --namespace {own}"
            )
        })
    }

    /// The prefix of all keys, as far as it is known here.
    fn prefix(&self) -> &str {
        self.key_prefix
            .as_deref()
            .filter(|prefix| !prefix.is_empty())
            .unwrap_or("tenure")
    }

    async fn builder(&self) -> Result<(ClientBuilder, Option<Forwards>), Failure> {
        let (mut builder, forwards) = match &self.redis_url {
            Some(url) => (Client::builder(url), None),
            None => self.builder_without_url().await?,
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
        Ok((builder, forwards))
    }

    async fn builder_without_url(&self) -> Result<(ClientBuilder, Option<Forwards>), Failure> {
        let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let is_in_environment = is_set("TENURE_REDIS_URL") || is_set("SERVICE_BINDING_ROOT");
        // A pod has the Secret itself, or no access.
        let has_cluster = !kubernetes::in_pod() || self.kubernetes.is_given();
        // A flag has precedence over the environment.
        if (!is_in_environment || self.kubernetes.is_given())
            && has_cluster
            && let Some(kubernetes) = self.kubernetes.find().await?
        {
            let namespace = self.namespace().unwrap_or(&kubernetes.namespace);
            let (builder, forwards) = kubernetes.redis(namespace).await?;
            return Ok((builder, Some(forwards)));
        }
        let builder = Client::builder_from_env().map_err(|error| {
            let fix = if is_in_environment || !has_cluster {
                ""
            } else {
                "; or have a kubeconfig (--kubeconfig, KUBECONFIG), by whose user the Secret is read"
            };
            Failure::usage(format!("{error}{fix}"))
        })?;
        Ok((builder, None))
    }
}

/// The user of a URL, if it has one.
fn user_of(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    let authority = rest.split('/').next()?;
    let (login, _) = authority.rsplit_once('@')?;
    login.split(':').next().filter(|user| !user.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_of_a_url_is_found() {
        for (url, user) in [
            ("redis://tenure.ml:secret@redis:6379/0", Some("tenure.ml")),
            ("redis://:secret@redis", None),
            ("redis://redis:6379", None),
        ] {
            assert_eq!(user_of(url), user, "{url}");
        }
    }
}
