//! Declaration: which declaration Redis gets, when, and under which floor of fencing tokens.
//!
//! Fencing tokens must grow even if Redis loses everything that it knows, so an object counts on from a floor that lies
//! in its status, hence in etcd. Redis hears of a floor only after etcd has it. When an object has to be declared, and under
//! which floor, is decided by [`tenure::control::plan`]; its source has the argument why no token is ever granted twice, and
//! why a floor never runs ahead of the clock.
//!
//! The floor of a first declaration is kept with the finalizer, in one write: see [`first_floor`](crate::first_floor). If the controller
//! ends between this write and the declaration, the next one cannot know that Redis never got the object, and lets it recover.
//!
//! After a loss of data the record of epochs has the floors of all objects, and the statuses get them later: see
//! [`tenure::control::Epochs`], and [`epochs`](crate::epochs). A change of the spec writes the status first.
//!
//! For the same reason the longest lease that may be running lies in the status: an object that was lost has to recover
//! for as long, and neither Redis nor the spec knows of a lease that was longer before. Leases of first users, and those that
//! `Retain` left, count from the first declaration on, for as long as they may run.

use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use tenure::control::{self, DIGEST_SCHEME, Declaration, Kept, Observation, Snapshot};
use tenure_crds::{ConditionReason, ConditionType, LeasePolicy, Time, condition, whole_seconds};

use crate::{
    epochs::Ahead,
    events::ObjectEvent,
    kinds::StatusDraft,
    plan::{Desired, Facts, Step, finalizer, status},
};

/// The longest lease that there is, in seconds.
const LONGEST: u32 = 86_400;

/// Returns the steps that declare the object, and add the finalizer before that: the custom resource, or the record of epochs, gets the
/// floor before Redis does. `None`: the finalizer is there, and Redis has the declaration, or has got it in this reconciliation.
pub(super) fn steps(facts: &Facts, seen: &Observation) -> Option<Vec<Step>> {
    let steps = steps_of_declaration(facts, seen);
    if finalizer::is_set(&facts.desired) {
        return steps;
    }
    let mut steps = steps.unwrap_or_default();
    match steps.first_mut() {
        // Nothing was declared before, so that the floor can be kept with the finalizer.
        Some(Step::WriteStatus(report)) if facts.report.common.fencing_floor.is_none() => {
            let report = std::mem::take(report);
            steps[0] = Step::AddFinalizer(Some(report));
        }
        _ => steps.insert(0, Step::AddFinalizer(None)),
    }
    Some(steps)
}

fn steps_of_declaration(facts: &Facts, seen: &Observation) -> Option<Vec<Step>> {
    if facts.declared.is_some() {
        return None;
    }
    let desired = &facts.desired;
    let (lease, spec) = (&desired.lease, spec(desired));
    let kept = kept(facts);
    let now = SystemTime::from(facts.started);
    let digest = digest(facts, &spec, seen.snapshot.as_ref());
    let mut plan = control::plan(kept.as_ref(), seen, &digest, lease.lease_duration(), now)?;
    if kept.is_none() && plan.beyond.is_some() {
        plan.floor = plan.floor.max(facts.ahead.first_floor);
    }
    let longest_lease = seconds(plan.longest_lease);
    let mut report = facts.report.clone();
    report.common.fencing_floor = Some(plan.floor);
    report.common.fencing_floor_time = Some(whole_seconds(facts.started));
    report.common.lease_duration_seconds = Some(longest_lease);
    if let Some(own) = &facts.recorded_as {
        report.common.controller = Some(own.clone());
    }
    let declaration = Declaration {
        floor: plan.floor,
        recovery: plan
            .declared_before
            .then(|| Duration::from_secs(longest_lease.into())),
        ..spec
    };
    // One that was withdrawn is declared only if its custom resource is still there.
    if let Some(kept) = kept.filter(|_| plan.beyond.is_some() && !seen.drained) {
        return Some(vec![Step::Recover {
            plan,
            kept,
            seen: Box::new(seen.clone()),
            declaration,
            report: Box::new(report),
        }]);
    }
    let life = seen.life.clone();
    Some(vec![
        Step::WriteStatus(Box::new(report)),
        Step::Declare {
            plan,
            life,
            declaration,
        },
    ])
}

