//! The transport: takes a call of a script to the server that has the object, and brings replies and pushes back.
//!
//! | module | contents |
//! |---|---|
//! | [`url`] | reads a URL: servers, Sentinels and credentials |
//! | [`endpoint`] | the clients of the driver for them |
//! | [`credentials`] | credentials that change while a client runs |
//! | [`resolver`] | finds the addresses of servers in place of the system |
//! | [`tls`] | certificates |
//! | [`connection`] | the connection to one server, which is made again when it breaks |
//! | [`backend`] | the interface between a session and its server |
//! | [`redis_connection`] | implements it for Redis |
//! | [`server_info`] | reads `INFO`, and decides whether the server is supported |
//! | [`explain`] | the reason why a connection could not be made |
//! | [`sentinel`] | finds the master that a majority of Sentinels report |
//! | [`cluster`] | the map from slots to the servers of a cluster |
//! | [`cluster_map`] | follows that map |
//! | [`routing_table`] | the server of each object |
//! | [`subscriptions`] | the sharded channels of a connection to a server of a cluster |
//! | [`admission`] | bounds the calls in flight, and backs off while a server refuses them |
//! | [`backoff`] | the delay between two tries |
//! | [`retry`] | the reaction to each error |
//! | [`all_servers`] | sends commands about the servers themselves to each of them |
//! | [`router`] | calls scripts at the servers of their objects, and repeats calls safely |
//! | [`replicated`] | calls that wait for replicas, over a connection of their own |
//! | [`own_connection`] | the connection of the calls that wait for replicas |
//! | [`uptime`] | the clock of this process, which counts suspends of the machine |
//! | [`clock`] | converts the ends of leases from the server's clock to that of this process |

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::Error;

pub(crate) mod admission;
pub(crate) mod all_servers;
pub(crate) mod backend;
mod backoff;
pub(crate) mod clock;
pub(crate) mod cluster;
mod cluster_map;
pub(crate) mod connection;
pub(crate) mod credentials;
pub(crate) mod endpoint;
mod explain;
mod own_connection;
mod redis_connection;
mod replicated;
pub(crate) mod resolver;
mod retry;
pub(crate) mod router;
pub(crate) mod routing_table;
pub(crate) mod sentinel;
mod server_info;
mod subscriptions;
#[cfg(feature = "tls")]
pub(crate) mod tls;
pub(crate) mod uptime;
pub(crate) mod url;

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds one of our mutexes; should it, what they guard is still whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The instant after `span`, at most ten years from now: an instant has no room for every duration.
pub(crate) fn later(span: Duration) -> Instant {
    const AGES: Duration = Duration::from_secs(10 * 365 * 86_400);
    Instant::now() + span.min(AGES)
}

pub(crate) fn unreachable(address: &str, error: impl std::fmt::Display) -> Error {
    Error::Unreachable {
        reason: format!("{address}: {error}"),
    }
}

/// The text of an error reply, or the driver's description of another error.
pub(crate) fn error_text(error: &redis::RedisError) -> String {
    match (error.code(), error.detail()) {
        (Some(code), detail) => format!("{code} {}", detail.unwrap_or_default()).trim().to_owned(),
        (None, _) => error.to_string(),
    }
}
