//! Reads the INFO of a server, and checks that Tenure can use it.

use std::sync::Arc;

use tracing::warn;

use crate::Error;
use crate::transport::unreachable;

/// A server that will do.
pub(crate) struct ServerInfo {
    /// Names this life of the server process: another one may have lost data.
    pub(crate) run_id: Arc<str>,
    /// Product and version.
    pub(crate) version: Arc<str>,
    pub(crate) is_cluster: bool,
}

const NEEDED: &str = "Tenure needs Redis 7.0 or newer, or Valkey 7.2 or newer";

/// A server that calls itself a Redis and keeps other promises: its name and version, and the reason against it. One that is
/// not known here is judged as the Redis that it claims to be.
fn other_product(text: &str) -> Option<(String, &'static str)> {
    let field = |name: &str| field(text, name);
    if let Some(version) = field("dragonfly_version") {
        return Some((
            format!("Dragonfly {version}"),
            "its INFO has no run_id, without which a loss of data goes unnoticed and a lease may be granted twice",
        ));
    }
    let is_keydb = field("mvcc_depth").is_some()
        || field("executable").is_some_and(|path| path.rsplit('/').next() == Some("keydb-server"));
    is_keydb.then(|| {
        (
            format!("KeyDB {}", field("redis_version").unwrap_or_default()),
            "a fork of Redis 6, which knows no flags of scripts, and whose active replicas would grant one lease twice",
        )
    })
}

impl ServerInfo {
    /// Reads the sections server, replication and memory of INFO.
    pub(crate) fn read(text: &str, address: &str) -> Result<Self, Error> {
        let field = |name: &str| field(text, name);
        let unsupported = |found: String| {
            Err(Error::UnsupportedServer {
                address: address.to_owned(),
                found,
            })
        };
        if let Some((name, reason)) = other_product(text) {
            return unsupported(format!("it is {name}, {reason}; {NEEDED}"));
        }
        let (product, version) = match (field("valkey_version"), field("redis_version")) {
            (Some(valkey), _) => ("Valkey", valkey),
            (None, Some(redis)) => ("Redis", redis),
            (None, None) => {
                return unsupported(format!(
                    "INFO does not contain its version, so it may be no Redis: {NEEDED}"
                ));
            }
        };
        let minimum = if product == "Valkey" { (7, 2) } else { (7, 0) };
        let mut numbers = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
        let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        let version = format!("{product} {version}").trim().to_owned();
        if found < minimum {
            return unsupported(format!("it is {version}, and {NEEDED}"));
        }
        let Some(run_id) = field("run_id").filter(|run_id| !run_id.is_empty()) else {
            return unsupported(format!(
                "it is {version}, and INFO does not contain its run_id, by which Tenure sees that a server has restarted or \
                 was replaced and may have lost its newest leases; without it they would be granted a second time: connect \
                 to Redis or Valkey itself, not to a proxy, or choose a service that shows it"
            ));
        };
        let mode = mode(text);
        if mode == Some("sentinel") {
            return Err(Error::invalid(
                "url",
                format!("names {address}, which is a Sentinel"),
                "use redis+sentinel://host[:port][,host[:port]]/service",
            ));
        }
        let is_cluster = mode == Some("cluster");
        if !is_cluster && field("role") == Some("slave") {
            let hint = "it is a replica, which takes no writes: connect to its master, or promote it";
            return Err(unreachable(address, hint));
        }
        if let Some(policy) = evicting(text) {
            warn!(
                address,
                policy, "Redis may evict leases when its memory is full: set maxmemory-policy to noeviction"
            );
        }
        Ok(Self {
            run_id: run_id.into(),
            version: version.into(),
            is_cluster,
        })
    }
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .map(str::trim)
}

/// The mode that the server runs in. Its field begins with the product, which may be a fork of any name.
fn mode(text: &str) -> Option<&str> {
    text.lines()
        .filter_map(|line| line.split_once("_mode:"))
        .map(|(_, mode)| mode.trim())
        .find(|mode| ["standalone", "cluster", "sentinel"].contains(mode))
}

/// The server's policy for a full memory, if it is one that throws keys away.
fn evicting(text: &str) -> Option<&str> {
    let limited = field(text, "maxmemory").is_some_and(|bytes| bytes != "0");
    field(text, "maxmemory_policy").filter(|policy| limited && *policy != "noeviction")
}