/// Returns the digest with which Redis has the declaration. A digest of a newer scheme cannot be compared: it counts as that of the
/// spec, as long as the status shows that a controller has applied the spec. Otherwise two versions that run during an upgrade would
/// declare against each other in turns.
fn digest(facts: &Facts, spec: &Declaration, snapshot: Option<&Snapshot>) -> String {
    let stamped = snapshot.and_then(|snapshot| snapshot.digest.as_ref());
    let newer = stamped.filter(|digest| is_of_newer_scheme(digest) && is_applied(facts));
    newer.cloned().unwrap_or_else(|| spec.digest())
}

fn is_of_newer_scheme(digest: &str) -> bool {
    let scheme = digest.split_once(':').and_then(|(scheme, _)| scheme.parse().ok());
    scheme.is_some_and(|scheme: u32| scheme > DIGEST_SCHEME)
}

/// Returns whether the status shows that the present spec was applied to Redis.
fn is_applied(facts: &Facts) -> bool {
    let common = &facts.report.common;
    let applied = [ConditionReason::Synced, ConditionReason::Recovering].map(ConditionReason::as_str);
    let ready = condition(&common.conditions, ConditionType::Ready);
    common.observed_generation == facts.desired.generation
        && ready.is_some_and(|ready| applied.contains(&ready.reason.as_str()))
}

/// The declaration of a spec, without a floor and a recovery.
pub(super) fn spec(desired: &Desired) -> Declaration {
    Declaration {
        lease: desired.lease.lease_duration(),
        max_hold: desired.lease.max_hold(),
        ..Declaration::new(desired.capacity.clone())
    }
}

/// Returns the event of a declaration of an object that programs have made.
pub(crate) fn adopted(facts: &Facts) -> Option<ObjectEvent> {
    let snapshot = facts.seen.as_ref()?.snapshot.as_ref()?;
    let is_new = facts.desired.deleted_at.is_none() && snapshot.digest.is_none();
    is_new.then(|| ObjectEvent::Adopted {
        limit: snapshot.limit,
        total: facts.desired.total,
        held: snapshot.held,
        holders: status::named_holders(facts.desired.name.namespace(), snapshot),
    })
}

/// Returns the longest lease that may be running after a reconciliation, in seconds.
pub(super) fn longest_lease(facts: &Facts, snapshot: &Snapshot) -> u32 {
    let adopted = facts.declared.is_some_and(|plan| plan.adopts)
        || facts.ahead.unreported.is_some_and(|unreported| unreported.adopts);
    let first_users = adopted.then(|| seconds(snapshot.longest_lease));
    let known = facts.report.common.lease_duration_seconds.max(first_users);
    longest_running(known, &facts.desired.lease, facts.in_force_for)
}

/// The state of an object that is kept for the next declaration; absent before the first.
pub(crate) fn kept(facts: &Facts) -> Option<Kept> {
    let status = || kept_in(&facts.report, &facts.desired.lease);
    facts.ahead.kept.or_else(status)
}

/// The part of that which the status has.
pub(crate) fn kept_in(report: &StatusDraft, lease: &LeasePolicy) -> Option<Kept> {
    let common = &report.common;
    let shown = report.holds.iter().map(|hold| hold.holder.fencing_token);
    let longest = common
        .lease_duration_seconds
        .unwrap_or(lease.lease_duration_seconds);
    Some(Kept {
        floor: common.fencing_floor?,
        current_at: common
            .fencing_floor_time
            .as_ref()
            .map(|Time(at)| SystemTime::from(*at)),
        newest: shown.max().unwrap_or(0),
        longest_lease: Duration::from_secs(longest.into()),
    })
}

/// Brings the floor in a report up to date with the one under which the object was declared.
pub(super) fn raise_floor(report: &mut StatusDraft, ahead: &Ahead) {
    let floor = report.common.fencing_floor;
    if let Some(raised) = ahead.raised.filter(|raised| Some(raised.floor) > floor) {
        report.common.fencing_floor = Some(raised.floor);
        report.common.fencing_floor_time = Some(whole_seconds(status::timestamp(raised.current_at)));
    }
}

