//! Decides what follows an error: repeat, go elsewhere, connect again, or give up.
//!
//! The table has every error reply that Redis 7.0 to 8 and Valkey 7.2 to 9 have in their sources, apart from those of
//! commands that Tenure never sends. A code that is not in it is one of the scripts' own, or `ERR`: the answer to this very
//! call, which the next try would get as well.

use redis::{ErrorKind, RedisError, ServerErrorKind};

use crate::protocol::unusable::lacks_rights;

/// The action after an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RetryAction {
    /// The server accepts no such call at present, from any client. All calls to it wait.
    Wait,
    /// This call alone is repeated a little later.
    Repeat,
    /// No node has the slot at present. As `Repeat`, and the map of the cluster may be another one by then.
    AskForMap,
    /// Another server has the object.
    Moved,
    /// Another server is about to have the object.
    Ask,
    /// The connection is of no use any more; the next one may be.
    Reconnect,
    /// The server refuses this kind of call until an operator changes something. It ends with that error, but for a release,
    /// which is repeated for as long as its lease runs.
    Deny,
    /// The answer to this call.
    Fail,
}

use RetryAction::{Ask, AskForMap, Deny, Fail, Moved, Reconnect, Repeat, Wait};

/// By code.
const REPLIES: &[(&str, RetryAction)] = &[
    // The server is not ready, or protects data that it could not keep.
    ("LOADING", Wait),
    ("BUSY", Wait),
    ("MISCONF", Wait),
    ("NOREPLICAS", Wait),
    // A failover is under way.
    ("INPROG", Wait),
    ("NOGOODSLAVE", Wait),
    ("NOQUORUM", Wait),
    // A cluster. CLUSTERDOWN of the whole cluster differs in its text.
    ("CLUSTERDOWN", AskForMap),
    ("TRYAGAIN", Repeat),
    ("MOVED", Moved),
    ("ASK", Ask),
    ("CROSSSLOT", Fail),
    // The script has been flushed since it was loaded, or a blocking command was ended from outside.
    ("NOSCRIPT", Repeat),
    ("UNBLOCKED", Repeat),
    // The server has become a replica, or the connection has lost its user.
    ("READONLY", Reconnect),
    ("MASTERDOWN", Reconnect),
    ("NOMASTERLINK", Reconnect),
    ("REDIRECT", Reconnect),
    ("NOAUTH", Reconnect),
    ("WRONGPASS", Reconnect),
    // An operator has to act.
    ("OOM", Deny),
    ("NOPERM", Deny),
    ("DENIED", Deny),
    // ServerInfo the call itself, or about the data that it met.
    ("ERR", Fail),
    ("WRONGTYPE", Fail),
    ("EXECABORT", Fail),
    ("NOPROTO", Fail),
    ("NOSUB", Fail),
    ("BUSYKEY", Fail),
    ("BUSYGROUP", Fail),
    ("NOGROUP", Fail),
    ("INVALIDOBJ", Fail),
    ("IOERR", Fail),
    ("NOTBUSY", Fail),
    ("UNKILLABLE", Fail),
];

/// Returns the action after an error reply.
fn of_reply(code: &str, detail: &str) -> RetryAction {
    match code {
        "CLUSTERDOWN" if detail.starts_with("The cluster is down") => Wait,
        "UNBLOCKED" if detail.contains("instance state changed") => Reconnect,
        // Sent in place of the first reply, and the connection is closed.
        "ERR" if detail.starts_with("max number of clients") => Reconnect,
        "ERR" if lacks_rights(detail) => Deny,
        _ => REPLIES
            .iter()
            .find(|(known, _)| *known == code)
            .map_or(Fail, |(_, action)| *action),
    }
}

/// Returns the action after an error of the server or of the connection to it.
pub(crate) fn retry_action(error: &RedisError) -> RetryAction {
    match (error.kind(), error.code()) {
        (ErrorKind::Server(_) | ErrorKind::Extension, Some(code)) => {
            of_reply(code, error.detail().unwrap_or_default())
        }
        (ErrorKind::Server(ServerErrorKind::ExecAbort) | ErrorKind::Extension, None) => Fail,
        _ => Reconnect,
    }
}

#[cfg(test)]
mod tests {
    use redis::Value;

    use super::*;

