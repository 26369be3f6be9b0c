//! The calls of the scripts: for each script a request that knows its arguments, and its reply as a type. No other
//! module knows the order of arguments, or the form of a reply.

mod acquire;
mod adopt;
mod call;
mod declare;
mod downgrade;
mod list;
mod members;
mod notify;
mod observe;
mod readmit;
mod register;
mod rejoin;
mod release;
mod renew;
mod wait;
mod withdraw;

pub(crate) use self::{
    acquire::{Acquire, Acquired},
    adopt::{Adopt, Adopted},
    call::{Arguments, Call, Hears, read},
    declare::{Declare, Pool},
    downgrade::Downgrade,
    list::{Entry, List},
    members::{Change, Members},
    notify::Notify,
    observe::{Inspect, Inspected, Lease, Observe, Observed, Waiter},
    readmit::Readmit,
    register::{Action, Condition, Register, TimeToLive, Written},
    rejoin::{Rejoin, Rejoined},
    release::{Ending, Release, Released},
    renew::{Object, Renew, Renewals, Renewed},
    wait::Wait,
    withdraw::{Removal, Withdraw, Withdrawn},
};
