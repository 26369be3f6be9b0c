//! An object, its holders and its waiters, as `-o json` and `-o yaml` show them. The names of the fields are those of the
//! custom resources' status.

use std::time::SystemTime;

use serde::Serialize;
use tenure::{
    Identity, ObjectRef,
    control::{HolderView, Snapshot, WaiterView},
};

use crate::{
    object::{needs_declaration, shown},
    view::{table::or_dash, time::rfc3339},
};

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Object {
    #[serde(rename = "object")]
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) declared: bool,
    pub(crate) total: u64,
    pub(crate) held: u64,
    pub(crate) free: u64,
    pub(crate) draining: u64,
    pub(crate) waiting: u64,
    pub(crate) last_fencing_token: u64,
    /// Until then nothing new is granted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) recovering_until: Option<String>,
    pub(crate) withdrawing: bool,
    pub(crate) holders: Vec<Holder>,
    pub(crate) waiters: Vec<Waiter>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Holder {
    #[serde(flatten)]
    pub(crate) who: Who,
    pub(crate) fencing_token: u64,
    pub(crate) permits: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) resources: Vec<String>,
    pub(crate) acquired_at: String,
    pub(crate) expires_at: String,
    /// The end of the longest hold: no renewal extends the lease beyond it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) renewable_until: Option<String>,
    /// Names the lease.
    pub(crate) token: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Waiter {
    pub(crate) position: usize,
    #[serde(flatten)]
    pub(crate) who: Who,
    pub(crate) permits: u64,
    pub(crate) since: String,
    pub(crate) token: String,
}

#[derive(Debug, Serialize)]
pub(crate) struct Who {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pod: Option<String>,
    pub(crate) namespace: String,
    pub(crate) process: String,
    pub(crate) reason: String,
}

impl Who {
    fn of(identity: &Identity, reason: &str) -> Self {
        Self {
            pod: identity.pod.clone(),
            namespace: identity.namespace.clone(),
            process: identity.process.clone(),
            reason: reason.to_owned(),
        }
    }
}

impl Object {
    /// Without a snapshot: an object that Redis does not have.
    pub(crate) fn of(object: &ObjectRef, snapshot: Option<&Snapshot>) -> Self {
        let number = |of: fn(&Snapshot) -> u64| snapshot.map_or(0, of);
        let holders = snapshot.map_or(&[][..], |seen| &seen.holders);
        let waiters = snapshot.map_or(&[][..], |seen| &seen.waiters).iter().enumerate();
        // A lock without a client is free; an object without a declaration cannot be granted.
        let absent = u64::from(!needs_declaration(object.kind()));
        Self {
            name: shown(object),
            namespace: object.namespace().to_owned(),
            declared: snapshot.is_some_and(|seen| seen.digest.is_some()),
            total: snapshot.map_or(absent, |seen| seen.limit),
            held: number(|seen| seen.held),
            free: snapshot.map_or(absent, |seen| seen.free),
            draining: number(Snapshot::draining),
            waiting: number(|seen| seen.waiting),
            last_fencing_token: number(|seen| seen.last_fence),
            recovering_until: snapshot.and_then(|seen| seen.recovering_until).map(rfc3339),
            withdrawing: snapshot.is_some_and(|seen| seen.withdrawing),
            holders: holders.iter().map(Holder::of).collect(),
            waiters: waiters.map(|(index, view)| Waiter::of(index + 1, view)).collect(),
        }
    }
}

impl Holder {
    fn of(view: &HolderView) -> Self {
        Self {
            who: Who::of(&view.holder, &view.reason),
            fencing_token: view.fence,
            permits: view.permits,
            resources: view.resources.clone(),
            acquired_at: rfc3339(view.since),
            expires_at: rfc3339(view.expires),
            renewable_until: view.renewable_until.map(rfc3339),
            token: view.token.clone(),
        }
    }
}

impl Waiter {
    fn of(position: usize, view: &WaiterView) -> Self {
        Self {
            position,
            who: Who::of(&view.holder, &view.reason),
            permits: view.permits,
            since: rfc3339(view.since),
            token: view.token.clone(),
        }
    }
}

/// The name of a holder or waiter in a table: its pod where there is one.
pub(crate) fn name(identity: &Identity) -> String {
    or_dash(identity.pod.as_ref().unwrap_or(&identity.process))
}

/// The state for tables.
pub(crate) fn state(object: &ObjectRef, snapshot: Option<&Snapshot>, now: SystemTime) -> &'static str {
    match snapshot {
        None if needs_declaration(object.kind()) => "NotDeclared",
        Some(snapshot) if snapshot.withdrawing => "Withdrawing",
        Some(snapshot) if snapshot.recovering_until.is_some_and(|until| until > now) => "Recovering",
        Some(snapshot) if snapshot.digest.is_some() && !snapshot.current => "Stale",
        Some(snapshot) if snapshot.free == 0 => "Busy",
        _ => "Free",
    }
}
