//! Coordination over Redis for programs on Kubernetes and elsewhere: locks, semaphores and pools, whose holds are
//! *leases*: bounded in time, renewed while held, carrying a fencing token, and the holder is notified when one is
//! lost.
//!
//! ```no_run
//! # async fn run() -> Result<(), tenure::Error> {
//! let client = tenure::Client::connect("redis://127.0.0.1:6379").await?;
//!
//! // A lock needs nothing but a name.
//! let lease = client.lock("nightly-migration")?.acquire().await?;
//! lease.release().await?;
//!
//! // A pool and a semaphore are declared with kubectl.
//! let seat = client.lock_pool("gpu-seats")?.acquire().await?;
//! println!("we have {} until {:?}, fencing token {}", seat.resource(), seat.deadline(), seat.fencing_token());
//! # Ok(()) }
//! ```
//!
//! # Modules and types
//! | item | contents |
//! |---|---|
//! | [`Client`] | the connection; makes all the others |
//! | [`Lock`], [`ReentrantLock`], [`RwLock`], [`Semaphore`], [`LockPool`] | the primitives that are acquired, a file each |
//! | [`Condvar`] | a condition that holders of a lock wait for |
//! | [`KeyedLock`], [`LockSet`] | locks that parameters name: one, and several together |
//! | [`Params`], [`params!`] | the parameters, and the key that they make |
//! | [`Register`] | one value: conditional writes, and a fence |
//! | [`Lease`], [`PoolLease`] | the result of an acquisition; `while_held` runs work under it |
//! | [`Options`], [`Identity`] | the settings of a lease, and the identity of its holder |
//! | [`control`] | the controller's side: declare, observe, reclaim |
//! | [`guide`] | the choice of a primitive, the limits of a lease, and the behaviour under failures |
//! | `memory` | with the feature of this name: the in-memory twin, for tests and single processes |
//!
//! Inside, modules stand on floors: `primitives` and `control`, `lease` (from request to release), `transport` (connections and
//! calls), `protocol` (scripts, keys, replies).
//!
//! The scripts of the protocol are in `lua/`, one for each operation; `docs/protocol.md` describes them for other
//! clients.
//!
//! # Requirements and features
//! The feature `tls` adds `rediss://` URLs, own certificate authorities and client certificates.
//!
//! With the feature `metrics`, waits, holds and losses are counted through the [`metrics`](https://docs.rs/metrics) facade:
//! `tenure_wait_seconds{kind,outcome}`, `tenure_hold_seconds{kind}`, `tenure_lost_total{kind}`. Spans and events go through
//! `tracing`.
//!
//! A tokio runtime with time and I/O enabled; Redis 7.0 or Valkey 7.2, or newer.
//!
//! # Send and Sync
//! | what | `Send` | `Sync` | `Unpin` | `Clone` |
//! |---|---|---|---|---|
//! | [`Client`], [`Control`], handles such as [`Lock`], options, names, values, views, [`Error`] | yes | yes | yes | yes |
//! | leases, such as [`Lease`] and [`PoolLease`]; [`control::Events`] | yes | yes | yes | no |
//! | all futures | yes | not promised | no | no |
//!
//! The future of [`Condvar::wait_while`] is `Send` if its predicate is, and the future that this returns. A lease may be given
//! to another task or shared, in an `Arc`, by several; it is not tied to the task that acquired it.

pub mod control;
#[doc = include_str!("../docs/guide.md")]
pub mod guide {}
#[cfg(feature = "memory")]
pub mod memory;

mod builder;
mod client;
mod lease;
mod primitives;
mod protocol;
mod transport;

pub use builder::ClientBuilder;
pub use client::Client;
pub use control::Control;
pub use lease::{guard::Lease, identity::Identity, machine::held::LeaseState, options::Options};
#[cfg(feature = "memory")]
pub use memory::Memory;
pub use primitives::{
    condvar::Condvar,
    keyed_lock::{KeyedLease, KeyedLock},
    lock::{Lock, LockStatus},
    lock_set::{LeaseSet, LockSet},
    params::{ParamValue, Params},
    pool::{
        LockPool, PoolLease,
        members::{PoolHealth, ResourceView},
    },
    reentrant_lock::{ReentrantLease, ReentrantLock},
    register::{Compare, Expiry, Outcome, Register, RegisterValue},
    rw_lock::{RwLock, WriteLease},
    semaphore::{Permits, Semaphore},
};
pub use protocol::{
    error::Error,
    object::{Kind, ObjectRef, ResourceState},
};
pub use transport::credentials::{Credentials, CredentialsFuture, CredentialsProvider, FileCredentials};
pub use transport::resolver::{AddressFuture, AddressResolver};

/// Compiles the examples of the README.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