    /// As the servers' sources have them.
    const SENT: &[(&str, RetryAction)] = &[
        ("LOADING Redis is loading the dataset in memory", Wait),
        (
            "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
            Wait,
        ),
        (
            "ERR The user executing the script can't publish to the channel mentioned in the command script: 0a, on @user_script:9.",
            Deny,
        ),
        (
            "ERR ACL failure in script: No permissions to access a channel script: 0a, on @user_script:9.",
            Deny,
        ),
        ("BUSY Redis is busy running a module command.", Wait),
        (
            "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk. Commands that may modify the data set are disabled",
            Wait,
        ),
        (
            "MISCONF Valkey is configured to save RDB snapshots, but it's currently unable to persist to disk. Writable scripts are blocked. Use 'no-writes' flag",
            Wait,
        ),
        (
            "MISCONF Redis is configured to persist data to AOF, but it's currently unable to persist to disk. Writable scripts are blocked.",
            Wait,
        ),
        (
            "MISCONF Errors writing to the AOF file: No space left on device",
            Wait,
        ),
        ("NOREPLICAS Not enough good replicas to write.", Wait),
        (
            "NOREPLICAS Not enough good replicas to write. script: 12ab, on @user_script:7.",
            Wait,
        ),
        ("INPROG Failover already in progress", Wait),
        ("NOGOODSLAVE No suitable replica to promote", Wait),
        (
            "NOQUORUM 1 usable Sentinels. Not enough available Sentinels",
            Wait,
        ),
        ("CLUSTERDOWN The cluster is down", Wait),
        (
            "CLUSTERDOWN The cluster is down and only accepts read commands",
            Wait,
        ),
        ("CLUSTERDOWN Hash slot not served", AskForMap),
        ("TRYAGAIN Multiple keys request during rehashing of slot", Repeat),
        ("MOVED 3999 127.0.0.1:6381", Moved),
        ("ASK 3999 127.0.0.1:6381", Ask),
        ("CROSSSLOT Keys in request don't hash to the same slot", Fail),
        ("NOSCRIPT No matching script. Please use EVAL.", Repeat),
        ("UNBLOCKED client unblocked via CLIENT UNBLOCK", Repeat),
        (
            "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
            Reconnect,
        ),
        ("READONLY You can't write against a read only replica.", Reconnect),
        (
            "READONLY Can not run script with write flag on readonly replica",
            Reconnect,
        ),
        (
            "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
            Reconnect,
        ),
        ("NOMASTERLINK Can't SYNC while failing over", Reconnect),
        ("REDIRECT 127.0.0.1:6380", Reconnect),
        ("NOAUTH Authentication required.", Reconnect),
        (
            "WRONGPASS invalid username-password pair or user is disabled.",
            Reconnect,
        ),
        ("ERR max number of clients reached", Reconnect),
        (
            "ERR max number of clients + cluster connections reached",
            Reconnect,
        ),
        ("OOM command not allowed when used memory > 'maxmemory'.", Deny),
        (
            "OOM allow-oom flag is not set on the script, can not run it when used memory > 'maxmemory'",
            Deny,
        ),
        (
            "NOPERM User default has no permissions to run the 'evalsha' command",
            Deny,
        ),
        ("NOPERM No permissions to access a key", Deny),
        ("DENIED Redis is running in protected mode", Deny),
        ("ERR unknown command 'EVALSHA'", Fail),
        (
            "ERR user_script:12: attempt to compare nil with number script: 12ab",
            Fail,
        ),
        (
            "WRONGTYPE Operation against a key holding the wrong kind of value",
            Fail,
        ),
        (
            "EXECABORT Transaction discarded because of previous errors.",
            Fail,
        ),
        ("NOPROTO unsupported protocol version", Fail),
        (
            "NOSUB 'unsubscribe' command executed not in subscribed mode",
            Fail,
        ),
        ("BUSYKEY Target key name already exists.", Fail),
        ("BUSYGROUP Consumer Group name already exists", Fail),
        ("NOGROUP No such consumer group", Fail),
        ("INVALIDOBJ Corrupted HLL object detected", Fail),
        ("IOERR error or timeout connecting to the client", Fail),
        ("NOTBUSY No scripts in execution right now.", Fail),
        (
            "UNKILLABLE Sorry the script already executed write commands against the dataset.",
            Fail,
        ),
        // The scripts' own.
        ("NOTDECLARED ml/pool/seats", Fail),
        ("TOOLARGE 3", Fail),
        ("NORESOURCE seat-a", Fail),
        ("NOTHELD ml/lock/x", Fail),
        ("DECLARED ml/pool/seats", Fail),
        ("STALE 7", Fail),
    ];

    /// As the driver makes it of a reply.
    fn received(line: &str) -> RedisError {
        let reply = redis::parse_redis_value(format!("-{line}\r\n").as_bytes());
        reply.and_then(Value::extract_error).unwrap_err()
    }

    #[test]
    fn every_error_reply_of_the_servers_has_its_action() {
        for (line, action) in SENT {
            assert_eq!(retry_action(&received(line)), *action, "{line}");
        }
        for (code, _) in REPLIES {
            let tested = SENT.iter().any(|(line, _)| line.split(' ').next() == Some(code));
            assert!(tested, "{code} has no example");
        }
    }

    #[test]
    fn what_the_network_does_is_mended_by_another_connection() {
        for kind in [
            std::io::ErrorKind::ConnectionReset,
            std::io::ErrorKind::TimedOut,
            std::io::ErrorKind::BrokenPipe,
        ] {
            assert_eq!(retry_action(&std::io::Error::from(kind).into()), Reconnect);
        }
    }
}
