//! Reads a URL: its servers or Sentinels, and the credentials.
//!
//! The driver parses URLs, too, but its errors do not name the part that is wrong, and it passes over some mistakes. So
//! each part is checked here first. No error shows more of a URL than its scheme: a misplaced character makes a part of
//! the password look like a host, a port or a database.

use redis::{ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo};

use crate::{Error, protocol::error::ESCAPES};

const FORMS: &str = "use redis://[user][:password@]host[:port][,host[:port]][/database], \
                     redis+sentinel://[user][:password@]host[:port][,host[:port]]/service[/database]\
                     [?sentinel_username=USER&sentinel_password=PASSWORD], \
                     for TLS the same with rediss:// or rediss+sentinel://, or unix:///path for a socket";
const SENTINEL_PORT: u16 = 26379;

/// The content of a URL.
#[derive(Debug)]
pub(crate) struct ParsedUrl {
    pub(crate) hosts: Vec<ConnectionInfo>,
    pub(crate) sentinel: Option<Sentinel>,
    /// With TLS.
    #[cfg_attr(not(feature = "tls"), allow(dead_code))]
    pub(crate) secure: bool,
}

/// That the hosts are Sentinels.
#[derive(Debug, Clone)]
pub(crate) struct Sentinel {
    /// The service that they watch.
    pub(crate) service: String,
    /// With their own user and password.
    pub(crate) settings: RedisConnectionInfo,
}

pub(crate) fn invalid(problem: impl Into<String>, fix: impl Into<String>) -> Error {
    Error::invalid("url", problem, fix)
}

/// The error of a URL whose bad part is not known.
pub(crate) fn unusable(problem: impl Into<String>) -> Error {
    invalid(problem, FORMS)
}

/// The part in front of `://`.
#[derive(Clone, Copy)]
struct Scheme<'a> {
    /// As the driver knows it.
    base: &'a str,
    secure: bool,
    sentinel: bool,
    unix: bool,
}

impl<'a> Scheme<'a> {
    fn read(text: &'a str) -> Result<Self, Error> {
        let (base, sentinel) = match text.strip_suffix("+sentinel") {
            Some(base) => (base, true),
            None => (text, false),
        };
        let (secure, unix) = match base {
            "redis" | "valkey" => (false, false),
            "rediss" | "valkeys" => (true, false),
            "unix" | "redis+unix" | "valkey+unix" if !sentinel => (false, true),
            _ => {
                let is_one = text.len() <= 20 && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '+');
                let shown = if is_one {
                    format!(" {text:?}")
                } else {
                    String::new()
                };
                return Err(unusable(format!(
                    "has the scheme{shown}, which is not one of Redis"
                )));
            }
        };
        Ok(Self {
            base,
            secure,
            sentinel,
            unix,
        })
    }

    /// The form of a URL of this scheme.
    fn form(self) -> String {
        let Self { base, .. } = self;
        if self.unix {
            return format!("{base}:///path[?db=DATABASE][&user=USER][&pass=PASSWORD]");
        }
        let hosts = "[user][:password@]host[:port][,host[:port]]";
        if self.sentinel {
            format!(
                "{base}+sentinel://{hosts}/service[/database][?sentinel_username=USER&sentinel_password=PASSWORD]"
            )
        } else {
            format!("{base}://{hosts}[/database]")
        }
    }

    /// The error of one part.
    fn bad(self, problem: impl Into<String>, fix: &str) -> Error {
        invalid(problem, format!("{fix}, as in {}", self.form()))
    }
}

/// Reads a URL. Its errors do not show it: it may hold a password.
pub(crate) fn read(url: &str) -> Result<ParsedUrl, Error> {
    // As the driver does: a URL that was read from a file ends with a line break.
    let url = url.trim_matches(|c: char| c <= ' ');
    let (scheme, rest) = url.split_once("://").ok_or_else(|| unusable("has no scheme"))?;
    let scheme = scheme.to_ascii_lowercase();
    let scheme = Scheme::read(&scheme)?;
    tls(scheme, rest, cfg!(feature = "tls"))?;
    // The driver takes some of them out, also from a password.
    if rest.chars().any(char::is_control) {
        let fix = "remove it; in a user name or password, write a line break as %0A, and a tab as %09";
        return Err(invalid("has a control character", fix));
    }
    if scheme.unix {
        return socket(scheme, rest);
    }
    servers(scheme, rest).map_err(|error| unescaped(rest).unwrap_or(error))
}

