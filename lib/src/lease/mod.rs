//! The life of a lease: requested, granted, renewed, released or lost.
//!
//! | module | contents |
//! |---|---|
//! | [`session`] | connection, registry and identity, which all handles of a client share |
//! | [`options`] | options of a request |
//! | [`identity`] | identity of a holder, as others see it |
//! | [`acquire`] | requests: acquire, queue, time out, give back |
//! | [`adoption`] | adoption of a detached lease |
//! | [`guard`] | a held lease, which is released when it is dropped |
//! | [`registry`] | all leases and queue entries of a client; receives the pushes |
//! | [`schedule`] | order in which the leases and queue entries of the registry are renewed |
//! | [`renewer`] | renews what is due, in batches |
//! | [`releaser`] | releases dropped leases in the background |
//! | [`telemetry`] | metrics |

pub(crate) mod acquire;
pub(crate) mod adoption;
pub(crate) mod guard;
pub(crate) mod identity;
pub(crate) mod options;
pub(crate) mod registry;
pub(crate) mod releaser;
pub(crate) mod renewer;
mod schedule;
pub(crate) mod session;
pub(crate) mod telemetry;
