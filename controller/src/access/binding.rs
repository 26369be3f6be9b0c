//! Binding: the way of pods to Redis, which each Secret has beside the credentials.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::password::Password;

/// The default ports of Redis and of Sentinels.
const PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

/// All but the unreserved characters of RFC 3986.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// The parts of a URL without credentials, and what else pods need.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Binding {
    scheme: String,
    hosts: String,
    /// Path and query.
    rest: String,
    pub(crate) key_prefix: String,
    /// The certificate authorities of Redis, in PEM.
    pub(crate) ca: Option<String>,
}

impl Binding {
    /// Takes the URL of the controller without its credentials, and without its query, which may have those of Sentinels.
    pub(crate) fn of_controller(url: &str, key_prefix: &str) -> Result<Self, String> {
        let mut binding = Self::read(url, key_prefix)?;
        if let Some((path, _)) = binding.rest.split_once('?') {
            binding.rest = path.to_owned();
        }
        Ok(binding)
    }

    /// Takes a URL that is meant for pods.
    pub(crate) fn of_pods(url: &str, key_prefix: &str) -> Result<Self, String> {
        if authority(url).is_some_and(|authority| authority.contains('@')) {
            return Err("has credentials: leave them out, because each namespace gets its own".to_owned());
        }
        Self::read(url, key_prefix)
    }

    fn read(url: &str, key_prefix: &str) -> Result<Self, String> {
        let (scheme, rest) = url.split_once("://").unwrap_or_default();
        let authority = authority(url).unwrap_or_default();
        let hosts = authority.rsplit_once('@').map_or(authority, |(_, hosts)| hosts);
        if scheme == "unix" || hosts.is_empty() {
            return Err(
                "names no host that a pod can reach: write redis://host:port, or redis+sentinel://host:port/service"
                    .to_owned(),
            );
        }
        Ok(Self {
            scheme: scheme.to_owned(),
            hosts: hosts.to_owned(),
            rest: rest[authority.len()..].to_owned(),
            key_prefix: key_prefix.to_owned(),
            ca: None,
        })
    }

    /// The URL with the credentials of a user.
    pub(crate) fn url(&self, user: &str, password: &Password) -> String {
        let Self {
            scheme, hosts, rest, ..
        } = self;
        let [user, password] = [user, &password.0].map(|text| utf8_percent_encode(text, RESERVED));
        format!("{scheme}://{user}:{password}@{hosts}{rest}")
    }

    /// The first host and its port.
    pub(crate) fn host_and_port(&self) -> (String, String) {
        let first = self.hosts.split(',').next().unwrap_or_default();
        let default = if self.scheme.contains("sentinel") {
            SENTINEL_PORT
        } else {
            PORT
        };
        let (host, port) = match first.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|c| c.is_ascii_digit()) => (host, port.to_owned()),
            _ => (first, default.to_string()),
        };
        (host.trim_matches(['[', ']']).to_owned(), port)
    }

    /// Returns whether pods reach Redis over TLS.
    pub(crate) fn is_secure(&self) -> bool {
        self.scheme.starts_with("rediss") || self.scheme.starts_with("valkeys")
    }
}

/// The part of a URL between `://` and the path or query.
fn authority(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    // A password may have a slash or a question mark that is not escaped.
    let from = rest.rfind('@').map_or(0, |at| at + 1);
    let end = rest[from..].find(['/', '?']).map_or(rest.len(), |end| from + end);
    Some(&rest[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(url: &str) -> Binding {
        Binding::of_controller(url, "tenure").unwrap()
    }

    #[test]
    fn the_url_of_a_tenant_has_its_credentials_in_place_of_those_of_the_controller() {
        let password = Password("s3".to_owned());
        for (url, expected) in [
            ("redis://redis", "redis://u:s3@redis"),
            ("redis://:hunter2@redis:7000/3", "redis://u:s3@redis:7000/3"),
            ("rediss://admin:a/b?c@one:1,two:2", "rediss://u:s3@one:1,two:2"),
            (
                "redis+sentinel://x:y@s1,s2/main/2?sentinel_password=z",
                "redis+sentinel://u:s3@s1,s2/main/2",
            ),
            ("redis://[fd00::1]:6380", "redis://u:s3@[fd00::1]:6380"),
        ] {
            assert_eq!(of(url).url("u", &password), expected, "{url}");
        }
        assert_eq!(
            of("redis://r").url("a:b.team", &Password("é/".to_owned())),
            "redis://a%3Ab.team:%C3%A9%2F@r"
        );
        let pods = Binding::of_pods("redis+sentinel://s1/main?sentinel_password=z", "tenure").unwrap();
        assert_eq!(
            pods.url("u", &password),
            "redis+sentinel://u:s3@s1/main?sentinel_password=z"
        );
    }

    #[test]
    fn host_and_port_are_those_of_the_first_server() {
        for (url, host, port) in [
            ("redis://redis", "redis", "6379"),
            ("redis://:x@one:7000,two", "one", "7000"),
            ("redis+sentinel://s1,s2/main", "s1", "26379"),
            ("redis://[fd00::1]:6380", "fd00::1", "6380"),
        ] {
            assert_eq!(
                of(url).host_and_port(),
                (host.to_owned(), port.to_owned()),
                "{url}"
            );
        }
    }

    #[test]
    fn a_url_that_pods_cannot_use_is_refused_with_the_fix() {
        for url in ["unix:///run/redis", "redis", "redis://"] {
            let error = Binding::of_controller(url, "tenure").unwrap_err();
            assert!(error.contains("write redis://host:port"), "{url}: {error}");
        }
        let error = Binding::of_pods("redis://a:hunter2@redis", "tenure").unwrap_err();
        assert!(
            error.contains("leave them out") && !error.contains("hunter2"),
            "{error}"
        );
    }
}