/// Checks the scheme and the end of a URL with TLS.
fn tls(scheme: Scheme<'_>, rest: &str, built_in: bool) -> Result<(), Error> {
    if !scheme.secure {
        return Ok(());
    }
    if !built_in {
        let problem = format!(
            "has the scheme {:?}, which needs the feature `tls` of the crate tenure",
            scheme.base
        );
        let fix = "add `features = [\"tls\"]` to the dependency tenure, or use a scheme without TLS";
        return Err(invalid(problem, fix));
    }
    if rest.ends_with("#insecure") {
        let problem =
            "turns off the check of the server's certificate by #insecure, so that any server is trusted";
        let fix = "remove #insecure, and set the server's certificate authority by ClientBuilder::tls_ca";
        return Err(invalid(problem, fix));
    }
    Ok(())
}

fn servers(scheme: Scheme<'_>, rest: &str) -> Result<ParsedUrl, Error> {
    // Nothing reads what stands behind it: a password would end there.
    if rest.contains('#') {
        return Err(escape('#'));
    }
    let (authority, tail) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let (path, query) = tail.split_once('?').unwrap_or((tail, ""));
    let (user, hosts) = match authority.rsplit_once('@') {
        Some((user, hosts)) => (user, hosts),
        None => ("", authority),
    };
    let (name, password) = user.split_once(':').unwrap_or((user, ""));
    check_text("user name", name)?;
    check_text("password", password)?;
    let hosts = hosts_and_ports(scheme, hosts)?;
    let (service, database) = if scheme.sentinel {
        let path = path.strip_prefix('/').unwrap_or(path);
        path.split_at(path.find('/').unwrap_or(path.len()))
    } else {
        ("", path)
    };
    if scheme.sentinel && service.is_empty() {
        let fix = "add the name that stands behind `sentinel monitor` in their configuration";
        return Err(scheme.bad("does not name the service of the Sentinels", fix));
    }
    let database = database.trim_matches('/');
    check_database(scheme, database)?;
    let known: &[&str] = if scheme.sentinel {
        &["sentinel_username", "sentinel_password", "protocol"]
    } else {
        &["protocol"]
    };
    let parameters = parameters(scheme, query, known)?;
    let hosts = hosts
        .into_iter()
        .map(|host| parse(&format!("{}://{user}@{host}/{database}", scheme.base)));
    let hosts = hosts.collect::<Result<_, _>>()?;
    let sentinel = scheme
        .sentinel
        .then(|| sentinel(service, &parameters))
        .transpose()?;
    Ok(ParsedUrl {
        hosts,
        sentinel,
        secure: scheme.secure,
    })
}

fn sentinel(service: &str, parameters: &[(&str, &str)]) -> Result<Sentinel, Error> {
    // The characters that end it in front of a host do not end it in a query. The driver resolves the escapes.
    let parameter = |name: &'static str| -> Result<String, Error> {
        let value = parameters
            .iter()
            .find(|(known, _)| *known == name)
            .map_or("", |(_, value)| value);
        let escaped = [(':', "%3A"), ('@', "%40"), ('/', "%2F"), ('?', "%3F")];
        let value = escaped
            .iter()
            .fold(value.to_owned(), |value, (c, code)| value.replace(*c, code));
        check_text(name, &value)?;
        Ok(value)
    };
    let (username, password) = (parameter("sentinel_username")?, parameter("sentinel_password")?);
    let own = parse(&format!("redis://{username}:{password}@sentinel"))?;
    Ok(Sentinel {
        service: service.to_owned(),
        settings: own.redis_settings().clone(),
    })
}

fn socket(scheme: Scheme<'_>, rest: &str) -> Result<ParsedUrl, Error> {
    if rest.contains('#') {
        return Err(scheme.bad("has the character #, which ends the path", "write it as %23"));
    }
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    if !path.starts_with('/') || path.len() == 1 {
        return Err(scheme.bad(
            "has no absolute path of a socket",
            "write three slashes and the path",
        ));
    }
    let known = ["db", "user", "pass", "protocol"];
    let parameters = parameters(scheme, query, &known)?;
    let databases = parameters.iter().filter(|(name, _)| *name == "db");
    for (_, database) in databases {
        if database.is_empty() {
            return Err(scheme.bad("has no database in its query", "write db=0, or leave it out"));
        }
        check_database(scheme, database)?;
    }
    Ok(ParsedUrl {
        hosts: vec![parse(&format!("{}://{rest}", scheme.base))?],
        sentinel: None,
        secure: false,
    })
}

/// Reads the checked URL of one server.
fn parse(url: &str) -> Result<ConnectionInfo, Error> {
    url.into_connection_info()
        .map_err(|error| unusable(format!("is not usable ({})", error.category())))
}

