//! The wire: one connection a client and server, on which scripts go out and pushes come in.
//!
//! | module | what it does |
//! |---|---|
//! | [`secret`] | the secret of a lease, and the token that is made of it |
//! | [`script`] | the texts of the protocol, and their hashes |
//! | [`address`] | what a URL names: servers, Sentinels, credentials |
//! | [`node`] | the connection to one server: made, kept and made again |
//! | [`about`] | what a server says about itself, and whether it will do |
//! | [`explain`] | why a connection could not be made |
//! | [`sentinel`] | who the master is, by the word of most Sentinels |
//! | [`cluster`] | which server of a cluster has which slot |
//! | [`routes`] | which server has an object |
//! | [`admission`] | when a call may go out: bounds what is in flight, and backs off while the server refuses |
//! | [`retry`] | what follows an error |
//! | [`link`] | the way from an object to its server; calls scripts, and repeats them safely |
//! | [`replicated`] | writes that wait for replicas, over a connection of their own |
//! | [`message`] | what the server says: replies and pushes, read into types |
//! | [`unusable`] | what is wrong with an object that is damaged or of another version, and what to do about it |
//! | [`uptime`] | this process' clock, which goes on while the machine is suspended |
//! | [`clock`] | from the server's clock to this process' own, on the safe side |
//! | [`ledger`] | what this client holds and waits for; pushes arrive here |
//! | [`schedule`] | when what is in the ledger has to be renewed |
//! | [`renewal`] | keeps what is in the ledger alive, in batches |
//! | [`releaser`] | gives back, in the background, what was dropped |

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::Error;

mod about;
pub(crate) mod address;
pub(crate) mod admission;
pub(crate) mod clock;
pub(crate) mod cluster;
mod explain;
pub(crate) mod ledger;
pub(crate) mod link;
pub(crate) mod message;
pub(crate) mod node;
pub(crate) mod releaser;
pub(crate) mod renewal;
mod replicated;
mod retry;
mod routes;
mod schedule;
pub(crate) mod script;
pub(crate) mod secret;
pub(crate) mod sentinel;
pub(crate) mod unusable;
pub(crate) mod uptime;

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds one of our mutexes; should it, what they guard is still whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// So much later, and at most ten years: what is longer is for ever, and an instant has no room for every duration.
pub(crate) fn later(span: Duration) -> Instant {
    const AGES: Duration = Duration::from_secs(10 * 365 * 86_400);
    Instant::now() + span.min(AGES)
}

pub(crate) fn unreachable(address: &str, error: impl std::fmt::Display) -> Error {
    Error::Unreachable {
        reason: format!("{address}: {error}"),
    }
}
