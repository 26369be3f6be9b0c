//! Unusable URLs: the error names the part and the fix, and shows no text that may be a password.

#![allow(clippy::unwrap_used)] // in helpers of tests, too

use tenure::{Client, ClientBuilder, Credentials, Error};

fn refusal(builder: ClientBuilder) -> Option<(&'static str, String)> {
    match builder.connect_lazily().err()? {
        Error::InvalidInput { field, problem, fix } => Some((field, format!("{problem}: {fix}"))),
        other => Some(("", other.to_string())),
    }
}

/// Each with the part that its error names, and a piece of the fix.
const UNUSABLE: &[(&str, &str, &str)] = &[
    ("", "no scheme", "redis://[user]"),
    ("hunter2@127.0.0.1", "no scheme", "redis://[user]"),
    ("http://:hunter2@127.0.0.1", "scheme \"http\"", "redis://[user]"),
    ("redi://127.0.0.1", "scheme \"redi\"", "redis://[user]"),
    (
        "unix+sentinel://one/main",
        "scheme \"unix+sentinel\"",
        "redis://[user]",
    ),
    ("a:hunter2://one", "scheme", "redis://[user]"),
    ("redis://", "no host", "redis://[user]"),
    ("redis:///3", "no host", "redis://[user]"),
    ("redis://:hunter2@", "no host", "redis://[user]"),
    ("redis://:6379", "no host", "redis://[user]"),
    (
        "redis://:hunter2@one,,three",
        "no host (the second of 3)",
        "redis://[user]",
    ),
    (
        "redis://:hunter2@one,",
        "no host (the second of 2)",
        "redis://[user]",
    ),
    ("redis://:hunter2@0.0.0.0", "host", "127.0.0.1"),
    ("redis://:hunter2@[::]:1", "host", "127.0.0.1"),
    ("redis://::1", "host", "[::1]"),
    ("redis://:hunter2@[::1", "host", "redis://[user]"),
    ("redis://:hunter2@[hunter2]", "host", "redis://[user]"),
    ("redis://a b", "host", "redis://[user]"),
    ("redis://[::1]x", "host", "redis://[user]"),
    ("redis://127.0.0.1:99999", "port", "1 to 65535"),
    ("redis://127.0.0.1:0", "port", "1 to 65535"),
    ("redis://127.0.0.1:+80", "port", "1 to 65535"),
    ("redis://127.0.0.1:", "port", "1 to 65535"),
    ("redis://user:hunter2", "port", "redis://[user]"),
    (
        "redis://one:1,two:99999/0",
        "port (the second of 2)",
        "1 to 65535",
    ),
    ("redis://:hunter2@one/x", "database", "from 0"),
    ("redis://:hunter2@one/-1", "database", "from 0"),
    ("redis://:hunter2@one/1/2", "database", "from 0"),
    ("redis://:hunter2@one/4294967296", "database", "from 0"),
    ("redis://us%ffer:hunter2@one", "user name", "UTF-8"),
    ("redis://user:hunter2%ff@one", "password", "UTF-8"),
    ("redis://user@one", "user and no password", ":password@"),
    ("redis://user:@one", "user and no password", ":password@"),
    ("redis://:hun/ter2@one", "character /", "%2F"),
    ("redis://:hun?ter2@one", "character ?", "%2F"),
    ("redis://:hun#ter2@one", "character #", "%2F"),
    ("redis://:hunter2\n@one", "control character", "%0A"),
    ("redis://one?db=3", "query", "protocol"),
    ("redis://one?hunter2", "query", "protocol"),
    ("redis://one?protocol=2", "protocol", "resp3"),
    ("redis+sentinel://one:hunter2@two", "service", "sentinel monitor"),
    ("redis+sentinel://one:hunter2@two/", "service", "sentinel monitor"),
    (
        "redis+sentinel://one:hunter2@two/?protocol=3",
        "service",
        "sentinel monitor",
    ),
    ("redis+sentinel://:hunter2@/main", "no host", "redis+sentinel://"),
    (
        "redis+sentinel://one,,/main",
        "no host (the second of 3)",
        "redis+sentinel://",
    ),
    ("redis+sentinel://one:/main", "port", "redis+sentinel://"),
    ("redis+sentinel://one:99999/main", "port", "1 to 65535"),
    ("redis+sentinel://one/main/first", "database", "redis+sentinel://"),
    (
        "redis+sentinel://one/main?sentinel_pasword=hunter2",
        "query",
        "sentinel_password",
    ),
    (
        "redis+sentinel://one/main?sentinel_username=hunter2",
        "sentinel_username",
        "sentinel_password",
    ),
    (
        "redis+sentinel://one/main?sentinel_username=%ff&sentinel_password=hunter2",
        "sentinel_username",
        "UTF-8",
    ),
    (
        "redis+sentinel://one/main?sentinel_username=a&sentinel_password=hunter2%ff",
        "sentinel_password",
        "UTF-8",
    ),
    (
        "redis+sentinel://one:0/main?sentinel_password=hun@ter2",
        "port",
        "1 to 65535",
    ),
    (
        "redis+sentinel://user@one/main",
        "user and no password",
        ":password@",
    ),
    ("unix://", "path", "unix:///"),
    ("unix://hunter2", "path", "unix:///"),
    ("unix:///", "path", "unix:///"),
    ("unix:///run/redis?db=x&pass=hunter2", "database", "from 0"),
    ("unix:///run/redis?password=hunter2", "query", "pass"),
    ("unix:///run/redis#1", "character #", "%23"),
    ("unix:///run/redis?user=hunter2", "user and no password", "pass="),
];