/// Brings the floor in a report up to date with the newest token that Redis showed, having been asked at `asked_at`. `ahead` is
/// larger than the status if another controller may have declared the object, which the data of Redis confirms.
pub(super) fn refresh_floor(
    report: &mut StatusDraft,
    lease: &LeasePolicy,
    ahead: Option<Kept>,
    last_fence: u64,
    asked_at: Timestamp,
) {
    let status = kept_in(report, lease);
    let lags = ahead.filter(|ahead| status.is_some_and(|status| status.floor < ahead.floor));
    let newest = lags.map(|ahead| last_fence.max(ahead.floor));
    if let Some(floor) = newest.or_else(|| status?.refreshed(last_fence)) {
        report.common.fencing_floor = Some(floor);
        report.common.fencing_floor_time = Some(whole_seconds(asked_at));
    }
}

/// As a status keeps a length of time: whole seconds, none cut off.
fn seconds(lease: Duration) -> u32 {
    let seconds = lease.as_secs() + u64::from(lease.subsec_nanos() > 0);
    u32::try_from(seconds).unwrap_or(LONGEST).clamp(1, LONGEST)
}

/// The longest lease that may be running, in seconds: the spec's, or one that was `known` before, until the spec has been
/// in force for as long as that.
fn longest_running(known: Option<u32>, lease: &LeasePolicy, in_force_for: Duration) -> u32 {
    let running = known.filter(|known| in_force_for < Duration::from_secs((*known).into()));
    running.unwrap_or_default().max(lease.lease_duration_seconds)
}

#[cfg(test)]
mod tests {
    use tenure::control::Raised;
    use tenure_crds::Holder;

    use super::*;
    use crate::{
        fixtures::{self, START, facts, observation},
        kinds::Hold,
    };

    fn refreshed(report: &mut StatusDraft, lease: &LeasePolicy, last_fence: u64, asked_at: Timestamp) {
        refresh_floor(report, lease, None, last_fence, asked_at);
    }

    fn report(floor: Option<u64>, fences: &[u64]) -> StatusDraft {
        let mut report = StatusDraft::default();
        report.common.fencing_floor = floor;
        report.common.fencing_floor_time = floor.map(|_| whole_seconds(Timestamp::UNIX_EPOCH));
        report.holds = fences
            .iter()
            .map(|fence| Hold {
                resource: None,
                permits: 1,
                holder: Holder {
                    token: fence.to_string(),
                    pod: "p".to_owned(),
                    namespace: None,
                    reason: String::new(),
                    fencing_token: *fence,
                    acquired_at: whole_seconds(Timestamp::UNIX_EPOCH),
                    renewable_until: None,
                },
            })
            .collect();
        report
    }

    #[test]
    fn a_status_keeps_the_floor_its_time_the_newest_token_and_the_longest_lease() {
        let lease = LeasePolicy::default();
        assert_eq!(kept_in(&report(None, &[7]), &lease), None);
        let mut report = report(Some(5), &[7, 6]);
        let expected = Kept {
            floor: 5,
            current_at: Some(SystemTime::UNIX_EPOCH),
            newest: 7,
            longest_lease: Duration::from_secs(30),
        };
        assert_eq!(kept_in(&report, &lease), Some(expected));
        report.common.lease_duration_seconds = Some(86_400);
        let longest_lease = Duration::from_secs(86_400);
        assert_eq!(
            kept_in(&report, &lease),
            Some(Kept {
                longest_lease,
                ..expected
            })
        );
    }

    #[test]
    fn the_floor_is_refreshed_with_the_time_of_the_question_and_not_before_the_first_declaration() {
        let (lease, asked_at) = (LeasePolicy::default(), Timestamp::from_second(9).unwrap());
        let mut first = report(None, &[]);
        refreshed(&mut first, &lease, 1 << 40, asked_at);
        assert_eq!(first, report(None, &[]));
        let mut quiet = report(Some(5), &[]);
        refreshed(&mut quiet, &lease, 1 << 24, asked_at);
        assert_eq!(quiet, report(Some(5), &[]));
        let mut busy = report(Some(5), &[]);
        refreshed(&mut busy, &lease, 1 << 40, asked_at);
        assert_eq!(busy.common.fencing_floor, Some(1 << 40));
        assert_eq!(busy.common.fencing_floor_time, Some(whole_seconds(asked_at)));
    }

