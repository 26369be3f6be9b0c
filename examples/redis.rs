//! The address of Redis for these programs.

use std::{fs, path::PathBuf};

use anyhow::Context;
use clap::Args;
use tenure::{Client, ClientBuilder};

#[derive(Args, Clone)]
pub(crate) struct Redis {
    #[arg(
        long = "redis-url",
        help = "Where Redis is: redis://[user][:password@]host[:port][/database], with TLS rediss://; Sentinels: \
                redis+sentinel://host[:port][,host[:port]]/service",
        env = "TENURE_REDIS_URL",
        default_value = "redis://127.0.0.1:6379",
        hide_env_values = true
    )]
    url: String,
    /// The password, if it does not stand in the URL.
    #[arg(
        long = "redis-password",
        env = "TENURE_REDIS_PASSWORD",
        hide_env_values = true,
        default_value = ""
    )]
    password: String,
    /// File with the certificate authorities to trust, in PEM, in place of the system's.
    #[arg(long = "redis-ca-file", env = "TENURE_REDIS_CA_FILE")]
    ca_file: Option<PathBuf>,
    /// File with the certificate to show, in PEM.
    #[arg(
        long = "redis-client-cert-file",
        env = "TENURE_REDIS_CLIENT_CERT_FILE",
        requires = "client_key_file"
    )]
    client_cert_file: Option<PathBuf>,
    /// File with its private key, in PEM.
    #[arg(
        long = "redis-client-key-file",
        env = "TENURE_REDIS_CLIENT_KEY_FILE",
        requires = "client_cert_file"
    )]
    client_key_file: Option<PathBuf>,
}

impl Redis {
    pub(crate) fn builder(&self) -> anyhow::Result<ClientBuilder> {
        let read = |path: &PathBuf| {
            fs::read(path).with_context(|| format!("{} cannot be read: check the path", path.display()))
        };
        let mut builder = Client::builder(&self.url).password(&self.password);
        if let Some(ca) = &self.ca_file {
            builder = builder.tls_ca(read(ca)?);
        }
        if let (Some(certificate), Some(key)) = (&self.client_cert_file, &self.client_key_file) {
            builder = builder.tls_client_certificate(read(certificate)?, read(key)?);
        }
        Ok(builder)
    }
}
