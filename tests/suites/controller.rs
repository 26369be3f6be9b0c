//! The controller as a program: a real API server, a real Redis, and the library as the holder.
//!
//! | module | what it shows |
//! |---|---|
//! | [`access`] | a Redis user and a Secret for each namespace that is allowed |
//! | [`reporting`] | what is declared can be held, and what is held is seen within a second; quiet otherwise |
//! | [`deleting`] | each deletion policy, and deletions that cannot be carried out |
//! | [`outages`] | Redis away, emptied, or refusing; the controller killed: no lease changes |
//! | [`recovery`] | after a loss of data all objects are declared after one write, those that are asked for first |
//! | [`permissions`] | it needs what it lists, and nothing else |
//! | [`pods`] | the end of a pod frees what it had |
//! | [`topologies`] | declared objects on Redis Cluster and behind Sentinels, while slots and masters change |
//! | [`security`] | Redis over TLS |
//! | [`serving`] | probes, metrics, flags, signals |
//! | [`together`] | two controllers at once |

mod access;
mod bundled;
mod deleting;
mod health;
mod installations;
mod outages;
mod permissions;
mod pods;
mod recovery;
mod reporting;
mod security;
mod serving;
mod support;
mod together;
mod topologies;
