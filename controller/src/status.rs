//! Status: what is reported of an object, computed from what Redis shows and from what was reported before.
//!
//! Pure, so that nothing is written while nothing changes. The one thing in Redis that moves while nothing happens is
//! the end of a lease that is renewed; [`to_write`] lets it lie until the end that is shown has passed.

use std::time::{Duration, SystemTime};

use jiff::{SignedDuration, Timestamp};
use tenure::{
    Identity,
    control::{HolderView, Snapshot, WaiterView},
};
use tenure_crds::{
    Assessment, ConditionReason, ConditionStatus, ConditionType, Holder, LeasePolicy, MAX_HELD_BY,
    MAX_LISTED, MAX_POD, MAX_REASON, Waiter, bounded, merge, whole_seconds,
};

use crate::{
    declare,
    kinds::{Hold, StatusDraft},
};

/// The ends of renewed leases that are shown are brought up to date this often at most.
const RENEWALS_SHOWN_EVERY: SignedDuration = SignedDuration::from_secs(10);
/// An object is looked at this often at most because of time alone.
const SHORTEST_NAP: Duration = Duration::from_secs(1);
/// An object is looked at this often at least.
const LONGEST_NAP: Duration = Duration::from_secs(300);
/// The longest token that a status shows, in characters.
const MAX_TOKEN: usize = 64;
/// The longest name of a resource that a status shows, in characters.
const MAX_RESOURCE: usize = 63;

/// The result of observing an object.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Outcome<'a> {
    /// Redis has it as declared: so many resources or permits in all, and no lease runs for longer, in seconds. It was asked at
    /// `asked_at`.
    Declared {
        snapshot: &'a Snapshot,
        lease: &'a LeasePolicy,
        total: u32,
        longest_lease: u32,
        asked_at: Timestamp,
    },
    /// It is being deleted, at the latest at `until`.
    Deleting {
        snapshot: &'a Snapshot,
        until: Timestamp,
    },
    /// Redis could not be asked, or refused; what was reported before is all there is.
    BackendProblem(&'a BackendProblem),
}

/// The reason why the spec is not applied to Redis.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct BackendProblem {
    reason: ConditionReason,
    message: String,
}

impl From<&tenure::Error> for BackendProblem {
    fn from(error: &tenure::Error) -> Self {
        let reason = match error {
            tenure::Error::Unreachable { .. } => ConditionReason::BackendUnreachable,
            tenure::Error::UnsupportedServer { .. } => ConditionReason::BackendUnsupported,
            // This is about the controller's own setting, independent of the object.
            tenure::Error::InvalidInput { field: "url", .. } => ConditionReason::BackendDenied,
            tenure::Error::InvalidInput { .. } => ConditionReason::InvalidSpec,
            tenure::Error::Damaged { .. } => ConditionReason::Damaged,
            tenure::Error::VersionMismatch { .. } => ConditionReason::VersionMismatch,
            _ => ConditionReason::BackendDenied,
        };
        Self {
            reason,
            message: error.to_string(),
        }
    }
}

/// The status that an object should have.
pub(crate) fn report(
    previous: &StatusDraft,
    generation: Option<i64>,
    namespace: &str,
    outcome: Outcome<'_>,
    now: Timestamp,
) -> StatusDraft {
    let mut report = previous.clone();
    match outcome {
        Outcome::Declared {
            snapshot,
            lease,
            total,
            longest_lease,
            asked_at,
        } => {
            report.common.total = total;
            report.common.lease_duration_seconds = Some(longest_lease);
            declare::refresh_floor(&mut report, lease, snapshot.last_fence, asked_at);
            count(&mut report, namespace, snapshot);
        }
        Outcome::Deleting { snapshot, .. } => count(&mut report, namespace, snapshot),
        Outcome::BackendProblem(_) => {}
    }
    let found = conditions(previous, outcome);
    report.common.conditions = merge(&previous.common.conditions, &found, generation, now);
    report.common.observed_generation = generation;
    report
}

