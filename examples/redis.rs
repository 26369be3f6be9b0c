//! How each of these programs finds Redis.

use std::{fs, path::PathBuf};

use anyhow::Context;
use clap::Args;
use tenure::{Client, ClientBuilder};

#[derive(Args, Clone)]
pub(crate) struct Redis {
    #[arg(
        long,
        help = "Where Redis is: redis://[user][:password@]host[:port][/database], with TLS rediss://",
        env = "TENURE_REDIS_URL",
        default_value = "redis://127.0.0.1:6379",
        hide_env_values = true
    )]
    redis_url: String,
    /// The password, if it does not stand in the URL.
    #[arg(
        long,
        env = "TENURE_REDIS_PASSWORD",
        hide_env_values = true,
        default_value = ""
    )]
    redis_password: String,
    /// File with the certificate authorities to trust, in PEM, in place of the system's.
    #[arg(long, env = "TENURE_REDIS_CA_FILE")]
    redis_ca_file: Option<PathBuf>,
    /// File with the certificate to show, in PEM.
    #[arg(
        long,
        env = "TENURE_REDIS_CLIENT_CERT_FILE",
        requires = "redis_client_key_file"
    )]
    redis_client_cert_file: Option<PathBuf>,
    /// File with its private key, in PEM.
    #[arg(
        long,
        env = "TENURE_REDIS_CLIENT_KEY_FILE",
        requires = "redis_client_cert_file"
    )]
    redis_client_key_file: Option<PathBuf>,
}

impl Redis {
    pub(crate) fn builder(&self) -> anyhow::Result<ClientBuilder> {
        let read = |path: &PathBuf| {
            fs::read(path).with_context(|| format!("{} cannot be read: check the path", path.display()))
        };
        let mut builder = Client::builder(&self.redis_url).password(&self.redis_password);
        if let Some(ca) = &self.redis_ca_file {
            builder = builder.tls_ca(read(ca)?);
        }
        if let (Some(certificate), Some(key)) = (&self.redis_client_cert_file, &self.redis_client_key_file) {
            builder = builder.tls_client_certificate(read(certificate)?, read(key)?);
        }
        Ok(builder)
    }
}
