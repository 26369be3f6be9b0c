//! Values that several tests need.

use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use tenure::{
    Identity,
    control::{HolderView, Snapshot, WaiterView},
};

/// The length of a lease.
pub(crate) const LEASE: Duration = Duration::from_secs(30);
/// The second at which the tests begin.
pub(crate) const START: i64 = 1_000;

pub(crate) fn at(second: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(second).unwrap())
}

pub(crate) fn time(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

pub(crate) fn identity(pod: Option<&str>, namespace: &str) -> Identity {
    let json = serde_json::json!({"pod": pod, "namespace": namespace, "process": "host/7"});
    serde_json::from_value(json).unwrap()
}

pub(crate) fn holder(number: u64, resources: &[&str], expires: i64) -> HolderView {
    HolderView {
        token: format!("token-{number}"),
        fence: 100 + number,
        permits: resources.len().max(1) as u64,
        resources: resources.iter().map(|&name| name.to_owned()).collect(),
        since: at(START),
        expires: at(expires),
        holder: identity(Some(&format!("worker-{number}")), "ml"),
        reason: "training".to_owned(),
    }
}

pub(crate) fn waiter(number: u64) -> WaiterView {
    WaiterView {
        token: format!("waiter-{number}"),
        permits: 1,
        since: at(START),
        holder: identity(Some(&format!("waiter-{number}")), "ml"),
        reason: String::new(),
    }
}

pub(crate) fn snapshot(now: i64, holders: Vec<HolderView>, waiters: Vec<WaiterView>) -> Snapshot {
    let held = holders.iter().map(|holder| holder.permits).sum();
    Snapshot {
        now: at(now),
        digest: Some("d".to_owned()),
        current: true,
        limit: 4,
        held,
        free: 4_u64.saturating_sub(held),
        waiting: waiters.len() as u64,
        last_fence: 200,
        recovering_until: None,
        withdrawing: false,
        next_change: holders.iter().map(|holder| holder.expires).min(),
        longest_lease: LEASE,
        holders,
        waiters,
    }
}