#[cfg(test)]
mod tests {
    use super::{ServerInfo, evicting};

    #[test]
    fn only_a_limited_memory_with_an_evicting_policy_is_warned_of() {
        for (about, policy) in [
            ("maxmemory:0\r\nmaxmemory_policy:allkeys-lru\r\n", None),
            ("maxmemory:1000\r\nmaxmemory_policy:noeviction\r\n", None),
            (
                "maxmemory:1000\r\nmaxmemory_policy:allkeys-lru\r\n",
                Some("allkeys-lru"),
            ),
            (
                "maxmemory:1000\r\nmaxmemory_policy:volatile-ttl\r\n",
                Some("volatile-ttl"),
            ),
            ("redis_version:7.0.15\r\n", None),
        ] {
            assert_eq!(evicting(about), policy, "{about}");
        }
    }

    #[test]
    fn a_server_that_will_not_do_is_refused_by_what_it_is() {
        let read = |text: &str| ServerInfo::read(text, "host:1");
        let redis = "redis_version:7.0.15\r\nrun_id:abc\r\n";
        assert_eq!(&*read(redis).unwrap().version, "Redis 7.0.15");
        for (text, problem) in [
            ("redis_version:6.2.0\r\nrun_id:abc\r\n", "is Redis 6.2.0"),
            ("hello", "does not contain its version"),
            (
                "redis_version:7.0.15\r\n",
                "it is Redis 7.0.15, and INFO does not contain its run_id",
            ),
            ("valkey_version:7.1.9\r\nrun_id:abc\r\n", "Valkey 7.2 or newer"),
            (&format!("{redis}redis_mode:sentinel\r\n"), "is a Sentinel"),
            (&format!("{redis}role:slave\r\n"), "is a replica"),
        ] {
            let error = read(text).err().unwrap().to_string();
            assert!(error.contains(problem), "{error}");
        }
    }

    #[test]
    fn a_fork_that_does_not_keep_the_promises_is_refused_by_its_name_and_an_unknown_one_is_not() {
        let read = |text: &str| ServerInfo::read(text, "host:1");
        let refused = |text: &str, expected: [&str; 2]| {
            let error = read(text).err().unwrap().to_string();
            assert!(expected.iter().all(|part| error.contains(part)), "{error}");
        };
        // As their versions 1.27 and 6.3.4 reply.
        refused(
            "# Server\r\nredis_version:7.4.0\r\ndragonfly_version:df-v1.27.1\r\nredis_mode:standalone\r\n",
            ["it is Dragonfly df-v1.27.1, ", "may be granted twice"],
        );
        // Even one that would name its run.
        refused(
            "redis_version:7.4.0\r\ndragonfly_version:df-v9\r\nrun_id:abc\r\n",
            ["Dragonfly", "needs Redis"],
        );
        let keydb = "redis_version:6.3.4\r\nrun_id:abc\r\nexecutable:/usr/bin/keydb-server\r\n";
        refused(keydb, ["it is KeyDB 6.3.4, ", "a fork of Redis 6"]);
        refused(
            "redis_version:6.3.4\r\nrun_id:abc\r\n# KeyDB\r\nmvcc_depth:0\r\n",
            ["KeyDB 6.3.4", "needs Redis"],
        );

        for (text, version) in [
            (
                "redict_version:7.3.6\r\nredis_version:7.2.4\r\nrun_id:abc\r\n",
                "Redis 7.2.4",
            ),
            (
                "redis_version:7.0.15\r\nrun_id:abc\r\nexecutable:/opt/keydb-server/bin/redis-server\r\n",
                "Redis 7.0.15",
            ),
            (
                "redis_version:7.2.4\r\nserver_name:other\r\nrun_id:abc\r\n",
                "Redis 7.2.4",
            ),
        ] {
            assert_eq!(&*read(text).unwrap().version, version, "{text}");
        }
    }

    #[test]
    fn a_replica_of_a_cluster_may_be_asked_who_the_masters_are() {
        for mode in ["redis_mode", "server_mode", "redict_mode"] {
            let text = format!(
                "redis_version:7.2.4\r\nvalkey_version:8.0.1\r\nrun_id:abc\r\n{mode}:cluster\r\nrole:slave\r\n"
            );
            assert!(ServerInfo::read(&text, "host:1").unwrap().is_cluster);
        }
    }
}
