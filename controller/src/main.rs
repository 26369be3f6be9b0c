//! The controller: declares `LockPool`s and `Semaphore`s in Redis, takes back the leases of ended pods, and reports
//! holders and waiters. It never grants: programs talk to Redis themselves, and no lease changes when it dies.
//!
//! # Where to look
//! | module | what is in it |
//! |---|---|
//! | [`config`] | flags and environment variables |
//! | [`run`] | starts the parts and stops them |
//! | [`triggers`] | what makes it look at an object |
//! | [`reconcile`] | one reconciliation of one object: the I/O, in order |
//! | [`kinds`] | what it must know of a custom resource |
//! | [`declare`] | the declarations in Redis, and fencing floors |
//! | [`reclaim`] | which pods have ended |
//! | [`withdraw`] | what becomes of the keys of a deleted object |
//! | [`status`] | what is reported, and when it is news |
//! | [`tracker`] | how often an object is looked at |
//! | [`events`] | events of an object |
//! | [`telemetry`], [`http`] | the log, the metrics, the probes |
//!
//! `declare`, `withdraw` and `status` decide and do nothing; `reconcile` does and decides nothing.
//!
//! # What it must be allowed to do
//! In every namespace that it watches, and nothing else:
//!
//! | group | resources | verbs |
//! |---|---|---|
//! | `tenure.dev` | `lockpools`, `semaphores` | `list`, `watch`, `patch` (the finalizer) |
//! | `tenure.dev` | `lockpools/status`, `semaphores/status` | `patch` |
//! | core | `pods` | `list`, `watch` |
//! | `events.k8s.io` | `events` | `create`, `patch` |
//!
//! In Redis: the commands of the scripts in `lua/`, on keys and channels that begin with the key prefix, and `INFO`.

use std::process::ExitCode;

use clap::Parser;

mod config;
mod declare;
mod events;
mod http;
mod kinds;
mod reclaim;
mod reconcile;
mod run;
mod status;
mod telemetry;
mod tracker;
mod triggers;
mod withdraw;

// The host may have a hundred cores of which the container gets one; two threads are plenty.
#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    let config = config::Config::parse();
    telemetry::start_log(config.log_format, &config.log_level);
    match run::run(config).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}