/// Each host with its port.
fn hosts_and_ports(scheme: Scheme<'_>, hosts: &str) -> Result<Vec<String>, Error> {
    let count = hosts.split(',').count();
    let numbered = hosts.split(',').enumerate();
    let each = numbered.map(|(index, host)| {
        host_and_port(scheme, host).map_err(|(part, fix)| {
            let which = if count == 1 {
                String::new()
            } else {
                format!(" (the {} of {count})", ordinal(index + 1))
            };
            scheme.bad(format!("has {part}{which}"), fix)
        })
    });
    each.collect()
}

fn ordinal(number: usize) -> String {
    match number {
        1 => "first".to_owned(),
        2 => "second".to_owned(),
        3 => "third".to_owned(),
        number => format!("{number}th"),
    }
}

/// A host with its port, or the part that is bad, and the fix.
fn host_and_port(scheme: Scheme<'_>, text: &str) -> Result<String, (&'static str, &'static str)> {
    if !text.starts_with('[') && text.matches(':').count() > 1 {
        return Err((
            "a host with several colons",
            "write an IPv6 address in brackets, like [::1]:6379",
        ));
    }
    let end = match text.find(']') {
        Some(end) if text.starts_with('[') => end + 1,
        _ => text.find(':').unwrap_or(text.len()),
    };
    let (host, port) = text.split_at(end);
    if host.is_empty() {
        return Err(("no host", "write the name or address of a server"));
    }
    let unusable = "a host that is not a name or an address";
    if ["0.0.0.0", "[::]"].contains(&host) {
        return Err((
            "a host that stands for all addresses",
            "write the one of a server, such as 127.0.0.1",
        ));
    }
    if format!("redis://{host}").into_connection_info().is_err() {
        return Err((unusable, "write the name or address of a server"));
    }
    let port = match port.strip_prefix(':') {
        Some(port) => {
            let number = Some(port).filter(|port| is_digits(port));
            let number = number
                .and_then(|port| port.parse::<u16>().ok())
                .filter(|port| *port > 0);
            number.ok_or((
                "an unusable port",
                "write a number from 1 to 65535, or leave the colon out",
            ))?
        }
        None if !port.is_empty() => return Err((unusable, "write only :port behind the brackets")),
        None if scheme.sentinel => SENTINEL_PORT,
        None => return Ok(host.to_owned()),
    };
    Ok(format!("{host}:{port}"))
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Checks the number of a database, or nothing.
fn check_database(scheme: Scheme<'_>, text: &str) -> Result<(), Error> {
    // The server has no larger number.
    if text.is_empty() || is_digits(text) && text.parse::<i32>().is_ok() {
        return Ok(());
    }
    Err(scheme.bad("has an unusable database", "write a number from 0"))
}

/// Checks a text of which the driver resolves the escapes.
fn check_text(part: &str, text: &str) -> Result<(), Error> {
    if format!("redis://:{text}@host").into_connection_info().is_ok() {
        return Ok(());
    }
    Err(invalid(
        format!("has a {part} that is not UTF-8"),
        "write each byte of its UTF-8 text that is not an ASCII letter or digit as % and two hexadecimal digits",
    ))
}

/// The parameters of a query.
fn parameters<'a>(
    scheme: Scheme<'_>,
    query: &'a str,
    known: &[&str],
) -> Result<Vec<(&'a str, &'a str)>, Error> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let pairs: Vec<_> = pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .collect();
    if pairs.iter().any(|(name, _)| !known.contains(name)) {
        let fix = format!("use only {}", known.join(", "));
        return Err(scheme.bad("has an unknown parameter in its query", &fix));
    }
    let other = |pair: &(&str, &str)| pair.0 == "protocol" && !["3", "resp3"].contains(&pair.1);
    if pairs.iter().any(other) {
        let problem = "has another protocol than RESP3 in its query";
        return Err(scheme.bad(problem, "write protocol=resp3, or leave it out"));
    }
    Ok(pairs)
}

