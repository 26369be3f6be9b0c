//! The library on real servers. `docs/promises.md` has the wording of the promises.
//!
//! | module | promise |
//! |---|---|
//! | [`command_counts`] | 1: one command to acquire, one to release, one to renew many; at most 2.5 under contention |
//! | [`handoff`] | 2: a release grants and notifies only the next waiter, without polling |
//! | [`fairness`] | 3: first come, first served; large requests do not starve |
//! | [`deadlines`] | 4: the holder stops before the server's expiry |
//! | [`fencing`] | 5: fencing tokens strictly grow |
//! | [`data_loss`] | 6: declared objects stay exclusive over a loss of Redis' data |
//! | [`retries`] | 7: a repeated request takes effect once |
//! | [`cancellation`] | 8: a dropped future leaves nothing behind |
//! | [`lost_leases`] | 9: the holder is notified of a lost lease |
//! | [`crashes`] | 10: a crash costs at most one lease in total |
//! | [`visibility`] | 12: holders and waiters can be read |
//!
//! Promise 11 (one hash tag an object) has a unit test in `lib/src/protocol/object.rs`, promise 13 is tested in
//! `tests/suites/controller/outages.rs`.
//!
//! The primitives beyond acquiring:
//!
//! | module | contents |
//! |---|---|
//! | [`bad_input`] | errors for invalid arguments |
//! | [`condition`] | waiting and notifying |
//! | [`keyed_lock`] | locks that parameters name, one and several |
//! | [`options`] | grace, priority, hand-over between processes, replicas |
//! | [`pool`] | selectors and resources |
//! | [`listing`] | objects, requests of waiters, and servers, for people who look |
//! | [`reentrant_lock`], [`rw_lock`] | the primitives of these names |
//! | [`register`] | conditional writes, the fence, and repeats of both |
//!
//! The documentation:
//!
//! | module | contents |
//! |---|---|
//! | [`conformance`] | the vectors in `conformance/`, on Redis and Valkey |
//! | [`session`] | the session in `docs/protocol.md`, command by command |
//!
//! Faults of servers and networks:
//!
//! | module | |
//! |---|---|
//! | [`cluster`] | Redis Cluster: several masters, moving slots, dying nodes |
//! | [`credentials`] | credentials that change under a client that lives |
//! | [`damaged`] | objects of which keys or entries were overwritten |
//! | [`managed`] | services that refuse commands, as managed ones do |
//! | [`refusals`] | servers that refuse to write for a while |
//! | [`security`] | TLS, and the smallest rights that work |
//! | [`sentinel`] | Redis behind Sentinel: masters that change |
//! | [`tenants`] | one Redis user for each namespace |
//! | [`versions`] | objects that another version of the protocol has written |
//! | [`silence`] | connections that die silently, and frozen servers |
//! | [`servers`] | full, evicting, read-only and old servers; Valkey |

mod bad_input;
mod cancellation;
mod cluster;
mod command_counts;
mod condition;
mod conformance;
mod crashes;
mod credentials;
mod cutter;
mod damaged;
mod data_loss;
mod deadlines;
mod fairness;
mod fencing;
mod handoff;
mod keyed_lock;
mod listing;
mod lost_leases;
mod managed;
mod options;
mod pool;
mod reentrant_lock;
mod refusals;
mod register;
mod retries;
mod rw_lock;
mod security;
mod sentinel;
mod servers;
mod session;
mod silence;
mod support;
pub(crate) mod tenants;
mod versions;
mod visibility;
