//! The controller: declares `LockPool`s and `Semaphore`s in Redis, takes back the leases of ended pods, and reports
//! holders and waiters. It never grants: programs talk to Redis themselves, and no lease changes when it dies.
//!
//! # Where to look
//! | module | what is in it |
//! |---|---|
//! | [`config`] | flags and environment variables |
//! | [`run`] | starts the parts and stops them |
//! | [`triggers`] | the reasons to look at an object |
//! | [`reconcile`] | one reconciliation of one object: plan, apply, until done |
//! | [`plan`] | its decisions, as pure functions: ownership, finalizer, declaration, reclaim, withdrawal, status, failure |
//! | [`apply`] | its I/O: executes one step of a plan |
//! | [`epochs`] | the record that backs the fencing floors of all objects after a loss of data |
//! | [`installations`] | which installation manages an object, if several watch the same namespaces |
//! | [`replicas`] | whether another controller of the installation reaches Redis while this one does not |
//! | [`leftovers`] | keys that were left behind while Redis was unreachable are withdrawn later |
//! | [`asked_for`] | objects that clients ask for are reconciled before the others |
//! | [`access`] | a Redis user for each namespace that is allowed, with its credentials in a Secret |
//! | [`bundled`] | the password and the certificate of the Redis that the chart runs |
//! | [`password`] | a password, which no log shows |
//! | [`kinds`] | what it must know of a custom resource |
//! | [`ended_pods`] | which pods have ended |
//! | [`tracker`] | how often an object is looked at, and what was seen of it before |
//! | [`events`], [`failure`] | events of an object, and reasons why a reconciliation fails |
//! | [`lock`] | locks a mutex, also after a panic |
//! | [`watching`], [`redis_health`] | whether the watches of the API server still deliver, and whether Redis lets the controller work |
//! | [`telemetry`], [`http`] | the log, the metrics, the probes |
//!
//! `plan` decides and does nothing; `apply` does and decides nothing.
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
//! | `coordination.k8s.io` | `leases` | `get` (those that identify installations) |
//!
//! And of the one ConfigMap of `--epoch-record`, in its namespace:
//!
//! | group | resources | verbs |
//! |---|---|---|
//! | core | `configmaps`, of that name | `get`, `patch` |
//!
//! Of the Lease of `--installation`, in its namespace, and `create` of Leases if nothing else makes it:
//!
//! | group | resources | verbs |
//! |---|---|---|
//! | `coordination.k8s.io` | `leases`, of that name | `get`, `list`, `watch`, `patch` |
//!
//! With `--access`, in every namespace that it watches, also:
//!
//! | group | resources | verbs |
//! |---|---|---|
//! | core | `namespaces` | `list`, `watch` |
//! | core | `secrets`, of the name tenure-access | `list`, `watch`, `create`, `patch`, `delete` |
//!
//! Of the Secrets of `--redis-secret`, `--redis-node-secret` and `--redis-tls-secret`, in their namespace:
//!
//! | group | resources | verbs |
//! |---|---|---|
//! | core | `secrets`, of that name | `list`, `watch`, `patch` |
//!
//! In Redis: the commands of the scripts in `lua/`, on keys and channels that begin with the key prefix, and `INFO`; with
//! `--access` or `--redis-secret` also `ACL LIST`, `ACL SETUSER` and `ACL DELUSER`.

use std::process::ExitCode;

use clap::Parser;

mod access;
mod apply;
mod asked_for;
mod bundled;
mod config;
mod data_loss;
mod ended_pods;
mod epochs;
mod events;
mod failure;
mod first_floor;
#[cfg(test)]
mod fixtures;
mod holders;
mod http;
mod installations;
mod kinds;
mod leftovers;
mod lock;
mod password;
mod plan;
mod reconcile;
mod redis_health;
mod replicas;
mod run;
mod telemetry;
mod tracker;
mod triggers;
mod watching;
mod writes;

fn main() -> ExitCode {
    let config = config::Config::parse();
    telemetry::start_log(config.log_format, &config.log_level);
    // The host may have a hundred cores of which the container gets one; two threads are plenty.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let outcome = runtime.map_err(run::RunError::Runtime).and_then(|runtime| {
        let outcome = runtime.block_on(run::run(config));
        // A name that is being resolved would hold up the end for seconds.
        runtime.shutdown_background();
        outcome
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}