/// A character that ends the user name or password early, if one seems to: an @ stands in the path, or behind an authority that
/// is none. It is the character alone that is shown.
fn unescaped(rest: &str) -> Option<Error> {
    let end = rest.find(['/', '?', '#'])?;
    let (authority, behind) = rest.split_at(end);
    let (path, _) = behind[1..].split_once('?').unwrap_or((&behind[1..], ""));
    let in_path = behind.starts_with('/') && path.contains('@');
    let host = |one: &str| {
        let (host, port) = one.rsplit_once(':').unwrap_or((one, ""));
        one.ends_with(']') || !host.is_empty() && port.chars().all(|c| c.is_ascii_digit())
    };
    let (_, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
    let is_seen = in_path || behind.contains('@') && !hosts.split(',').all(host);
    let character = behind.chars().next().filter(|_| is_seen)?;
    Some(escape(character))
}

fn escape(character: char) -> Error {
    let problem = format!("has the character {character}, which ends a user name or password");
    invalid(problem, format!("if it belongs to one, {ESCAPES}"))
}

#[cfg(test)]
mod tests {
    use super::{Scheme, read, tls};

    fn hosts(url: &str) -> Vec<String> {
        let named = read(url).unwrap();
        named.hosts.iter().map(|info| info.addr().to_string()).collect()
    }

    #[test]
    fn one_host_several_and_sentinels() {
        assert_eq!(hosts("redis://one"), ["one:6379"]);
        assert_eq!(hosts(" REDIS://one:7\n"), ["one:7"]);
        assert_eq!(
            hosts("redis://user:secret@one:7001,two,[::1]:7003"),
            ["one:7001", "two:6379", "::1:7003"]
        );
        assert_eq!(
            hosts("redis+sentinel://one,two:7,[::1]/main"),
            ["one:26379", "two:7", "::1:26379"]
        );
        assert_eq!(hosts("unix:///run/redis"), ["/run/redis"]);
    }

    #[test]
    fn service_database_and_credentials_are_those_of_the_servers() {
        let url = "redis+sentinel://user:p%40ss@one,two/main/3?sentinel_username=u&sentinel_password=%40s";
        let named = read(url).unwrap();
        let sentinel = named.sentinel.unwrap();
        assert_eq!(sentinel.service, "main");
        let own = &sentinel.settings;
        assert_eq!(
            (own.db(), own.username(), own.password()),
            (0, Some("u"), Some("@s"))
        );
        for info in &named.hosts {
            let settings = info.redis_settings();
            assert_eq!(settings.db(), 3);
            assert_eq!(settings.username(), Some("user"));
            assert_eq!(settings.password(), Some("p@ss"));
        }
        let plain = read("redis+sentinel://one/main").unwrap().sentinel.unwrap();
        assert_eq!(
            (plain.settings.username(), plain.settings.password()),
            (None, None)
        );
        assert!(read("redis://one/3").unwrap().sentinel.is_none());
        let raw = read("redis+sentinel://one/main?sentinel_username=a:b&sentinel_password=c/d@e?f").unwrap();
        let own = raw.sentinel.unwrap().settings;
        assert_eq!((own.username(), own.password()), (Some("a:b"), Some("c/d@e?f")));
    }

    #[test]
    fn a_character_in_a_query_hides_no_other_problem() {
        for (url, part) in [
            ("redis://one/0?client_name=me@corp", "unknown parameter"),
            ("redis://[fe80::a]/0?client_name=me@corp", "unknown parameter"),
            ("redis://u:p@one:7/0?client_name=me@corp", "unknown parameter"),
            (
                "redis+sentinel://one:0/main?protocol=3&sentinel_password=p@q",
                "port",
            ),
            (
                "redis+sentinel://one/main?protocol=2&sentinel_password=p@q",
                "RESP3",
            ),
            ("redis://:p?w@one", "the character ?"),
            ("redis://:pa/ss@one", "the character /"),
            ("redis://pa#ss@one", "the character #"),
            ("unix:///run/r?db=", "no database"),
        ] {
            let error = read(url).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains(part), "{url}: {error}");
        }
    }

    /// `tests/urls.rs` has the rest.
    #[test]
    fn tls_needs_its_feature_and_a_check_of_the_certificate() {
        let check = |scheme, rest, built_in| tls(Scheme::read(scheme).unwrap(), rest, built_in);
        assert!(check("redis", "host", false).is_ok());
        assert!(check("rediss", "host", true).is_ok());
        let error = check("rediss+sentinel", "host", false).unwrap_err().to_string();
        assert!(
            error.contains("\"rediss\"") && error.contains("feature `tls`"),
            "{error}"
        );
        let error = check("rediss", "host/#insecure", true).unwrap_err().to_string();
        assert!(
            error.contains("certificate") && error.contains("#insecure"),
            "{error}"
        );
    }

    #[cfg(feature = "tls")]
    #[test]
    fn every_scheme_with_tls_is_seen_as_one() {
        for url in [
            "rediss://host",
            "REDISS://host",
            "valkeys://host",
            "rediss+sentinel://host/main",
            "valkeys+sentinel://host/main",
        ] {
            assert!(read(url).unwrap().secure, "{url}");
        }
    }
}
