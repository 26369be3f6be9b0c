//! The rules of the Redis users, one user for each Kubernetes namespace and one for the controller.
//!
//! All keys and channels of a namespace begin with `<prefix>:{<namespace>/`, and none of another namespace do. So one pattern
//! for keys and one for channels separate the namespaces. Within a script, Redis checks each command with the rights of the
//! user that has called the script: so a script, too, reaches the keys and channels of that user alone.
//!
//! The functions return the rules that follow `ACL SETUSER <user> reset on ><password>`. Each of them is
//! needed: `tests/suites/library/security.rs` removes each in turn.

use crate::{
    Error,
    protocol::{
        channel,
        name::{check_namespace, check_prefix},
    },
};

/// The commands for the channels of a client with a single server.
const ALONE: &str = "subscribe publish";

/// The commands for the channels of a client in a cluster, and for the cluster itself.
const IN_CLUSTER: &str = "ssubscribe spublish cluster|info cluster|slots asking";

/// The other commands that a client sends, and those of its scripts.
const TENANT: &str = "info time evalsha script|load wait \
                      get mget set hget hmget hset hdel hlen hexists hscan \
                      zadd zrem zscore zrange zcard zrank zpopmin zpopmax zrandmember \
                      exists persist pexpire pexpireat pexpiretime pttl rename unlink";

/// The same of the controller.
const CONTROLLER: &str = "info time evalsha script|load \
                          mget hget hmget hset hdel hlen hkeys hexists \
                          zadd zrem zscore zrange zcard zpopmin zpopmax zrandmember \
                          exists persist pexpireat unlink del";

/// The commands that a controller sends besides where it makes the users of namespaces.
const ACCESS: &str = "acl|list acl|setuser acl|deluser";

/// Returns the name of the Redis user of a Kubernetes namespace. The users whose names begin with the key prefix and a dot belong to
/// the controller.
///
/// # Errors
/// As [`tenant_rules`].
///
/// ```
/// assert_eq!(tenure::control::acl::tenant_user("tenure", "team-a")?, "tenure.team-a");
/// # Ok::<(), tenure::Error>(())
/// ```
pub fn tenant_user(prefix: impl AsRef<str>, namespace: impl AsRef<str>) -> Result<String, Error> {
    let (prefix, namespace) = (prefix.as_ref(), namespace.as_ref());
    check_prefix(prefix)?;
    check_namespace(namespace)?;
    // A namespace has no dot, so that each name has one reading.
    Ok(format!("{prefix}.{namespace}"))
}

/// Returns the rules of the Redis user of a Kubernetes namespace: all that the library needs for the objects of this namespace,
/// and nothing of another one. They are those for a single server, also behind Sentinels; a cluster has [`cluster_tenant_rules`].
///
/// # Errors
/// [`Error::InvalidInput`] on `key_prefix` or `namespace`: a character such as `*` would open other namespaces.
///
/// ```
/// use tenure::control::acl;
///
/// let rules = acl::tenant_rules("tenure", "team-a")?;
/// assert_eq!(rules[..3], ["~tenure:{team-a/*", "&tenure:{team-a/*", "+subscribe"]);
/// assert!(acl::tenant_rules("tenure", "team-*").is_err());
/// # Ok::<(), tenure::Error>(())
/// ```
pub fn tenant_rules(prefix: impl AsRef<str>, namespace: impl AsRef<str>) -> Result<Vec<String>, Error> {
    of_tenant(prefix.as_ref(), namespace.as_ref(), ALONE)
}

/// As [`tenant_rules`], for the servers of a Redis Cluster.
///
/// # Errors
/// As [`tenant_rules`].
///
/// ```
/// let rules = tenure::control::acl::cluster_tenant_rules("tenure", "team-a")?;
/// assert!(rules.contains(&"+ssubscribe".to_owned()));
/// # Ok::<(), tenure::Error>(())
/// ```
pub fn cluster_tenant_rules(
    prefix: impl AsRef<str>,
    namespace: impl AsRef<str>,
) -> Result<Vec<String>, Error> {
    of_tenant(prefix.as_ref(), namespace.as_ref(), IN_CLUSTER)
}

fn of_tenant(prefix: &str, namespace: &str, topology: &'static str) -> Result<Vec<String>, Error> {
    check_prefix(prefix)?;
    check_namespace(namespace)?;
    let patterns = ["~", "&"].map(|kind| format!("{kind}{prefix}:{{{namespace}/*"));
    Ok(patterns
        .into_iter()
        .chain(allowed(topology))
        .chain(allowed(TENANT))
        .collect())
}

