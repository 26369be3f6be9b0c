//! The library on a real Redis: the design's promises, and what bad input is told.
//!
//! | module | the promise that it breaks on purpose |
//! |---|---|
//! | [`p01_one_command`] | one command to acquire, one to release, one to renew many; at most 2.5 when contended |
//! | [`p02_direct_handoff`] | a release wakes the next alone, without polling; lost connections cost little |
//! | [`p03_first_come`] | first come, first served; large requests do not starve |
//! | [`p04_clock`] | the holder stops before the server's expiry |
//! | [`p05_fencing`] | fencing tokens strictly grow |
//! | [`p06_loss_of_data`] | exclusion survives the loss of Redis' data |
//! | [`p07_retries`] | whatever is sent twice is done once |
//! | [`p08_cancel`] | a dropped future leaves nothing behind |
//! | [`p09_lost`] | a lost lease is told |
//! | [`p10_crash`] | a crash costs one lease in total |
//! | [`p12_who_holds`] | who holds and who waits can be read |
//!
//! And what the primitives do beyond acquiring:
//!
//! | module | |
//! |---|---|
//! | [`keyed_lock`] | locks that parameters name, one and many |
//! | [`register`] | conditional writes, the fence, and repeats of both |
//!
//! What servers and networks do to all of them:
//!
//! | module | |
//! |---|---|
//! | [`cluster`] | Redis Cluster: several masters, moving slots, dying nodes |
//! | [`credentials`] | credentials that change under a client that lives |
//! | [`damaged`] | objects of which keys or entries were overwritten |
//! | [`refusals`] | servers that refuse to write for a while |
//! | [`security`] | TLS, and the smallest rights that work |
//! | [`sentinel`] | Redis behind Sentinel: masters that change |
//! | [`versions`] | objects that another version of the protocol has written |
//! | [`silence`] | connections that die without a word, and frozen servers |
//! | [`servers`] | full, evicting, read-only and old servers; Valkey |
//!
//! The eleventh (one hash tag an object) is a unit test in `lib/src/object.rs`, the thirteenth stands in
//! `controller.rs`.

mod bad_input;
mod cluster;
mod condition;
mod credentials;
mod cutter;
mod damaged;
mod keyed_lock;
mod options;
mod p01_one_command;
mod p02_direct_handoff;
mod p03_first_come;
mod p04_clock;
mod p05_fencing;
mod p06_loss_of_data;
mod p07_retries;
mod p08_cancel;
mod p09_lost;
mod p10_crash;
mod p12_who_holds;
mod pool;
mod reentrant_lock;
mod refusals;
mod register;
mod rw_lock;
mod security;
mod sentinel;
mod servers;
mod silence;
mod support;
mod versions;
