//! Withdrawal: what becomes of an object's keys when its custom resource is deleted, bounded in time.
//!
//! A drained object stays until its last lease has ended, or draining has taken too long. If Redis has lost the object,
//! leases that it does not know may be running, and an object of the same name would be granted beside them. So the
//! custom resource stays, too, for as long as such a lease may run.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kube::runtime::controller::Action;
use tenure::control::{Observation, Withdrawal};
use tenure_crds::DeletionPolicy;

use crate::{
    events::ObjectEvent,
    plan::{
        Facts, Plan, Step, declaration, finalizer, reclaim,
        status::{self, Outcome},
    },
};

/// The time for which retained keys are kept.
const RETAIN_FOR: Duration = Duration::from_secs(24 * 60 * 60);

/// The limits of a deletion.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// The time for which holders may keep their leases.
    pub(crate) drain: Duration,
    /// The time for which Redis may be unreachable before its keys are left behind.
    pub(crate) cleanup: Duration,
}

/// Plans the next steps of a deletion.
pub(super) fn plan(facts: &Facts, deleted_at: Timestamp) -> Plan {
    match facts.withdrawn {
        None => Plan::unfinished(withdraw(facts, deleted_at)),
        Some(0) => gone(facts, deleted_at),
        Some(_) => drain(facts, deleted_at),
    }
}

/// Returns the steps that withdraw the object, and those that must come before.
fn withdraw(facts: &Facts, deleted_at: Timestamp) -> Vec<Step> {
    let policy = facts.desired.lease.deletion_policy;
    let how = how(policy, deleted_at, facts.started, facts.limits);
    let mut steps = Vec::new();
    if how == Withdrawal::Drain && facts.seen.is_none() && is_kept(facts) {
        return vec![Step::Observe];
    }
    if policy == DeletionPolicy::Drain && how == Withdrawal::Delete {
        let Some(listing) = &facts.listing else {
            return vec![Step::List(0)];
        };
        if listing.0.as_ref().is_some_and(|snapshot| snapshot.held > 0) {
            steps.push(Step::Publish(ObjectEvent::DrainTimedOut));
        }
    }
    steps.push(Step::Withdraw(how));
    steps
}

/// Plans the rest of a deletion while leases were still held after the withdrawal.
fn drain(facts: &Facts, deleted_at: Timestamp) -> Plan {
    let Some(seen) = &facts.seen else {
        return Plan::unfinished(vec![Step::Observe]);
    };
    let Some(snapshot) = &seen.snapshot else {
        return gone(facts, deleted_at);
    };
    if let Some(steps) = reclaim::steps(facts, snapshot) {
        return Plan::unfinished(steps);
    }
    let until = drained_by(deleted_at, facts.limits);
    let outcome = Outcome::Deleting { snapshot, until };
    let steps = status::steps(facts, outcome);
    let wait = status::requeue_after(snapshot);
    Plan::last(steps, Action::requeue(wait.min(left(facts, deleted_at))))
}

/// Plans the end of a deletion: Redis has no lease of the object any more.
fn gone(facts: &Facts, deleted_at: Timestamp) -> Plan {
    let kept = declaration::kept(facts);
    let unknown_for = match (kept, facts.lost_for) {
        (Some(kept), Some(lost_for)) => unknown_for(lost_for, kept.longest_lease),
        _ => None,
    };
    match unknown_for {
        Some(wait) => Plan::last(Vec::new(), Action::requeue(wait.min(left(facts, deleted_at)))),
        None => Plan::last(finalizer::removal(&facts.desired).into(), Action::await_change()),
    }
}

/// Returns whether Redis has lost the object that is to be withdrawn, so that leases that it does not know may be running.
pub(crate) fn is_lost(facts: &Facts, seen: &Observation) -> bool {
    facts.desired.deleted_at.is_some()
        && facts.withdrawn.is_none()
        && declaration::kept(facts).is_some_and(|kept| !kept.knows(seen))
}

/// Returns whether the status shows that the object was declared.
fn is_kept(facts: &Facts) -> bool {
    facts.report.common.fencing_floor.is_some()
}

/// Returns the time that is left for draining.
fn left(facts: &Facts, deleted_at: Timestamp) -> Duration {
    let until = drained_by(deleted_at, facts.limits);
    Duration::try_from(until.duration_since(facts.started)).unwrap_or_default()
}

/// Returns the way to withdraw an object that was deleted at `deleted_at`.
pub(crate) fn how(
    policy: DeletionPolicy,
    deleted_at: Timestamp,
    now: Timestamp,
    limits: Limits,
) -> Withdrawal {
    match policy {
        DeletionPolicy::Drain if now < drained_by(deleted_at, limits) => Withdrawal::Drain,
        DeletionPolicy::Drain | DeletionPolicy::Delete => Withdrawal::Delete,
        DeletionPolicy::Retain => Withdrawal::Retain { keep: RETAIN_FOR },
    }
}

/// Returns when draining ends, even if the object is still held.
fn drained_by(deleted_at: Timestamp, limits: Limits) -> Timestamp {
    later(deleted_at, limits.drain)
}

