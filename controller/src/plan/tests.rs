use std::time::SystemTime;

use super::*;
use crate::fixtures::{self, START, desired, facts, holder, observation, snapshot, time, with_uid};

/// A snapshot of the object as it is declared by [`facts`].
fn declared(held: Vec<control::HolderView>) -> Snapshot {
    let mut snapshot = snapshot(START, held, vec![]);
    snapshot.digest = Some(declaration::spec(&desired()).digest());
    snapshot
}

fn steps(facts: &Facts) -> Vec<Step> {
    let plan = next(facts).unwrap();
    assert_eq!(plan.done, None);
    plan.steps
}

#[test]
fn an_object_without_the_finalizer_gets_it_before_redis_gets_the_object() {
    let mut facts = facts(None);
    facts.desired.finalizers.clear();
    assert_eq!(steps(&facts), [Step::Observe]);
    facts.seen = Some(observation(None));
    let steps = steps(&facts);
    assert!(
        matches!(&steps[..], [Step::AddFinalizer(Some(_)), Step::Declare { .. }]),
        "{steps:?}"
    );
}

#[test]
fn an_object_is_observed_before_anything_is_decided() {
    assert_eq!(steps(&facts(None)), [Step::Observe]);
}

#[test]
fn the_floor_is_written_before_redis_has_it() {
    let mut facts = facts(None);
    facts.seen = Some(observation(None));
    let steps = steps(&facts);
    let [Step::WriteStatus(report), Step::Declare { declaration, .. }] = &steps[..] else {
        panic!("{steps:?}")
    };
    assert_eq!(report.common.fencing_floor, Some(declaration.floor));
}

#[test]
fn an_object_that_is_not_there_after_its_declaration_has_vanished() {
    let mut facts = facts(Some(100));
    facts.declared = Some(control::Plan {
        floor: 100,
        current_at: SystemTime::UNIX_EPOCH,
        longest_lease: fixtures::LEASE,
        declared_before: false,
        adopts: false,
        beyond: None,
    });
    assert_eq!(steps(&facts), [Step::Observe]);
    facts.seen = Some(observation(None));
    assert!(matches!(next(&facts), Err(Failure::Vanished)));
}

#[test]
fn ended_pods_come_before_the_status_and_the_object_is_observed_again_after_them() {
    let mut facts = facts(Some(100));
    let mut held = holder(1, &[], START + 30);
    held.holder = with_uid(held.holder, "a");
    facts.seen = Some(observation(Some(declared(vec![held]))));
    facts.ended.insert("a".to_owned());
    assert!(matches!(&steps(&facts)[..], [Step::Reclaim(_)]));

    facts.redis_changed();
    facts.reclaimed = true;
    assert_eq!(steps(&facts), [Step::Observe]);
    facts.seen = Some(observation(Some(declared(vec![]))));
    let plan = next(&facts).unwrap();
    assert!(matches!(&plan.steps[..], [Step::WriteStatus(_)]));
    assert!(plan.done.is_some());
}

#[test]
fn a_status_that_is_up_to_date_is_not_written_and_the_object_is_reconciled_when_time_changes_it() {
    let mut facts = facts(Some(100));
    facts.seen = Some(observation(Some(declared(vec![holder(1, &[], START + 30)]))));
    let first = next(&facts).unwrap();
    let [Step::WriteStatus(report)] = &first.steps[..] else {
        panic!("{first:?}")
    };
    facts.report = (**report).clone();
    facts.now = time(START + 5);
    let second = next(&facts).unwrap();
    assert_eq!((second.steps, second.done.clone()), (Vec::new(), first.done));
    let a_little_later = Duration::from_secs(30) + Duration::from_millis(20);
    assert_eq!(second.done, Some(Action::requeue(a_little_later)));
}

#[test]
fn a_deletion_is_planned_even_if_the_spec_is_not_declared() {
    let mut facts = facts(None);
    facts.desired.deleted_at = Some(time(START));
    assert_eq!(steps(&facts), [Step::Withdraw(Withdrawal::Drain)]);
}
