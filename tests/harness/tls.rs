//! Certificates, and a Redis that asks for them.

use std::{fs, time::Duration};

use anyhow::{Context, ensure};
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair};

use crate::{
    Redis, Result, eventually,
    process::{folder, free_port},
    redis,
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
    /// A new one, which is not trusted.
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
        // By default all certificates have the same name, and a signed one looks self-signed.
        params.distinguished_name = common_name(name);
        let signed = params.signed_by(&key, &self.issuer)?;
        Ok((signed.pem(), key.serialize_pem()))
    }
}

/// A Redis that speaks TLS to those who show a certificate of `authority`, as `localhost`, and the port where it does.
pub async fn redis(authority: &Authority) -> Result<(Redis, u16)> {
    serve(authority, Redis::builder().direct()).await
}

/// Has a Redis of [`redis()`] trust another authority, and show a certificate of that one.
pub async fn change_authority(redis: &Redis, authority: &Authority) -> Result {
    let [ca, certificate, key] = files(authority)?;
    redis
        .cli(&[
            "CONFIG",
            "SET",
            "tls-ca-cert-file",
            &ca,
            "tls-cert-file",
            &certificate,
            "tls-key-file",
            &key,
        ])
        .await
        .map(drop)
}

/// The same as the one node of a Redis Cluster.
pub async fn cluster(authority: &Authority) -> Result<(Redis, u16)> {
    let bus = free_port()?.to_string();
    let builder = Redis::builder()
        .direct()
        .args(&[
            "--cluster-enabled",
            "yes",
            "--tls-cluster",
            "yes",
            "--cluster-port",
            &bus,
        ])
        .args(&["--cluster-announce-hostname", "localhost"])
        .args(&["--cluster-preferred-endpoint-type", "hostname"]);
    let (redis, port) = serve(authority, builder).await?;
    redis.cli(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]).await?;
    eventually("the cluster to be formed", Duration::from_secs(20), async || {
        let info = redis.cli(&["CLUSTER", "INFO"]).await?;
        ensure!(info.contains("cluster_state:ok"), "{info}");
        Ok(())
    })
    .await?;
    Ok((redis, port))
}

/// A Sentinel that does so, and reports that the service `main` is at this port of `localhost`.
pub async fn sentinel(authority: &Authority, master: u16) -> Result<(Redis, u16)> {
    let config = format!(
        "sentinel resolve-hostnames yes\nsentinel announce-hostnames yes\nsentinel monitor main localhost {master} 1\n"
    );
    let builder = Redis::builder().direct().config(config);
    serve(
        authority,
        builder.args(&["--sentinel", "--tls-replication", "yes"]),
    )
    .await
}

async fn serve(authority: &Authority, builder: redis::Builder) -> Result<(Redis, u16)> {
    let [ca, certificate, key] = files(authority)?;
    let port = free_port()?;
    let server = builder
        .tls()
        .args(&["--tls-port", &port.to_string(), "--tls-auth-clients", "yes"])
        .args(&[
            "--tls-ca-cert-file",
            &ca,
            "--tls-cert-file",
            &certificate,
            "--tls-key-file",
            &key,
        ]);
    Ok((server.start().await?, port))
}

/// The authority's own certificate, and a certificate and key for `localhost`, in files.
fn files(authority: &Authority) -> Result<[String; 3]> {
    let folder = folder("tls")?;
    let write = |name: &str, text: &str| -> Result<String> {
        let path = folder.join(name);
        fs::write(&path, text)?;
        path.to_str().map(str::to_owned).context("an odd folder")
    };
    let (certificate, key) = authority.sign("localhost")?;
    Ok([
        write("ca.crt", &authority.pem)?,
        write("tls.crt", &certificate)?,
        write("tls.key", &key)?,
    ])
}
