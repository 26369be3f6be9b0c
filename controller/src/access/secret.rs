//! Secret: the credentials of a namespace as the Secret `tenure-access` has them.
//!
//! The layout is that of a provisioned service of servicebinding.io: `type`, `provider`, `host`, `port`, `username`, `password`,
//! `uri`, and `ca.crt` with TLS. Beside them stand the variables that the library reads, for `envFrom`.
//!
//! ```yaml
//! metadata:
//!   labels: {app.kubernetes.io/managed-by: tenure-controller}
//!   annotations:
//!     tenure.dev/installation: tenure/tenure          # the installation that keeps the Secret
//!     tenure.dev/rotated-at: "2026-11-28T09:17:28Z"   # when the password was made
//!     tenure.dev/rotated-for: "after the leak"        # the last request for a rotation that was carried out
//!     tenure.dev/previous-passwords: "<SHA-256> 2026-11-29T09:17:28Z"  # and the time until which each is valid
//! ```

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::ResourceExt;

use crate::{
    access::binding::Binding,
    password::{Password, is_hash},
};

/// The name of the Secret in each namespace.
pub(crate) const NAME: &str = "tenure-access";
/// The annotation whose new value asks for a rotation.
pub(crate) const ROTATE: &str = "tenure.dev/rotate";
const TYPE: &str = "servicebinding.io/redis";
const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "tenure-controller");
pub(crate) const ROTATED_AT: &str = "tenure.dev/rotated-at";
pub(crate) const ROTATED_FOR: &str = "tenure.dev/rotated-for";
const INSTALLATION: &str = "tenure.dev/installation";
const PREVIOUS: &str = "tenure.dev/previous-passwords";
/// Keys that a Secret may lose.
const WITH_TLS: [&str; 2] = ["ca.crt", "TENURE_REDIS_CA"];

/// The state that the Secret keeps of a namespace.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Credentials {
    pub(crate) password: Password,
    /// The password was made then.
    pub(crate) since: Timestamp,
    /// The passwords before it that are still valid.
    pub(crate) previous: Vec<Previous>,
    /// The request for a rotation that was carried out last.
    pub(crate) answered: Option<String>,
}

/// A password that was replaced.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Previous {
    /// Its SHA-256.
    pub(crate) hash: String,
    /// It is valid until then.
    pub(crate) until: Timestamp,
}

/// Returns whether the controller has made the Secret, and may change and delete it.
pub(crate) fn is_ours(secret: &Secret) -> bool {
    let label = secret.labels().get(MANAGED_BY.0);
    label.is_some_and(|value| value == MANAGED_BY.1) && secret.type_.as_deref() == Some(TYPE)
}

/// The installation that keeps the Secret, if it names one.
pub(crate) fn installation(secret: &Secret) -> Option<&str> {
    secret.annotations().get(INSTALLATION).map(String::as_str)
}

/// The request for a rotation, if there is one.
pub(crate) fn request(secret: &Secret) -> Option<&str> {
    secret.annotations().get(ROTATE).map(String::as_str)
}

/// Reads a Secret of ours; `None`: it has no password that Redis could be given.
pub(crate) fn read(secret: &Secret) -> Option<Credentials> {
    let password = secret.data.as_ref()?.get("password")?;
    let password = Password::read(&password.0)?;
    let annotations = secret.annotations();
    let time = |name| annotations.get(name)?.parse::<Timestamp>().ok();
    let previous = annotations.get(PREVIOUS).map(String::as_str).unwrap_or_default();
    Some(Credentials {
        password,
        since: time(ROTATED_AT)
            .or_else(|| made_at(secret))
            .unwrap_or(Timestamp::UNIX_EPOCH),
        previous: previous.split(',').filter_map(read_previous).collect(),
        answered: annotations.get(ROTATED_FOR).cloned(),
    })
}

fn made_at(secret: &Secret) -> Option<Timestamp> {
    Some(secret.metadata.creation_timestamp.as_ref()?.0)
}

fn read_previous(text: &str) -> Option<Previous> {
    let (hash, until) = text.trim().split_once(' ')?;
    let until = until.parse().ok()?;
    is_hash(hash).then(|| Previous {
        hash: hash.to_owned(),
        until,
    })
}

/// The fields of the Secret that belong to the controller.
pub(crate) fn render(
    namespace: &str,
    user: &str,
    credentials: &Credentials,
    binding: &Binding,
    installation: Option<&str>,
) -> Secret {
    let url = binding.url(user, &credentials.password);
    let (host, port) = binding.host_and_port();
    let mut data = BTreeMap::from(
        [
            ("type", "redis"),
            ("provider", "tenure"),
            ("host", &host),
            ("port", &port),
            ("username", user),
            ("password", &credentials.password.0),
            ("uri", &url),
            ("TENURE_REDIS_URL", &url),
            ("TENURE_REDIS_KEY_PREFIX", &binding.key_prefix),
            ("TENURE_NAMESPACE", namespace),
        ]
        .map(|(key, value)| (key.to_owned(), ByteString(value.as_bytes().to_vec()))),
    );
    if let Some(ca) = &binding.ca {
        data.extend(WITH_TLS.map(|key| (key.to_owned(), ByteString(ca.as_bytes().to_vec()))));
    }
    let previous = credentials.previous.iter();
    let previous: Vec<String> = previous
        .map(|one| format!("{} {}", one.hash, one.until))
        .collect();
    let mut annotations = BTreeMap::from([(ROTATED_AT.to_owned(), credentials.since.to_string())]);
    if let Some(installation) = installation {
        annotations.insert(INSTALLATION.to_owned(), installation.to_owned());
    }
    if !previous.is_empty() {
        annotations.insert(PREVIOUS.to_owned(), previous.join(","));
    }
    if let Some(answered) = &credentials.answered {
        annotations.insert(ROTATED_FOR.to_owned(), answered.clone());
    }
    Secret {
        metadata: ObjectMeta {
            name: Some(NAME.to_owned()),
            namespace: Some(namespace.to_owned()),
            labels: Some(
                [MANAGED_BY]
                    .map(|(key, value)| (key.to_owned(), value.to_owned()))
                    .into(),
            ),
            annotations: Some(annotations),
            ..ObjectMeta::default()
        },
        type_: Some(TYPE.to_owned()),
        data: Some(data),
        ..Secret::default()
    }
}

/// Returns whether a Secret differs from the rendered one in a field that belongs to the controller. Fields of other programs stay.
pub(crate) fn differs(found: &Secret, rendered: &Secret) -> bool {
    let same = |key: &str| {
        let value = |secret: &Secret| secret.data.as_ref().and_then(|data| data.get(key).cloned());
        value(found) == value(rendered)
    };
    let keys = rendered.data.iter().flat_map(BTreeMap::keys).map(String::as_str);
    let annotations = [ROTATED_AT, ROTATED_FOR, PREVIOUS, INSTALLATION];
    let same_annotation = |key: &str| found.annotations().get(key) == rendered.annotations().get(key);
    !keys.chain(WITH_TLS).all(same) || !annotations.into_iter().all(same_annotation)
}
