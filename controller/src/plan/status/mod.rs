//! Status: what is reported of an object, computed from what Redis shows and from what was reported before.
//!
//! Pure, so that nothing is written while nothing changes. The one thing in Redis that moves while nothing happens is
//! the expiry of a lease that is renewed, and no status has it. While holders and waiters keep changing, a status is written
//! only when [`StatusWrites`](crate::writes::StatusWrites) allows it. A change of anything else is written at once.

use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use kube::runtime::controller::Action;
use tenure::control::Snapshot;
use tenure_crds::{CommonStatus, Condition, ConditionReason, ConditionType, condition, merge};

use crate::{
    epochs::Ahead,
    events::ObjectEvent,
    kinds::StatusDraft,
    plan::{Facts, Plan, Step, declaration},
};

mod conditions;
mod lists;

use conditions::has_reason;
pub(super) use conditions::{BackendProblem, Outcome};
pub(super) use lists::{named, named_holders};

/// An object is looked at this often at most because of time alone.
const SHORTEST_REQUEUE: Duration = Duration::from_secs(1);
/// An object is looked at this often at least.
const LONGEST_REQUEUE: Duration = Duration::from_secs(300);

/// Plans the end of a reconciliation: Redis has the object as declared, and nothing is left to do.
pub(super) fn plan(facts: &Facts, snapshot: &Snapshot) -> Plan {
    let lease = &facts.desired.lease;
    let outcome = Outcome::Declared {
        snapshot,
        lease,
        asked_at: facts.started,
        total: facts.desired.total,
        longest_lease: declaration::longest_lease(facts, snapshot),
    };
    let requeue = requeue_after(snapshot);
    let steps = steps(facts, outcome);
    match (&steps[..], facts.status_waits) {
        ([Step::WriteStatus(news)], Some(wait)) if is_churn(&facts.report, news) => {
            Plan::last(Vec::new(), Action::requeue(wait.min(requeue)))
        }
        _ => Plan::last(steps, Action::requeue(requeue)),
    }
}

/// Returns the steps that bring the status up to date.
pub(super) fn steps(facts: &Facts, outcome: Outcome<'_>) -> Vec<Step> {
    let (previous, desired) = (&facts.report, &facts.desired);
    let namespace = desired.name.namespace();
    let fresh = report(
        previous,
        &facts.ahead,
        desired.generation,
        namespace,
        outcome,
        facts.now,
    );
    if fresh == *previous {
        return Vec::new();
    }
    // The recovery of an object with a short lease may be over when its status is written.
    let has_recovered = facts
        .ahead
        .unreported
        .is_some_and(|unreported| unreported.recovers);
    let event = event(previous, &fresh).or_else(|| has_recovered.then_some(ObjectEvent::Recovering));
    let mut steps = vec![Step::WriteStatus(Box::new(fresh))];
    steps.extend(event.map(Step::Publish));
    steps
}

/// Returns whether two statuses differ in holders and waiters alone.
pub(crate) fn is_churn(previous: &StatusDraft, next: &StatusDraft) -> bool {
    let common = CommonStatus {
        held: next.common.held,
        free: next.common.free,
        waiting: next.common.waiting,
        held_by: next.common.held_by.clone(),
        waiters: next.common.waiters.clone(),
        truncated: next.common.truncated,
        ..previous.common.clone()
    };
    common == next.common && previous != next
}

/// Returns the event of a change of the status.
fn event(previous: &StatusDraft, next: &StatusDraft) -> Option<ObjectEvent> {
    let begins = |type_, reason| has_reason(next, type_, reason) && !has_reason(previous, type_, reason);
    if begins(ConditionType::Reconciling, ConditionReason::Draining) {
        return Some(ObjectEvent::Draining);
    }
    // Another controller than the one that has declared the object may be the first to write its status.
    if begins(ConditionType::Ready, ConditionReason::Recovering) {
        return Some(ObjectEvent::Recovering);
    }
    match (stalled(previous), stalled(next)) {
        (None, Some(condition)) => Some(ObjectEvent::Stalled {
            message: condition.message.clone(),
        }),
        _ => None,
    }
}

fn stalled(report: &StatusDraft) -> Option<&Condition> {
    condition(&report.common.conditions, ConditionType::Stalled).filter(|found| found.status == "True")
}

/// The status that an object should have.
fn report(
    previous: &StatusDraft,
    ahead: &Ahead,
    generation: Option<i64>,
    namespace: &str,
    outcome: Outcome<'_>,
    now: Timestamp,
) -> StatusDraft {
    let mut report = previous.clone();
    declaration::raise_floor(&mut report, ahead);
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
            declaration::refresh_floor(&mut report, lease, ahead.kept, snapshot.last_fence, asked_at);
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

/// Returns the time until the next reconciliation without an event: until time itself changes the holders.
pub(super) fn requeue_after(snapshot: &Snapshot) -> Duration {
    let (Some(next), now) = (snapshot.next_change, timestamp(snapshot.now)) else {
        return LONGEST_REQUEUE;
    };
    // Redis counts in milliseconds: a little later is surely after.
    let wait = Duration::try_from(timestamp(next).duration_since(now)).unwrap_or_default()
        + Duration::from_millis(20);
    wait.clamp(SHORTEST_REQUEUE, LONGEST_REQUEUE)
}

/// The time of a `SystemTime`, which the servers that are talked to never have outside of jiff's range.
pub(crate) fn timestamp(at: SystemTime) -> Timestamp {
    Timestamp::try_from(at).unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests;
