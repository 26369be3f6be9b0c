//! Values that several tests need, and a world in which the reconciler runs: a scripted API server, and the in-memory twin
//! of Redis.

use std::{
    sync::LazyLock,
    time::{Duration, SystemTime},
};

use jiff::Timestamp;
use tenure::{
    Identity, Kind, Memory, ObjectRef,
    control::{Capacity, HolderView, Observation, Snapshot, WaiterView},
};
use tenure_crds::{LeasePolicy, whole_seconds};

mod api_server;
mod world;

pub(crate) use api_server::{Answer, ApiServer, Call};
pub(crate) use world::World;

use crate::{
    kinds::{Desired, StatusDraft},
    plan::{Facts, finalizer::FINALIZER, withdrawal::Limits},
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
        renewable_until: None,
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

/// A semaphore of four permits with the finalizer, as its custom resource desires it.
pub(crate) fn desired() -> Desired {
    Desired {
        resource: "semaphore",
        name: ObjectRef::new(Kind::Semaphore, "ml", "callers").unwrap(),
        generation: Some(3),
        finalizers: vec![FINALIZER.to_owned()],
        deleted_at: None,
        lease: LeasePolicy::default(),
        capacity: Capacity::Permits(4),
        total: 4,
    }
}

/// An observation of an object in a server that has no other one.
pub(crate) fn observation(snapshot: Option<Snapshot>) -> Observation {
    // Only the library makes an observation: of a twin in which there is nothing.
    static NOTHING: LazyLock<Observation> = LazyLock::new(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(async {
            let client = Memory::new().client().connect().await.unwrap();
            client.control().inspect(&desired().name, 0, 0).await.unwrap()
        })
    });
    Observation {
        snapshot,
        ..NOTHING.clone()
    }
}

/// The limits of a deletion: five minutes for draining, one for an unreachable Redis.
pub(crate) const LIMITS: Limits = Limits {
    drain: Duration::from_secs(300),
    cleanup: Duration::from_secs(60),
};

/// The facts at the beginning of a reconciliation of [`desired`], which was declared before if `floor` is kept.
pub(crate) fn facts(floor: Option<u64>) -> Facts {
    let mut report = StatusDraft::default();
    report.common.fencing_floor = floor;
    report.common.fencing_floor_time = floor.map(|_| whole_seconds(time(START)));
    report.common.lease_duration_seconds = floor.map(|_| 30);
    Facts::new(desired(), report, LIMITS, "tenure", None, time(START))
}

/// A holder or waiter, whose pod has a uid.
pub(crate) fn with_uid(mut identity: Identity, uid: &str) -> Identity {
    identity.uid = Some(uid.to_owned());
    identity
}