/// Returns the part of `fresh` that must be written, if any: leases that were merely renewed are no change until the
/// shown expiries have passed.
pub(crate) fn to_write(
    previous: &StatusDraft,
    fresh: StatusDraft,
    lease: Duration,
    now: Timestamp,
) -> Option<StatusDraft> {
    let mut unrenewed = fresh.clone();
    for hold in &mut unrenewed.holds {
        let shown = previous
            .holds
            .iter()
            .find(|shown| shown.holder.token == hold.holder.token && shown.resource == hold.resource);
        if let Some(shown) = shown
            && now < refresh_at(shown, lease)
        {
            hold.holder.expires_at = shown.holder.expires_at.clone();
        }
    }
    (unrenewed != *previous).then_some(fresh)
}

/// Returns the time until the next reconciliation without an event: until time itself changes the holders, or a shown
/// expiry has passed.
pub(crate) fn requeue_after(shown: &StatusDraft, snapshot: &Snapshot, lease: Duration) -> Duration {
    let now = timestamp(snapshot.now);
    let refresh = shown.holds.iter().map(|hold| refresh_at(hold, lease)).min();
    let next = [snapshot.next_change.map(timestamp), refresh]
        .into_iter()
        .flatten()
        .min();
    let Some(next) = next else { return LONGEST_NAP };
    // Redis counts in milliseconds: a little later is surely after.
    let wait = Duration::try_from(next.duration_since(now)).unwrap_or_default() + Duration::from_millis(20);
    wait.clamp(SHORTEST_NAP, LONGEST_NAP)
}

/// Returns whether the report has `reason` for `type_`.
pub(crate) fn has_reason(report: &StatusDraft, type_: ConditionType, reason: ConditionReason) -> bool {
    let mut conditions = report.common.conditions.iter();
    conditions.any(|c| c.type_ == type_.as_str() && c.reason == reason.as_str())
}

/// The time of a `SystemTime`, which the servers that are talked to never have outside of jiff's range.
pub(crate) fn timestamp(at: SystemTime) -> Timestamp {
    Timestamp::try_from(at).unwrap_or(Timestamp::UNIX_EPOCH)
}

fn refresh_at(shown: &Hold, lease: Duration) -> Timestamp {
    let lease = SignedDuration::try_from(lease).unwrap_or(SignedDuration::MAX);
    let grace = RENEWALS_SHOWN_EVERY
        .saturating_sub(lease)
        .max(SignedDuration::ZERO);
    shown
        .holder
        .expires_at
        .0
        .saturating_add(grace)
        .unwrap_or(Timestamp::MAX)
}

fn count(report: &mut StatusDraft, namespace: &str, snapshot: &Snapshot) {
    let common = &mut report.common;
    common.held = narrow(snapshot.held);
    common.free = narrow(snapshot.free);
    common.waiting = narrow(snapshot.waiting);
    common.waiters = snapshot
        .waiters
        .iter()
        .take(MAX_LISTED)
        .zip(1..)
        .map(|(waiter, position)| waiter_line(namespace, waiter, position))
        .collect();
    report.holds = snapshot
        .holders
        .iter()
        .flat_map(|h| hold_lines(namespace, h))
        .take(MAX_LISTED)
        .collect();
    let shown: u64 = report.holds.iter().map(|hold| u64::from(hold.permits)).sum();
    let waiters = report.common.waiters.len() as u64;
    report.common.truncated = shown < snapshot.held || waiters < snapshot.waiting;
    report.common.held_by = held_by(snapshot);
}

fn hold_lines(namespace: &str, view: &HolderView) -> Vec<Hold> {
    let holder = Holder {
        token: bounded(&view.token, MAX_TOKEN),
        pod: name(&view.holder),
        namespace: foreign(namespace, &view.holder),
        reason: bounded(&view.reason, MAX_REASON),
        fencing_token: view.fence,
        acquired_at: whole_seconds(timestamp(view.since)),
        expires_at: whole_seconds(timestamp(view.expires)),
    };
    if view.resources.is_empty() {
        return vec![Hold {
            resource: None,
            permits: narrow(view.permits),
            holder,
        }];
    }
    let line = |resource: &String| Hold {
        resource: Some(bounded(resource, MAX_RESOURCE)),
        permits: 1,
        holder: holder.clone(),
    };
    view.resources.iter().map(line).collect()
}

fn waiter_line(namespace: &str, view: &WaiterView, position: u32) -> Waiter {
    Waiter {
        position,
        pod: name(&view.holder),
        namespace: foreign(namespace, &view.holder),
        reason: bounded(&view.reason, MAX_REASON),
        permits: narrow(view.permits),
        since: whole_seconds(timestamp(view.since)),
    }
}