/// Returns whether to remove the finalizer although the keys are still there: the object was deleted, and each attempt
/// to reach Redis has failed, for as long as is allowed.
pub(super) fn give_up(
    deleted_at: Timestamp,
    failing_since: Option<Timestamp>,
    now: Timestamp,
    limits: Limits,
) -> bool {
    failing_since.is_some_and(|since| now >= given_up_at(deleted_at, since, limits))
}

/// Returns when the finalizer is removed although the keys are still there, if each attempt fails from `failing_since` on.
pub(super) fn given_up_at(deleted_at: Timestamp, failing_since: Timestamp, limits: Limits) -> Timestamp {
    later(failing_since.max(deleted_at), limits.cleanup)
}

/// Returns the time for which leases may be running that Redis does not know: none runs for longer than `longest`.
fn unknown_for(lost_for: Duration, longest: Duration) -> Option<Duration> {
    longest.checked_sub(lost_for).filter(|left| !left.is_zero())
}

fn later(at: Timestamp, by: Duration) -> Timestamp {
    SignedDuration::try_from(by)
        .ok()
        .and_then(|by| at.checked_add(by).ok())
        .unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::{
        fixtures::{LIMITS, START, facts, holder, observation, snapshot, time, with_uid},
        plan::Listing,
    };

    #[test]
    fn draining_holders_keep_what_they_have_until_the_time_is_over() {
        let drained = |second| how(DeletionPolicy::Drain, time(1000), time(second), LIMITS);
        assert_eq!(drained(1000), Withdrawal::Drain);
        assert_eq!(drained(1299), Withdrawal::Drain);
        assert_eq!(drained(1300), Withdrawal::Delete);
    }

    #[test]
    fn the_other_policies_do_not_wait() {
        assert_eq!(
            how(DeletionPolicy::Delete, time(1000), time(1000), LIMITS),
            Withdrawal::Delete
        );
        let Withdrawal::Retain { keep } = how(DeletionPolicy::Retain, time(1000), time(9999), LIMITS) else {
            panic!("retained keys must not be deleted")
        };
        assert_eq!(keep.as_secs(), 86_400);
    }

    #[test]
    fn it_gives_up_when_redis_was_away_for_the_whole_time_since_the_deletion() {
        let cases = [
            ("never failed", None, 9999, false),
            (
                "failing since the deletion, not long enough",
                Some(1000),
                1059,
                false,
            ),
            ("failing since the deletion, long enough", Some(1000), 1060, true),
            (
                "failing since long before, deleted just now",
                Some(10),
                1059,
                false,
            ),
            (
                "failing since long before, deleted a minute ago",
                Some(10),
                1060,
                true,
            ),
            (
                "deleted long ago, failing since a moment ago",
                Some(5000),
                5059,
                false,
            ),
            ("deleted long ago, failing for a minute", Some(5000), 5060, true),
        ];
        for (case, failing_since, now, expected) in cases {
            assert_eq!(
                give_up(time(1000), failing_since.map(time), time(now), LIMITS),
                expected,
                "{case}"
            );
        }
    }

    #[test]
    fn what_redis_has_lost_may_be_held_for_the_longest_lease() {
        let second = Duration::from_secs;
        assert_eq!(unknown_for(Duration::ZERO, second(30)), Some(second(30)));
        assert_eq!(unknown_for(second(29), second(30)), Some(second(1)));
        assert_eq!(unknown_for(second(30), second(30)), None);
        assert_eq!(unknown_for(second(31), second(30)), None);
    }

    #[test]
    fn endless_limits_do_not_overflow() {
        let endless = Limits {
            drain: Duration::MAX,
            cleanup: Duration::MAX,
        };
        assert_eq!(
            how(DeletionPolicy::Drain, time(1000), time(9999), endless),
            Withdrawal::Drain
        );
        assert!(!give_up(time(1000), Some(time(1000)), time(9999), endless));
    }

    fn deleted(policy: DeletionPolicy, floor: Option<u64>) -> Facts {
        let mut facts = facts(floor);
        facts.desired.lease.deletion_policy = policy;
        facts.desired.deleted_at = Some(time(START));
        facts
    }

    fn next(facts: &Facts) -> Plan {
        plan(facts, time(START))
    }

    fn removal(facts: &Facts) -> Plan {
        let steps = finalizer::removal(&facts.desired);
        Plan::last(steps.into(), Action::await_change())
    }

    #[test]
    fn only_a_drain_of_a_declared_object_is_observed_first() {
        let drain = Step::Withdraw(Withdrawal::Drain);
        let cases = [
            ("declared", DeletionPolicy::Drain, Some(100), Step::Observe),
            ("never declared", DeletionPolicy::Drain, None, drain),
            (
                "deleted at once",
                DeletionPolicy::Delete,
                Some(100),
                Step::Withdraw(Withdrawal::Delete),
            ),
            (
                "retained",
                DeletionPolicy::Retain,
                Some(100),
                Step::Withdraw(Withdrawal::Retain { keep: RETAIN_FOR }),
            ),
        ];
        for (case, policy, floor, step) in cases {
            let plan = next(&deleted(policy, floor));
            assert_eq!(plan, Plan::unfinished(vec![step]), "{case}");
        }
        let mut observed = deleted(DeletionPolicy::Drain, Some(100));
        observed.seen = Some(observation(None));
        let drain = vec![Step::Withdraw(Withdrawal::Drain)];
        assert_eq!(next(&observed), Plan::unfinished(drain));
    }

    #[test]
    fn the_end_of_draining_is_an_event_if_leases_are_lost_by_it() {
        let mut facts = deleted(DeletionPolicy::Drain, Some(100));
        facts.started = time(START + 300);
        assert_eq!(next(&facts), Plan::unfinished(vec![Step::List(0)]));
        let delete = Step::Withdraw(Withdrawal::Delete);
        let event = Step::Publish(ObjectEvent::DrainTimedOut);
        let (free, held) = (vec![], vec![holder(1, &[], START + 330)]);
        for (case, listing, expected) in [
            ("gone", None, vec![Step::Withdraw(Withdrawal::Delete)]),
            (
                "free",
                Some(snapshot(START, free, vec![])),
                vec![Step::Withdraw(Withdrawal::Delete)],
            ),
            ("held", Some(snapshot(START, held, vec![])), vec![event, delete]),
        ] {
            facts.listing = Some(Listing(listing));
            assert_eq!(next(&facts), Plan::unfinished(expected), "{case}");
        }
    }

    #[test]
    fn the_finalizer_goes_when_nothing_is_held() {
        let mut facts = deleted(DeletionPolicy::Drain, Some(100));
        facts.withdrawn = Some(0);
        assert_eq!(next(&facts), removal(&facts));

        facts.withdrawn = Some(1);
        assert_eq!(next(&facts), Plan::unfinished(vec![Step::Observe]));
        facts.seen = Some(observation(None));
        assert_eq!(next(&facts), removal(&facts), "the last lease has ended since");
    }

    #[test]
    fn the_finalizer_stays_while_leases_that_redis_has_lost_may_be_running() {
        let mut facts = deleted(DeletionPolicy::Drain, Some(100));
        facts.withdrawn = Some(0);
        let wait = |seconds| {
            let action = Action::requeue(Duration::from_secs(seconds));
            Plan::last(Vec::new(), action)
        };
        for (lost_for, expected) in [(0, wait(30)), (29, wait(1)), (30, removal(&facts))] {
            facts.lost_for = Some(Duration::from_secs(lost_for));
            assert_eq!(next(&facts), expected, "lost for {lost_for} s");
        }
        (facts.lost_for, facts.started) = (Some(Duration::ZERO), time(START + 290));
        assert_eq!(next(&facts), wait(10), "draining ends before");
    }

    #[test]
    fn an_object_is_lost_if_redis_does_not_know_its_floor_before_the_withdrawal() {
        let (nothing, shown) = (
            observation(None),
            observation(Some(snapshot(START, vec![], vec![]))),
        );
        let mut facts = deleted(DeletionPolicy::Drain, Some(100));
        assert!(is_lost(&facts, &nothing));
        assert!(!is_lost(&facts, &shown), "its newest token is larger");
        facts.report.common.fencing_floor = Some(1000);
        assert!(is_lost(&facts, &shown), "an old snapshot of the data");
        facts.withdrawn = Some(1);
        assert!(!is_lost(&facts, &nothing), "it was withdrawn");
        assert!(
            !is_lost(&deleted(DeletionPolicy::Drain, None), &nothing),
            "never declared"
        );
    }

    #[test]
    fn draining_is_reported_and_ends_with_the_last_lease_or_the_time() {
        let mut facts = deleted(DeletionPolicy::Drain, Some(100));
        facts.withdrawn = Some(1);
        let held = snapshot(START, vec![holder(1, &[], START + 30)], vec![]);
        facts.seen = Some(observation(Some(held)));
        let plan = next(&facts);
        let [Step::WriteStatus(report)] = &plan.steps[..] else {
            panic!("{plan:?}")
        };
        assert_eq!(report.common.conditions[0].reason, "Deleting");
        let at_the_expiry = Duration::from_secs(30) + Duration::from_millis(20);
        assert_eq!(plan.done, Some(Action::requeue(at_the_expiry)));

        facts.started = time(START + 295);
        let rest = Action::requeue(Duration::from_secs(5));
        assert_eq!(next(&facts).done, Some(rest));
    }

    #[test]
    fn ended_pods_do_not_keep_a_deleted_object() {
        let mut facts = deleted(DeletionPolicy::Drain, Some(100));
        facts.withdrawn = Some(1);
        let mut held = holder(1, &[], START + 30);
        held.holder = with_uid(held.holder, "a");
        facts.seen = Some(observation(Some(snapshot(START, vec![held], vec![]))));
        facts.ended.insert("a".to_owned());
        assert!(matches!(&next(&facts).steps[..], [Step::Reclaim(_)]));
    }
}
