//! Status: what is reported of an object, computed from what Redis shows and from what was reported before.
//!
//! Pure, so that nothing is written while nothing changes. The one thing in Redis that moves while nothing happens is
//! the end of a lease that is renewed; [`to_write`] lets it lie until the end that is shown has passed.

use std::time::{Duration, SystemTime};

use jiff::{SignedDuration, Timestamp};
use kube::runtime::controller::Action;
use tenure::control::Snapshot;
use tenure_crds::{ConditionReason, ConditionType, merge};

use crate::{
    epochs::Ahead,
    events::ObjectEvent,
    kinds::{Hold, StatusDraft},
    plan::{Facts, Plan, Step, declaration},
};

mod conditions;
mod lists;

use conditions::has_reason;
pub(super) use conditions::{BackendProblem, Outcome};

/// The ends of renewed leases that are shown are brought up to date this often at most.
const RENEWALS_SHOWN_EVERY: SignedDuration = SignedDuration::from_secs(10);
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
    let (steps, shown) = steps(facts, outcome, timestamp(snapshot.now));
    let wait = requeue_after(&shown, snapshot, lease.lease_duration());
    Plan::last(steps, Action::requeue(wait))
}

/// Returns the steps that bring the status up to date, and the status after them. `redis_now` is the time of the
/// observation, by the clock of Redis.
pub(super) fn steps(facts: &Facts, outcome: Outcome<'_>, redis_now: Timestamp) -> (Vec<Step>, StatusDraft) {
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
    let Some(news) = to_write(previous, fresh, desired.lease.lease_duration(), redis_now) else {
        return (Vec::new(), previous.clone());
    };
    let mut steps = vec![Step::WriteStatus(Box::new(news.clone()))];
    if facts
        .ahead
        .unreported
        .is_some_and(|unreported| unreported.recovers)
    {
        steps.push(Step::Publish(ObjectEvent::Recovering));
    }
    steps.extend(event(previous, &news).map(Step::Publish));
    (steps, news)
}

/// Returns the event of a change of the status.
fn event(previous: &StatusDraft, next: &StatusDraft) -> Option<ObjectEvent> {
    let begins = |type_, reason| has_reason(next, type_, reason) && !has_reason(previous, type_, reason);
    if begins(ConditionType::Reconciling, ConditionReason::Draining) {
        return Some(ObjectEvent::Draining);
    }
    let stalled = |report: &StatusDraft| {
        let mut conditions = report.common.conditions.iter();
        conditions
            .find(|c| c.type_ == ConditionType::Stalled.as_str() && c.status == "True")
            .cloned()
    };
    match (stalled(previous), stalled(next)) {
        (None, Some(condition)) => Some(ObjectEvent::Stalled {
            message: condition.message,
        }),
        _ => None,
    }
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

/// Returns the part of `fresh` that must be written, if any: leases that were merely renewed are no change until the
/// shown expiries have passed.
fn to_write(
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
pub(super) fn requeue_after(shown: &StatusDraft, snapshot: &Snapshot, lease: Duration) -> Duration {
    let now = timestamp(snapshot.now);
    let refresh = shown.holds.iter().map(|hold| refresh_at(hold, lease)).min();
    let next = [snapshot.next_change.map(timestamp), refresh]
        .into_iter()
        .flatten()
        .min();
    let Some(next) = next else { return LONGEST_REQUEUE };
    // Redis counts in milliseconds: a little later is surely after.
    let wait = Duration::try_from(next.duration_since(now)).unwrap_or_default() + Duration::from_millis(20);
    wait.clamp(SHORTEST_REQUEUE, LONGEST_REQUEUE)
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
