use tenure_crds::{LeasePolicy, whole_seconds};

use super::*;
use crate::fixtures::{START, at, facts, holder, snapshot, time, waiter};

mod conditions;
mod events;
mod lists;

fn declared(previous: &StatusDraft, snapshot: &Snapshot) -> StatusDraft {
    let now = timestamp(snapshot.now);
    report(
        previous,
        &Ahead::default(),
        Some(3),
        "ml",
        Outcome::Declared {
            snapshot,
            lease: &LeasePolicy::default(),
            total: 4,
            longest_lease: 30,
            asked_at: now,
        },
        now,
    )
}

fn trouble(previous: &StatusDraft, error: &tenure::Error, now: i64) -> StatusDraft {
    report(
        previous,
        &Ahead::default(),
        Some(3),
        "ml",
        Outcome::BackendProblem(&BackendProblem::from(error)),
        time(now),
    )
}

#[test]
fn nothing_is_written_while_nothing_changes() {
    let snapshot = snapshot(START, vec![holder(1, &["a"], START + 30)], vec![waiter(2)]);
    let before = declared(&StatusDraft::default(), &snapshot);
    let later = report(
        &before,
        &Ahead::default(),
        Some(3),
        "ml",
        Outcome::Declared {
            snapshot: &snapshot,
            lease: &LeasePolicy::default(),
            total: 4,
            longest_lease: 30,
            asked_at: time(START + 77),
        },
        time(START + 77),
    );
    assert_eq!(later, before);
}

#[test]
fn a_renewal_is_no_change() {
    let shown = declared(
        &StatusDraft::default(),
        &snapshot(START, vec![holder(1, &["a"], START + 30)], vec![]),
    );
    for now in [START + 10, START + 30, START + 300] {
        let renewed = snapshot(now, vec![holder(1, &["a"], now + 30)], vec![]);
        assert_eq!(declared(&shown, &renewed), shown, "at {now}");
    }
}

#[test]
fn changed_holders_and_waiters_wait_while_changes_go_on_and_all_else_is_written_at_once() {
    let wait = Duration::from_secs(5);
    let shown = declared(&StatusDraft::default(), &snapshot(START, vec![], vec![]));
    let planned = |snapshot: &Snapshot, status_waits| {
        let mut facts = facts(Some(100));
        facts.report = shown.clone();
        facts.status_waits = status_waits;
        let plan = plan(&facts, snapshot);
        let written = plan.steps.iter().any(|step| matches!(step, Step::WriteStatus(_)));
        (written, plan.done)
    };
    let requeue = |seconds| Some(Action::requeue(Duration::from_secs(seconds)));
    let soon = Some(Action::requeue(
        Duration::from_secs(30) + Duration::from_millis(20),
    ));
    let held = snapshot(START, vec![holder(1, &[], START + 30)], vec![waiter(2)]);
    assert_eq!(planned(&held, None), (true, soon.clone()));
    assert_eq!(planned(&held, Some(wait)), (false, requeue(5)));
    let mut recovering = held.clone();
    recovering.recovering_until = Some(at(START + 12));
    assert_eq!(planned(&recovering, Some(wait)), (true, soon));
    let unchanged = snapshot(START, vec![], vec![]);
    assert_eq!(planned(&unchanged, Some(wait)), (false, requeue(300)));
}

#[test]
fn a_change_of_a_count_or_a_list_is_churn_and_one_of_anything_else_is_none() {
    let shown = declared(&StatusDraft::default(), &snapshot(START, vec![], vec![]));
    let held = snapshot(START, vec![holder(1, &["a"], START + 30)], vec![waiter(2)]);
    let mut held = declared(&shown, &held);
    assert!(is_churn(&shown, &held));
    assert!(!is_churn(&held, &held), "nothing has changed");
    held.common.fencing_floor = Some(7);
    assert!(!is_churn(&shown, &held));
}

#[test]
fn a_resource_that_goes_to_another_lease_is_news_even_if_nothing_else_changed() {
    let shown = declared(
        &StatusDraft::default(),
        &snapshot(START, vec![holder(1, &["a"], START + 30)], vec![]),
    );
    let handed_on = snapshot(START + 1, vec![holder(2, &["a"], START + 30)], vec![]);
    assert_ne!(declared(&shown, &handed_on), shown);
}

#[test]
fn the_floor_of_fencing_tokens_stays_in_every_view() {
    let mut before = StatusDraft::default();
    before.common.fencing_floor = Some(150);
    before.common.fencing_floor_time = Some(whole_seconds(time(START)));
    let away = tenure::Error::Unreachable {
        reason: "refused".to_owned(),
    };
    assert_eq!(trouble(&before, &away, START).common.fencing_floor, Some(150));
    let live = declared(&before, &snapshot(START, vec![], vec![]));
    assert_eq!(live.common.fencing_floor, Some(150));
}

#[test]
fn it_is_looked_at_when_time_alone_changes_something() {
    let seconds_until_requeued = |snapshot: &Snapshot| requeue_after(snapshot).as_secs();
    assert_eq!(
        seconds_until_requeued(&snapshot(START, vec![], vec![])),
        300,
        "nothing to wait for"
    );
    let held = snapshot(START, vec![holder(1, &[], START + 30)], vec![]);
    assert_eq!(seconds_until_requeued(&held), 30, "the end of the lease");
    let mut recovering = snapshot(START, vec![], vec![]);
    recovering.next_change = Some(at(START + 12));
    assert_eq!(seconds_until_requeued(&recovering), 12, "the end of the recovery");
    let overdue = snapshot(START, vec![holder(1, &[], START)], vec![]);
    assert_eq!(seconds_until_requeued(&overdue), 1, "not more often than that");
}
