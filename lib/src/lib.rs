//! Coordination over Redis for programs on Kubernetes and elsewhere: locks, semaphores and pools, whose holds are
//! *leases*: bounded in time, renewed while held, carrying a fencing token, and the holder is told when one is lost.
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
//! # Where to look
//! | module | what is in it |
//! |---|---|
//! | [`Client`] | the connection; makes all the others |
//! | [`Lock`], [`ReentrantLock`], [`RwLock`], [`Semaphore`], [`LockPool`] | one file each: what can be acquired |
//! | [`Condition`] | what the holders of a lock wait for |
//! | [`KeyedLock`], [`LockMany`] | locks that parameters name: one, and several together |
//! | [`Params`] | the parameters, and the key that they make |
//! | [`Register`] | one value: conditional writes, and a fence |
//! | [`Lease`], [`PoolLease`] | what acquiring gives |
//! | [`Options`], [`Identity`] | how to hold, and who holds |
//! | [`control`] | the controller's side: declare, observe, reclaim |
//! | [`guide`] | which primitive for which problem, what a lease is worth, what happens when things break |
//! | `acquire` | the one way in, from request to lease |
//! | `memory` | with the feature of this name: the in-memory twin, for tests and single processes |
//! | `wire` | the connection, the scripts, the pushes, the renewal |
//!
//! The protocol itself is in `lua/`: one script an operation; `docs/protocol.md` says how to speak it.
//!
//! # What needs what
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
//! The future of [`Condition::wait_while`] is `Send` if its predicate is, and the future that this returns. A lease may be given
//! to another task or shared, in an `Arc`, by several; it is not tied to the task that acquired it.

pub mod control;
#[doc = include_str!("../docs/guide.md")]
pub mod guide {}
#[cfg(feature = "memory")]
pub mod memory;

mod acquire;
mod adoption;
mod builder;
mod client;
mod condition;
mod credentials;
mod error;
mod identity;
mod keyed_lock;
mod lease;
mod lock;
mod lock_many;
mod object;
mod options;
mod params;
mod pool;
mod pool_members;
mod reentrant_lock;
mod register;
mod rw_lock;
mod semaphore;
mod telemetry;
#[cfg(feature = "tls")]
mod tls;
mod wire;

pub use builder::ClientBuilder;
pub use client::Client;
pub use condition::Condition;
pub use control::Control;
pub use credentials::{Credentials, CredentialsFuture, CredentialsProvider, FileCredentials};
pub use error::Error;
pub use identity::Identity;
pub use keyed_lock::{KeyedLease, KeyedLock};
pub use lease::{Lease, LeaseState};
pub use lock::{Lock, LockStatus};
pub use lock_many::{LeaseMany, LockMany};
#[cfg(feature = "memory")]
pub use memory::Memory;
pub use object::{Kind, ObjectRef};
pub use options::Options;
pub use params::{ParamValue, Params};
pub use pool::{LockPool, PoolLease};
pub use pool_members::{Member, PoolHealth, ResourceState};
pub use reentrant_lock::{ReentrantLease, ReentrantLock};
pub use register::{Compare, Expiry, Outcome, Register, RegisterValue};
pub use rw_lock::{RwLock, WriteLease};
pub use semaphore::Semaphore;

/// What the README shows compiles.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
