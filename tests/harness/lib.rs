//! The harness: real servers for the suites in `tests/suites`, and for `make demo`.
//!
//! | module | gives |
//! |---|---|
//! | [`assets`] | `redis-server`, `valkey-server`, `etcd`, `kube-apiserver`, `kubectl`, `helm`: found, installed, downloaded or built; and the servers of `make matrix` |
//! | [`process`] | child processes, folders and ports that do not outlive the run |
//! | [`proxy`] | a proxy before a Redis that delays, drops and cuts |
//! | [`strict`] | what such a proxy refuses, as managed services do |
//! | [`redis`] | a shared Redis, or own ones that a test may kill, pause and empty |
//! | [`sentinel`] | a master with replicas, and the Sentinels that watch it |
//! | [`cluster`] | a Redis Cluster, whose slots move and whose nodes fail |
//! | [`tls`] | certificates, and a Redis that asks for them |
//! | [`conformance`] | the replay of the conformance vectors |
//! | [`sent`] | how many commands clients have sent to a Redis |
//! | [`control_plane`] | a shared etcd and API server with Tenure's resources installed |
//! | [`controller`] | the real `tenure-controller` as a child process |
//! | [`suspend`] | a machine that is suspended, as one process sees it |
//! | [`binaries`] | the workspace's own programs |
//! | [`eventually`] | waiting for a condition, in place of sleeping |
//!
//! Servers are plain processes, so a test may share them with tests that run on other tokio runtimes. Clients
//! are not shared: each test makes its own.

pub mod assets;
#[cfg(feature = "kubernetes")]
pub mod binaries;
pub mod cluster;
pub mod conformance;
#[cfg(feature = "kubernetes")]
pub mod control_plane;
#[cfg(feature = "kubernetes")]
pub mod controller;
pub mod process;
pub mod proxy;
pub mod redis;
pub mod sent;
pub mod sentinel;
pub mod strict;
pub mod suspend;
#[cfg(feature = "kubernetes")]
pub mod tls;
mod wait;

pub use anyhow::{Context, anyhow, bail, ensure};
pub use cluster::Cluster;
#[cfg(feature = "kubernetes")]
pub use control_plane::ControlPlane;
#[cfg(feature = "kubernetes")]
pub use controller::Controller;
pub use process::{Process, unique};
pub use proxy::Proxy;
pub use redis::Redis;
pub use sentinel::Sentinel;
pub use strict::Strict;
pub use suspend::Suspender;
pub use wait::eventually;

/// Result of the harness and of tests. The error carries its causes and the logs' tails.
pub type Result<T = ()> = anyhow::Result<T>;