#[tokio::test]
async fn each_part_of_a_url_is_named_with_its_fix() {
    for (url, part, fix) in UNUSABLE {
        let (field, text) = refusal(Client::builder(url)).unwrap_or_default();
        assert_eq!(field, "url", "{url}: {text}");
        let (problem, advice) = text.split_once(": ").unwrap();
        assert!(problem.contains(part), "{url}: {text}");
        assert!(advice.contains(fix), "{url}: {text}");
        for secret in ["hun", "ter2"] {
            assert!(!text.contains(secret), "{url}: {text}");
        }
    }
}

#[tokio::test]
async fn a_usable_url_is_taken() {
    for url in [
        "redis://one",
        " redis://one:6379\n",
        "REDIS://one/3/",
        "valkey://user:hunter2@one:7001,two,[::1]:7003/3?protocol=resp3",
        "redis://:hunter2@one",
        "redis://@one",
        "redis+sentinel://one,two:7,[::1]/main/3",
        "valkey+sentinel://one/main?sentinel_username=a:b&sentinel_password=c/d@e?f",
        "unix:///run/redis?db=3&user=worker&pass=hunter2",
    ] {
        assert_eq!(refusal(Client::builder(url)), None, "{url}");
    }
}

#[tokio::test]
async fn a_user_needs_a_password_from_somewhere() {
    let provided = async || Ok::<_, std::io::Error>(Credentials::new(None, "hunter2"));
    let (redis, sentinel) = (
        "redis://user@one",
        "redis+sentinel://one/main?sentinel_username=user",
    );
    for usable in [
        Client::builder(redis).password("hunter2"),
        Client::builder(redis).credentials(provided),
        Client::builder("redis://one").username("").password("hunter2"),
        Client::builder("redis://one").username("").password(""),
        Client::builder("redis://:hunter2@one").username("user"),
        Client::builder(sentinel).sentinel_credentials(None, "hunter2"),
        Client::builder(sentinel).sentinel_credentials_provider(provided),
    ] {
        assert_eq!(refusal(usable), None);
    }
    for (unusable, field) in [
        (Client::builder("redis://one").username("user"), "username"),
        (
            Client::builder("redis://one").username("user").password(""),
            "username",
        ),
        (Client::builder(redis).password(""), "url"),
        (
            Client::builder("redis+sentinel://one/main").sentinel_credentials(Some("user"), ""),
            "sentinel_credentials",
        ),
    ] {
        let (named, text) = refusal(unusable).unwrap();
        assert_eq!(named, field, "{text}");
        assert!(text.contains("no password"), "{text}");
    }
}

#[tokio::test]
async fn tls_is_named_as_the_schemes() {
    for url in [
        "rediss://one",
        "valkeys://one",
        "REDISS://one",
        "rediss+sentinel://one/main",
        "valkeys+sentinel://one/main",
    ] {
        let refused = refusal(Client::builder(url));
        if cfg!(feature = "tls") {
            assert_eq!(refused, None, "{url}");
            let (field, text) = refusal(Client::builder(format!("{url}#insecure"))).unwrap();
            assert!(field == "url" && text.contains("#insecure"), "{text}");
            continue;
        }
        let (field, text) = refused.unwrap();
        assert!(
            field == "url" && text.contains("scheme") && text.contains("feature `tls`"),
            "{url}: {text}"
        );
    }
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn certificates_need_the_scheme_of_tls() {
    let (field, text) = refusal(Client::builder("redis://one").tls_ca("x")).unwrap();
    assert!(
        field == "url" && text.contains("scheme") && text.contains("rediss://"),
        "{text}"
    );
}