    #[test]
    fn a_length_is_kept_in_whole_seconds_that_are_not_shorter() {
        for (millis, expected) in [
            (0, 1),
            (1, 1),
            (1000, 1),
            (1001, 2),
            (86_400_000, LONGEST),
            (u64::MAX, LONGEST),
        ] {
            assert_eq!(seconds(Duration::from_millis(millis)), expected, "{millis}");
        }
    }

    #[test]
    fn a_lease_that_was_longer_counts_until_the_shorter_one_has_been_in_force_for_as_long() {
        let lease = |seconds| LeasePolicy {
            lease_duration_seconds: seconds,
            ..LeasePolicy::default()
        };
        let cases = [
            ("never declared", None, 30, 0, 30),
            ("as before", Some(30), 30, 0, 30),
            ("longer now", Some(30), 60, 0, 60),
            ("shorter since a moment ago", Some(60), 30, 0, 60),
            ("shorter, and old leases may be running", Some(60), 30, 59, 60),
            (
                "shorter for so long that old leases have ended",
                Some(60),
                30,
                60,
                30,
            ),
        ];
        for (case, known, seconds, in_force_for, expected) in cases {
            let longest = longest_running(known, &lease(seconds), Duration::from_secs(in_force_for));
            assert_eq!(longest, expected, "{case}");
        }
    }

