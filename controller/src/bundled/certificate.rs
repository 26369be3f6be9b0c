//! The certificate of the bundled Redis, and the authority that has signed it. Both stand in one Secret, with the keys that cert-manager
//! uses, and `ca.key` beside them. The server's certificate is renewed after two thirds of its life. The authority is replaced when
//! it would end before a certificate that it signs; then `ca.crt` has the old one as well.
//!
//! ```yaml
//! metadata:
//!   annotations:
//!     tenure.dev/certificate-names: tenure-redis.tenure.svc,localhost
//!     tenure.dev/certificate-since: "2026-11-28T09:17:28Z"
//!     tenure.dev/authority-since: "2026-11-28T09:17:28Z"
//! data: {ca.crt: ..., ca.key: ..., tls.crt: ..., tls.key: ...}
//! ```

use std::{collections::BTreeMap, path::PathBuf};

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::ResourceExt;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use tokio::time::Instant;

use crate::bundled::{followed::Followed, task::Task};

const DAY: SignedDuration = SignedDuration::from_hours(24);
/// The life of a certificate of the server, and the age at which it is renewed.
const LIFE_DAYS: i32 = 90;
const RENEWED_DAYS: i32 = 60;
/// The life of an authority.
const AUTHORITY_DAYS: i32 = 3650;
const NAMES: &str = "tenure.dev/certificate-names";
const SINCE: &str = "tenure.dev/certificate-since";
const AUTHORITY_SINCE: &str = "tenure.dev/authority-since";
const AUTHORITY: &str = "Tenure, authority of the bundled Redis";

/// The task that keeps the certificates.
pub(crate) struct Certificates {
    secret: Followed,
    /// The file with the authority, from which the controller connects.
    file: PathBuf,
    names: Vec<String>,
    /// The contents of the file.
    written: Option<Vec<u8>>,
}

/// Returns what the Secret gets; `None`: it stays.
fn decide(secret: &Secret, names: &[String], now: Timestamp) -> Result<Option<Secret>, rcgen::Error> {
    let text = |key: &str| {
        let data = secret.data.as_ref()?.get(key)?;
        std::str::from_utf8(&data.0).ok().filter(|text| !text.is_empty())
    };
    let since = |key: &str| secret.annotations().get(key)?.parse::<Timestamp>().ok();
    let is_within = |since: Timestamp, days: i32| now < after(since, days);
    let listed = names.join(",");
    let has_certificate = text("tls.crt").is_some() && text("tls.key").is_some();
    let fits = secret.annotations().get(NAMES) == Some(&listed);
    let authority = text("ca.crt").zip(text("ca.key")).zip(since(AUTHORITY_SINCE));
    let authority = authority.filter(|(_, since)| is_within(*since, AUTHORITY_DAYS - LIFE_DAYS));
    let is_current = since(SINCE).is_some_and(|since| is_within(since, RENEWED_DAYS));
    if authority.is_some() && has_certificate && fits && is_current {
        return Ok(None);
    }
    let (ca, ca_key, authority_since) = if let Some(((ca, key), since)) = authority {
        (ca.to_owned(), KeyPair::from_pem(key)?, since)
    } else {
        let key = KeyPair::generate()?;
        let certificate = authority_params(now)?.self_signed(&key)?.pem();
        // Clients trust the old one too, until Redis shows the new certificate.
        let old = text("ca.crt").map_or_else(String::new, first_certificate);
        (certificate + &old, key, now)
    };
    let ca_key_text = ca_key.serialize_pem();
    // The issuer has the name and the key of the authority; its validity is not part of what it signs.
    let issuer = Issuer::new(authority_params(authority_since)?, ca_key);
    let key = KeyPair::generate()?;
    let certificate = server_params(names, now)?.signed_by(&key, &issuer)?;
    let values = [
        ("ca.crt", ca),
        ("ca.key", ca_key_text),
        ("tls.crt", certificate.pem()),
        ("tls.key", key.serialize_pem()),
    ];
    let annotations = [
        (NAMES, listed),
        (SINCE, now.to_string()),
        (AUTHORITY_SINCE, authority_since.to_string()),
    ];
    Ok(Some(Secret {
        metadata: ObjectMeta {
            annotations: Some(annotations.map(|(key, value)| (key.to_owned(), value)).into()),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from(
            values.map(|(key, value)| (key.to_owned(), ByteString(value.into_bytes()))),
        )),
        ..Secret::default()
    }))
}

/// The first certificate of a text: of those in `ca.crt`, the one that signs.
fn first_certificate(text: &str) -> String {
    let mut certificates = text.split_inclusive("-----END CERTIFICATE-----\n");
    certificates.next().unwrap_or_default().to_owned()
}

fn after(since: Timestamp, days: i32) -> Timestamp {
    since.saturating_add(DAY * days).unwrap_or(Timestamp::MAX)
}

