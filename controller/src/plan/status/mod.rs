//! Status: what is reported of an object, computed from what Redis shows and from what was reported before.
//!
//! Pure, so that nothing is written while nothing changes. The one thing in Redis that moves while nothing happens is
//! the end of a lease that is renewed; [`to_write`] lets it lie until the end that is shown has passed.

use std::time::{Duration, SystemTime};

use jiff::{SignedDuration, Timestamp};
use tenure::control::Snapshot;
use tenure_crds::merge;

use crate::{
    kinds::{Hold, StatusDraft},
    plan::declaration,
};

mod conditions;
mod lists;

pub(crate) use conditions::{BackendProblem, Outcome, has_reason};

/// The ends of renewed leases that are shown are brought up to date this often at most.
const RENEWALS_SHOWN_EVERY: SignedDuration = SignedDuration::from_secs(10);
/// An object is looked at this often at most because of time alone.
const SHORTEST_NAP: Duration = Duration::from_secs(1);
/// An object is looked at this often at least.
const LONGEST_NAP: Duration = Duration::from_secs(300);
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
            declaration::refresh_floor(&mut report, lease, snapshot.last_fence, asked_at);
            lists::fill(&mut report, namespace, snapshot);
        }
        Outcome::Deleting { snapshot, .. } => lists::fill(&mut report, namespace, snapshot),
        Outcome::BackendProblem(_) => {}
    }
    let found = conditions::of(previous, outcome);
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

#[cfg(test)]
mod tests;
