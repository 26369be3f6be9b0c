//! The life of a lease: requested, granted, renewed, released or lost.
//!
//! | module | contents |
//! |---|---|
//! | [`session`] | connection, registry and identity, which all handles of a client share |
//! | [`options`] | options of a request |
//! | [`identity`] | identity of a holder, as others see it |
//! | [`acquire`] | handles, and requests for a lease |
//! | [`claim`] | a request under way, which gives back what it may have got when it is dropped |
//! | [`adoption`] | adoption of a detached lease |
//! | [`machine`] | state machines of a request, a queue entry and a lease |
//! | [`guard`] | a held lease, which is released when it is dropped |
//! | [`hold`] | data of a lease and of the request that got it |
//! | [`object_keys`] | an object, its keys, and the newest fencing token seen |
//! | [`registry`] | all leases and queue entries of a client; receives the pushes |
//! | [`schedule`] | order in which the leases and queue entries of the registry are renewed |
//! | [`renewer`] | renews what is due, in batches |
//! | [`releaser`] | releases dropped leases in the background |
//! | [`telemetry`] | metrics |

pub(crate) mod acquire;
pub(crate) mod adoption;
pub(crate) mod claim;
pub(crate) mod guard;
pub(crate) mod hold;
pub(crate) mod identity;
pub(crate) mod machine;
pub(crate) mod object_keys;
pub(crate) mod options;
pub(crate) mod registry;
pub(crate) mod releaser;
pub(crate) mod renewer;
mod schedule;
pub(crate) mod session;
pub(crate) mod telemetry;