fn authority_params(since: Timestamp) -> Result<CertificateParams, rcgen::Error> {
    let mut params = params(&[], AUTHORITY, since, AUTHORITY_DAYS)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn server_params(names: &[String], since: Timestamp) -> Result<CertificateParams, rcgen::Error> {
    let mut params = params(names, "Tenure, bundled Redis", since, LIFE_DAYS)?;
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn params(
    names: &[String],
    name: &str,
    since: Timestamp,
    days: i32,
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(names.to_vec())?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let day = |at: Timestamp| {
        let date = at.to_zoned(TimeZone::UTC).date();
        date_time_ymd(
            i32::from(date.year()),
            date.month().unsigned_abs(),
            date.day().unsigned_abs(),
        )
    };
    // The clock of a client may be behind.
    params.not_before = day(after(since, -1));
    params.not_after = day(after(since, days + 1));
    Ok(params)
}

impl Certificates {
    pub(crate) fn new(secret: Followed, file: PathBuf, names: Vec<String>) -> Self {
        Self {
            secret,
            file,
            names,
            written: None,
        }
    }
}

impl Task for Certificates {
    const CHECK: &'static str = "redis certificate";
    const PROBLEM: &'static str = "Redis does not get its certificate";

    fn secret(&mut self) -> &mut Followed {
        &mut self.secret
    }

    async fn reach_target(&mut self, secret: &Secret) -> Result<Option<Instant>, String> {
        let fields = decide(secret, &self.names, Timestamp::now()).map_err(|error| {
            let shown = &self.secret.shown;
            format!("no certificate can be made from the Secret {shown} ({error}): remove its data, and all is made again")
        })?;
        if let Some(fields) = fields {
            let what = "the certificate for Redis";
            let written = self.secret.write(secret, fields, what).await;
            written.map_err(|failure| self.secret.unwritten(&failure))?;
            // The watch or the write has delivered another state.
            return Ok(None);
        }
        let ca = secret
            .data
            .as_ref()
            .and_then(|data| data.get("ca.crt"))
            .map(|ca| ca.0.clone());
        if ca.is_some() && ca != self.written {
            write(&self.file, ca.clone().unwrap_or_default())
                .await
                .map_err(|error| format!("{} cannot be written: {error}", self.file.display()))?;
            self.written = ca;
        }
        Ok(None)
    }
}

/// Replaces a file in one step.
async fn write(path: &PathBuf, contents: Vec<u8>) -> std::io::Result<()> {
    let beside = path.with_extension("new");
    tokio::fs::write(&beside, contents).await?;
    tokio::fs::rename(&beside, path).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(day: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + day * 86_400).unwrap()
    }

    fn names() -> Vec<String> {
        ["tenure-redis.tenure.svc", "127.0.0.1"].map(str::to_owned).into()
    }

    fn made(secret: &Secret, day: i64) -> Option<Secret> {
        decide(secret, &names(), at(day)).unwrap()
    }

    fn value<'a>(secret: &'a Secret, key: &str) -> &'a [u8] {
        &secret.data.as_ref().unwrap()[key].0
    }

    #[test]
    fn the_certificate_is_renewed_in_time_by_the_same_authority() {
        let first = made(&Secret::default(), 0).unwrap();
        assert!(made(&first, 0).is_none() && made(&first, 59).is_none());
        let second = made(&first, 60).unwrap();
        assert_eq!(value(&first, "ca.crt"), value(&second, "ca.crt"));
        assert_eq!(value(&first, "ca.key"), value(&second, "ca.key"));
        assert_ne!(value(&first, "tls.crt"), value(&second, "tls.crt"));
        assert!(made(&second, 100).is_none());
        let other = decide(&second, &["other".to_owned()], at(61)).unwrap();
        assert!(other.is_some(), "other names need another certificate");
    }

    #[test]
    fn an_authority_is_replaced_before_what_it_signs_outlasts_it() {
        let first = made(&Secret::default(), 0).unwrap();
        let last = i64::from(AUTHORITY_DAYS - LIFE_DAYS);
        let renewed = made(&first, last - 1).unwrap();
        assert_eq!(value(&first, "ca.crt"), value(&renewed, "ca.crt"));
        let second = made(&renewed, last).unwrap();
        let ca = String::from_utf8(value(&second, "ca.crt").to_vec()).unwrap();
        assert_eq!(ca.matches("BEGIN CERTIFICATE").count(), 2);
        assert!(
            ca.contains(
                String::from_utf8(value(&first, "ca.crt").to_vec())
                    .unwrap()
                    .trim()
            )
        );
        assert_ne!(value(&first, "ca.key"), value(&second, "ca.key"));
    }

    #[test]
    fn a_damaged_key_is_reported() {
        let mut secret = made(&Secret::default(), 0).unwrap();
        secret
            .data
            .as_mut()
            .unwrap()
            .insert("ca.key".to_owned(), ByteString(b"x".to_vec()));
        assert!(decide(&secret, &names(), at(60)).is_err());
    }
}