    fn plan_of(steps: &[Step]) -> (&StatusDraft, &control::Plan, &Declaration) {
        match steps {
            [
                Step::WriteStatus(report),
                Step::Declare {
                    plan, declaration, ..
                },
            ]
            | [
                Step::Recover {
                    plan,
                    declaration,
                    report,
                    ..
                },
            ] => (report, plan, declaration),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_first_declaration_has_no_recovery_and_the_time_of_the_reconciliation() {
        let steps = steps(&facts(None), &observation(None)).unwrap();
        let (report, plan, declaration) = plan_of(&steps);
        assert_eq!(report.common.fencing_floor, Some(declaration.floor));
        assert_eq!(
            report.common.fencing_floor_time,
            Some(whole_seconds(fixtures::time(START)))
        );
        assert_eq!(report.common.lease_duration_seconds, Some(30));
        assert_eq!(declaration.recovery, None);
        assert!(!plan.declared_before);
    }

    #[test]
    fn a_declaration_after_a_loss_recovers_for_the_longest_lease_that_the_status_keeps() {
        let mut facts = facts(Some(100));
        facts.report.common.lease_duration_seconds = Some(600);
        let steps = steps(&facts, &observation(None)).unwrap();
        let (report, _, declaration) = plan_of(&steps);
        assert!(declaration.floor > 100);
        assert_eq!(report.common.lease_duration_seconds, Some(600));
        assert_eq!(declaration.recovery, Some(Duration::from_secs(600)));
        assert_eq!(declaration.lease, Duration::from_secs(30));
    }

    #[test]
    fn a_lost_object_needs_no_status_first_and_one_that_was_withdrawn_does() {
        let facts = facts(Some(100));
        let mut seen = observation(None);
        let lost = steps(&facts, &seen).unwrap();
        assert!(matches!(lost[..], [Step::Recover { .. }]), "{lost:?}");
        seen.drained = true;
        let withdrawn = steps(&facts, &seen).unwrap();
        assert!(
            matches!(withdrawn[..], [Step::WriteStatus(_), Step::Declare { .. }]),
            "{withdrawn:?}"
        );
    }

    #[test]
    fn a_first_floor_is_above_those_of_the_epochs() {
        let mut facts = facts(None);
        facts.ahead.first_floor = 1 << 52;
        let first = steps(&facts, &observation(None)).unwrap();
        let (report, _, declaration) = plan_of(&first);
        assert_eq!(report.common.fencing_floor, Some(1 << 52));
        assert_eq!(declaration.floor, 1 << 52);
    }

    #[test]
    fn the_next_status_has_the_floor_under_which_the_object_was_declared() {
        let raised = |floor| Ahead {
            raised: Some(Raised {
                floor,
                current_at: SystemTime::UNIX_EPOCH + Duration::from_secs(7),
            }),
            ..Ahead::default()
        };
        let mut lags = report(Some(5), &[]);
        raise_floor(&mut lags, &raised(6));
        assert_eq!(lags.common.fencing_floor, Some(6));
        let time = whole_seconds(fixtures::time(7));
        assert_eq!(lags.common.fencing_floor_time, Some(time));
        let mut newer = report(Some(5), &[]);
        raise_floor(&mut newer, &raised(4));
        assert_eq!(newer, report(Some(5), &[]));
    }

    #[test]
    fn a_status_gets_the_newest_token_where_another_process_may_have_declared_the_object() {
        let (lease, asked_at) = (LeasePolicy::default(), Timestamp::from_second(9).unwrap());
        let mut lags = report(Some(5), &[]);
        let ahead = kept_in(&lags, &lease).map(|kept| Kept { floor: 50, ..kept });
        refresh_floor(&mut lags, &lease, ahead, 60, asked_at);
        assert_eq!(lags.common.fencing_floor, Some(60));
        assert_eq!(lags.common.fencing_floor_time, Some(whole_seconds(asked_at)));
    }

    #[test]
    fn an_object_is_declared_if_redis_lacks_the_spec_and_once_in_a_reconciliation() {
        let mut facts = facts(Some(100));
        let mut seen = observation(Some(fixtures::snapshot(START, vec![], vec![])));
        let first = steps(&facts, &seen).unwrap();
        let (_, plan, declaration) = plan_of(&first);
        if let Some(snapshot) = &mut seen.snapshot {
            snapshot.digest = Some(declaration.digest());
        }
        assert_eq!(steps(&facts, &seen), None, "Redis has the spec");

        let outdated = observation(Some(fixtures::snapshot(START, vec![], vec![])));
        facts.declared = Some(*plan);
        assert_eq!(
            steps(&facts, &outdated),
            None,
            "another controller has declared another spec"
        );
    }

    #[test]
    fn a_first_floor_is_kept_with_the_finalizer_and_another_one_in_the_status() {
        let seen = observation(None);
        let mut facts = facts(None);
        facts.desired.finalizers.clear();
        let first = steps(&facts, &seen).unwrap();
        let [
            Step::AddFinalizer(Some(report)),
            Step::Declare { declaration, .. },
        ] = &first[..]
        else {
            panic!("{first:?}")
        };
        assert_eq!(report.common.fencing_floor, Some(declaration.floor));

        facts.report = (**report).clone();
        let again = steps(&facts, &seen).unwrap();
        assert!(
            matches!(&again[..], [Step::AddFinalizer(None), Step::Recover { .. }]),
            "{again:?}"
        );
    }

    #[test]
    fn a_declared_object_without_the_finalizer_gets_it_alone() {
        let mut facts = fixtures::facts(Some(100));
        facts.desired.finalizers.clear();
        let mut seen = observation(Some(fixtures::snapshot(START, vec![], vec![])));
        if let Some(snapshot) = &mut seen.snapshot {
            snapshot.digest = Some(spec(&facts.desired).digest());
        }
        assert_eq!(steps(&facts, &seen), Some(vec![Step::AddFinalizer(None)]));
    }

    #[test]
    fn leases_of_first_users_count_only_after_the_declaration_that_adopts_them() {
        let mut facts = facts(Some(100));
        let mut snapshot = fixtures::snapshot(START, vec![], vec![]);
        snapshot.longest_lease = Duration::from_secs(90);
        assert_eq!(longest_lease(&facts, &snapshot), 30);
        for (adopts, expected) in [(false, 30), (true, 90)] {
            facts.declared = Some(control::Plan {
                floor: 1,
                current_at: SystemTime::UNIX_EPOCH,
                longest_lease: Duration::ZERO,
                declared_before: true,
                adopts,
                beyond: None,
            });
            assert_eq!(longest_lease(&facts, &snapshot), expected, "adopts: {adopts}");
        }
    }
}
