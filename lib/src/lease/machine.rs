//! The life of a lease as three state machines: the request of a caller, its queue entry, and the lease that it gets.
//!
//! Each machine takes an event and returns the action that follows. None of them reads a clock or does I/O: the caller
//! passes the time with the event, and carries out the action.
//!
//! # [`request`]: driven by the future of the caller, in [`claim`](crate::lease::claim)
//! | event | condition | action |
//! |---|---|---|
//! | granted | before its deadline | take up the lease |
//! | granted | it has run out on the way | ask again; an error if the time is over |
//! | queued | the call looked at a part of the free resources | ask for the next part |
//! | queued | | listen to the queue entry |
//! | busy | the call looked at a part of the free resources | ask for the next part |
//! | busy | | end without a lease |
//! | unfinished | within the response timeout | ask again |
//! | unfinished | | end without a lease |
//! | failed: not declared | the request waits, for less than 5 s so far | ask again in 100 ms |
//! | failed: no answer until the end of the wait | the server answers others | end without a lease, give back |
//! | failed | the error proves that nothing was taken | end with the error |
//! | failed | | end with the error, give back |
//! | in doubt (a push or the queue entry is lost) | | ask again, with the same token |
//! | removed from the queue | | end with its error |
//! | time over | | leave the queue |
//!
//! A future that is dropped in any of these states gives back the lease or queue entry of its token.
//!
//! # [`queue_entry`]: driven by the registry, from the first request until the lease is taken up
//! | state | event | action | next state |
//! |---|---|---|---|
//! | waiting | granted, removed, missing, closed | resolve the request | resolved |
//! | waiting | expired on the server | resolve: ask again | resolved |
//! | waiting | confirmed | renew at a third of its life, or when a lease expires | waiting |
//! | waiting | the server has left work | renew now | waiting |
//! | waiting | no answer | renew in 200 ms | waiting |
//! | any | the lease has ended | note it for the request | the same |
//! | resolved | any other | none: a late or second message | resolved |
//!
//! # [`held`]: driven by the registry, while the lease is held
//! | state | event | condition | action | next state |
//! |---|---|---|---|---|
//! | held, unsure | confirmed | before the deadline | renew at a third of the rest | held |
//! | held, unsure | confirmed | past the deadline | give back | lost |
//! | held, unsure | no answer, object missing | before the deadline | renew in 200 ms | unsure |
//! | held, unsure | recovering | before the deadline | readmit | unsure |
//! | held, unsure | no answer, object missing, recovering | past the deadline | forget | lost |
//! | held, unsure | gone, ended | | forget | lost |
//! | held, unsure | suspended | past the deadline | forget | lost |
//! | held, unsure | closed | | none | unsure |
//! | lost | confirmed | | give back | lost |
//! | lost | any other | | forget | lost |

pub(crate) mod held;
pub(crate) mod queue_entry;
pub(crate) mod request;

/// A lease of thirty seconds.
#[cfg(test)]
fn granted(fence: u64) -> request::Granted {
    use std::time::Duration;

    use crate::{protocol::message::Grant, transport::uptime::Moment};

    request::Granted {
        grant: Grant {
            fence,
            now: 0,
            expires: 30_000,
            lease: 30_000,
            since: 0,
            declared: true,
            permits: 1,
            resources: Vec::new(),
        },
        deadline: Moment::after(Duration::from_secs(30)),
    }
}