/// Returns the rules of the controller's Redis user: all that it needs for the objects of all namespaces. They are those for a
/// single server, also behind Sentinels; a cluster has [`cluster_controller_rules`].
///
/// # Errors
/// [`Error::InvalidInput`] on `key_prefix`.
///
/// ```
/// let rules = tenure::control::acl::controller_rules("tenure")?;
/// // Redis compares the pattern of a PSUBSCRIBE with the patterns of a user letter by letter.
/// assert_eq!(rules[..3], ["~tenure:{*", "&tenure:{*", "&tenure:{*/events}"]);
/// # Ok::<(), tenure::Error>(())
/// ```
pub fn controller_rules(prefix: impl AsRef<str>) -> Result<Vec<String>, Error> {
    let prefix = prefix.as_ref();
    let mut rules = of_controller(prefix)?;
    rules.push(format!("&{}", channel::of_events(prefix)));
    rules.extend(
        allowed(ALONE)
            .chain(allowed("psubscribe"))
            .chain(allowed(CONTROLLER)),
    );
    Ok(rules)
}

/// As [`controller_rules`], for the servers of a Redis Cluster, in which subscriptions have no patterns.
///
/// # Errors
/// As [`controller_rules`].
///
/// ```
/// let rules = tenure::control::acl::cluster_controller_rules("tenure")?;
/// assert!(!rules.contains(&"+psubscribe".to_owned()));
/// # Ok::<(), tenure::Error>(())
/// ```
pub fn cluster_controller_rules(prefix: impl AsRef<str>) -> Result<Vec<String>, Error> {
    let mut rules = of_controller(prefix.as_ref())?;
    rules.extend(allowed(IN_CLUSTER).chain(allowed(CONTROLLER)));
    Ok(rules)
}

/// The patterns for the keys and channels of all namespaces.
fn of_controller(prefix: &str) -> Result<Vec<String>, Error> {
    check_prefix(prefix)?;
    Ok(["~", "&"].map(|kind| format!("{kind}{prefix}:{{*")).into())
}

/// Returns the rules that a controller needs in addition where it makes the users of namespaces (`--access`). With them it can give
/// any user any right, as Redis has no smaller ones.
///
/// ```
/// assert!(tenure::control::acl::access_rules().contains(&"+acl|setuser".to_owned()));
/// ```
#[must_use]
pub fn access_rules() -> Vec<String> {
    allowed(ACCESS).collect()
}

fn allowed(commands: &'static str) -> impl Iterator<Item = String> {
    commands.split_whitespace().map(|command| format!("+{command}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Kind, ObjectRef, protocol::channel::ClientChannels};

    /// Redis matches a pattern without other special characters than a last `*` by its beginning.
    fn is_open(rules: &[String], kind: char, name: &str) -> bool {
        let patterns = rules.iter().filter_map(|rule| rule.strip_prefix(kind));
        patterns
            .filter_map(|pattern| pattern.strip_suffix('*'))
            .any(|start| !start.contains('*') && name.starts_with(start))
    }

    #[test]
    fn a_tenant_has_all_keys_and_channels_of_its_namespace_and_none_of_another() {
        for prefix in ["tenure", "a.b:c", "team"] {
            let rules = tenant_rules(prefix, "team").unwrap();
            let patterns = cluster_tenant_rules(prefix, "team").unwrap();
            assert_eq!(patterns[..2], rules[..2]);
            for (namespace, is_own) in [
                ("team", true),
                ("team-a", false),
                ("tea", false),
                ("other", false),
            ] {
                for kind in Kind::ALL {
                    // The name of an object may look like that of another namespace.
                    let object = ObjectRef::new(kind, namespace, "team/lock/x").unwrap();
                    for key in object.keys(prefix) {
                        assert_eq!(is_open(&rules, '~', &key), is_own, "{key}");
                    }
                }
                let own = ClientChannels::new(prefix, namespace, "1");
                let pool = ObjectRef::new(Kind::Pool, namespace, "x").unwrap();
                for channel in [
                    own.channel(None),
                    own.channel(Some(7)),
                    channel::of_event(prefix, namespace),
                    channel::of_object(prefix, &pool),
                ] {
                    assert_eq!(is_open(&rules, '&', &channel), is_own, "{channel}");
                }
            }
        }
    }

    #[test]
    fn no_name_widens_a_pattern() {
        for bad in ["", "*", "te?m", "te[a-z]m", "te\\m", "tenure:{x", "a b", "é"] {
            let error = controller_rules(bad).unwrap_err().to_string();
            assert!(error.starts_with("key_prefix "), "{bad}: {error}");
            assert!(cluster_controller_rules(bad).is_err(), "{bad}");
            assert!(cluster_tenant_rules(bad, "team").is_err(), "{bad}");
            assert!(cluster_tenant_rules("tenure", bad).is_err(), "{bad}");
            assert!(tenant_rules(bad, "team").is_err(), "{bad}");
            // The key of `DataWatch` is in no namespace.
            assert!(tenant_rules("tenure", "_data").is_err());
            assert!(tenant_rules("tenure", bad).is_err(), "{bad}");
        }
    }
}