fn name(who: &Identity) -> String {
    bounded(who.pod.as_deref().unwrap_or(&who.process), MAX_POD)
}

fn foreign(namespace: &str, who: &Identity) -> Option<String> {
    (who.pod.is_some() && who.namespace != namespace).then(|| bounded(&who.namespace, 63))
}

/// `gpu-worker-1 (seat-a) +2`
fn held_by(snapshot: &Snapshot) -> String {
    let Some(first) = snapshot.holders.first() else {
        return String::new();
    };
    let what = match (&first.resources[..], first.permits) {
        ([], 1) => String::new(),
        ([], permits) => format!(" ({permits})"),
        (resources, _) => format!(" ({})", resources.join(", ")),
    };
    let text = name(&first.holder) + &what;
    let listed: u64 = snapshot.holders.iter().map(|h| h.permits).sum();
    let others = snapshot.holders.len().min(MAX_LISTED) - 1;
    let more = match (
        others,
        listed < snapshot.held || snapshot.holders.len() > MAX_LISTED,
    ) {
        (0, false) => String::new(),
        (_, false) => format!(" +{others}"),
        (_, true) => format!(" +{others} and more"),
    };
    bounded(&text, MAX_HELD_BY - more.len()) + &more
}

/// Counts of things that there are at most a million of.
fn narrow(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn conditions(previous: &StatusDraft, outcome: Outcome<'_>) -> [Assessment; 4] {
    use ConditionReason as Reason;
    use ConditionStatus::{False, True};
    use ConditionType::{BackendReachable, Ready, Reconciling, Stalled};

    let is = |type_, status, reason, message: &str| Assessment {
        type_,
        status,
        reason,
        message: message.to_owned(),
    };
    let connected = || is(BackendReachable, True, Reason::Connected, "Redis answers");
    let not_stalled = || is(Stalled, False, Reason::Synced, "no action is needed");
    match outcome {
        Outcome::BackendProblem(trouble) => {
            let reason = trouble.reason;
            // The exact error of a connection changes from attempt to attempt; the first one is kept until the outage
            // ends.
            let message = previous
                .common
                .conditions
                .iter()
                .find(|c| c.type_ == Ready.as_str() && c.reason == reason.as_str())
                .filter(|_| reason == Reason::BackendUnreachable)
                .map_or(trouble.message.as_str(), |c| c.message.as_str());
            let comes_back = reason == Reason::BackendUnreachable;
            let redis_is_well = [Reason::InvalidSpec, Reason::Damaged, Reason::VersionMismatch];
            let reachable = if redis_is_well.contains(&reason) {
                connected()
            } else {
                is(BackendReachable, False, reason, message)
            };
            [
                is(Ready, False, reason, message),
                is(Reconciling, comes_back.into(), reason, message),
                is(Stalled, (!comes_back).into(), reason, message),
                reachable,
            ]
        }
        Outcome::Deleting { snapshot, until } => {
            let message = format!(
                "being deleted: {} still held, nothing new is granted, what is left is taken away at {}",
                snapshot.held,
                whole_seconds(until).0,
            );
            [
                is(Ready, False, Reason::Deleting, &message),
                is(Reconciling, True, Reason::Deleting, &message),
                not_stalled(),
                connected(),
            ]
        }
        Outcome::Declared { snapshot, .. } => {
            if let Some(until) = snapshot.recovering_until {
                let message = format!(
                    "Redis has lost the data of this object, or was restarted: nothing new is granted before {}, and holders \
                     keep what they have",
                    whole_seconds(timestamp(until)).0,
                );
                return [
                    is(Ready, False, Reason::Recovering, &message),
                    is(Reconciling, True, Reason::Recovering, &message),
                    not_stalled(),
                    connected(),
                ];
            }
            let reconciling = if snapshot.draining() > 0 {
                let message = format!(
                    "{} held beyond what the spec has: their holders keep them and nobody gets them next",
                    snapshot.draining()
                );
                is(Reconciling, True, Reason::Draining, &message)
            } else {
                is(Reconciling, False, Reason::Synced, "there is nothing to do")
            };
            [
                is(Ready, True, Reason::Synced, "the spec is applied to Redis"),
                reconciling,
                not_stalled(),
                connected(),
            ]
        }
    }
}

#[cfg(test)]
mod tests;
