//! Certificates, and a Redis that asks for them.

use std::{fs, path::PathBuf};

use anyhow::Context;
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair};

use crate::{
    Redis, Result,
    process::{folder, free_port},
};

fn common_name(name: &str) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}

/// A certificate authority, and what it has signed.
#[derive(Debug)]
pub struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// A new one, which nobody knows.
    pub fn new() -> Result<Self> {
        let mut params = CertificateParams::new([])?;
        params.distinguished_name = common_name("authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate()?;
        let pem = params.self_signed(&key)?.pem();
        Ok(Self {
            pem,
            issuer: Issuer::new(params, key),
        })
    }

    /// Its own certificate, in PEM.
    #[must_use]
    pub fn pem(&self) -> String {
        self.pem.clone()
    }

    /// A certificate for that name, and its private key, in PEM.
    pub fn sign(&self, name: &str) -> Result<(String, String)> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new([name.to_owned()])?;
        // By default everybody has the same name, and what is signed looks as if it had signed itself.
        params.distinguished_name = common_name(name);
        let signed = params.signed_by(&key, &self.issuer)?;
        Ok((signed.pem(), key.serialize_pem()))
    }
}

/// A Redis that speaks TLS to those who show a certificate of `authority`, as `localhost`, and the port where it does.
pub async fn redis(authority: &Authority) -> Result<(Redis, u16)> {
    let folder = folder("tls")?;
    let write = |name: &str, text: &str| -> Result<PathBuf> {
        let path = folder.join(name);
        fs::write(&path, text)?;
        Ok(path)
    };
    let (certificate, key) = authority.sign("localhost")?;
    let (ca, certificate, key) = (
        write("ca.crt", &authority.pem)?,
        write("tls.crt", &certificate)?,
        write("tls.key", &key)?,
    );
    let port = free_port()?;
    let path = |path: &PathBuf| path.to_str().map(str::to_owned).context("an odd folder");
    let redis = Redis::builder()
        .args(&["--tls-port", &port.to_string(), "--tls-auth-clients", "yes"])
        .args(&["--tls-ca-cert-file", &path(&ca)?])
        .args(&[
            "--tls-cert-file",
            &path(&certificate)?,
            "--tls-key-file",
            &path(&key)?,
        ])
        .start()
        .await?;
    Ok((redis, port))
}
