//! The way of these programs to Redis: the settings of the environment, as [`Client::builder_from_env`] reads them, or flags.

use std::{env, path::PathBuf};

use clap::Args;
use tenure::{Client, ClientBuilder, Error};

#[derive(Args, Clone)]
pub(crate) struct Redis {
    #[arg(
        long = "redis-url",
        help = "Where Redis is: redis://[user][:password@]host[:port][/database], with TLS rediss://; Sentinels: \
                redis+sentinel://host[:port][,host[:port]]/service. If absent, the environment says it: TENURE_REDIS_URL, or a \
                Secret that is mounted below SERVICE_BINDING_ROOT; else redis://127.0.0.1:6379"
    )]
    url: Option<String>,
    /// The password, if it does not stand in the URL.
    #[arg(
        long = "redis-password",
        env = "TENURE_REDIS_PASSWORD",
        hide_env_values = true,
        default_value = ""
    )]
    password: String,
    /// File with the certificate authorities to trust, in PEM, in place of the system's.
    #[arg(long = "redis-ca-file")]
    ca_file: Option<PathBuf>,
    /// File with the certificate to show, in PEM.
    #[arg(long = "redis-client-cert-file", requires = "client_key_file")]
    client_cert_file: Option<PathBuf>,
    /// File with its private key, in PEM.
    #[arg(long = "redis-client-key-file", requires = "client_cert_file")]
    client_key_file: Option<PathBuf>,
}

impl Redis {
    pub(crate) fn builder(&self) -> Result<ClientBuilder, Error> {
        let is_set = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
        let in_environment = is_set("TENURE_REDIS_URL") || is_set("SERVICE_BINDING_ROOT");
        let mut builder = match &self.url {
            Some(url) => Client::builder(url),
            None if in_environment => Client::builder_from_env()?,
            None => Client::builder("redis://127.0.0.1:6379"),
        };
        if !self.password.is_empty() {
            builder = builder.password(&self.password);
        }
        if let Some(ca) = &self.ca_file {
            builder = builder.tls_ca_file(ca);
        }
        if let (Some(certificate), Some(key)) = (&self.client_cert_file, &self.client_key_file) {
            builder = builder.tls_client_certificate_files(certificate, key);
        }
        Ok(builder)
    }
}
