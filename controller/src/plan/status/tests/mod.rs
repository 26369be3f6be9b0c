use tenure_crds::{LeasePolicy, whole_seconds};

use super::*;
use crate::fixtures::{LEASE, START, at, holder, snapshot, time, waiter};

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
    assert_eq!(to_write(&before, later, LEASE, time(START + 7)), None);
}

#[test]
fn a_renewal_alone_is_written_only_after_the_shown_end_has_passed() {
    let shown = declared(
        &StatusDraft::default(),
        &snapshot(START, vec![holder(1, &["a"], START + 30)], vec![]),
    );
    let renewed = |now: i64| {
        let snapshot = snapshot(now, vec![holder(1, &["a"], now + 30)], vec![]);
        to_write(&shown, declared(&shown, &snapshot), LEASE, time(now))
    };
    for now in [START + 10, START + 20, START + 29] {
        assert_eq!(renewed(now), None, "at {now}");
    }
    let written = renewed(START + 30).unwrap();
    assert_eq!(written.holds[0].holder.expires_at.0, time(START + 60));
}

#[test]
fn short_leases_are_brought_up_to_date_every_ten_seconds() {
    let short = Duration::from_secs(2);
    let shown = declared(
        &StatusDraft::default(),
        &snapshot(START, vec![holder(1, &[], START + 2)], vec![]),
    );
    let renewed = |now: i64| {
        let snapshot = snapshot(now, vec![holder(1, &[], now + 2)], vec![]);
        to_write(&shown, declared(&shown, &snapshot), short, time(now)).is_some()
    };
    assert_eq!(
        [2, 5, 9, 10].map(|after| renewed(START + after)),
        [false, false, false, true]
    );
}

#[test]
fn any_other_change_is_written_at_once_and_brings_all_renewals_with_it() {
    let shown = declared(
        &StatusDraft::default(),
        &snapshot(START, vec![holder(1, &["a"], START + 30)], vec![]),
    );
    let holders = vec![holder(1, &["a"], START + 40), holder(2, &["b"], START + 41)];
    let snapshot = snapshot(START + 11, holders, vec![]);
    let written = to_write(&shown, declared(&shown, &snapshot), LEASE, time(START + 11)).unwrap();
    let ends: Vec<_> = written.holds.iter().map(|h| h.holder.expires_at.0).collect();
    assert_eq!(ends, [time(START + 40), time(START + 41)]);
}

#[test]
fn a_resource_that_goes_to_another_lease_is_news_even_if_nothing_else_changed() {
    let shown = declared(
        &StatusDraft::default(),
        &snapshot(START, vec![holder(1, &["a"], START + 30)], vec![]),
    );
    let handed_on = snapshot(START + 1, vec![holder(2, &["a"], START + 30)], vec![]);
    assert!(to_write(&shown, declared(&shown, &handed_on), LEASE, time(START + 1)).is_some());
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
    let seconds_until_requeued = |snapshot: &Snapshot, lease| {
        let shown = declared(&StatusDraft::default(), snapshot);
        requeue_after(&shown, snapshot, lease).as_secs()
    };
    assert_eq!(
        seconds_until_requeued(&snapshot(START, vec![], vec![]), LEASE),
        300,
        "nothing to wait for"
    );
    let held = snapshot(START, vec![holder(1, &[], START + 30)], vec![]);
    assert_eq!(seconds_until_requeued(&held, LEASE), 30, "the end of the lease");
    let mut recovering = snapshot(START, vec![], vec![]);
    recovering.next_change = Some(at(START + 12));
    assert_eq!(
        seconds_until_requeued(&recovering, LEASE),
        12,
        "the end of the recovery"
    );
    let overdue = snapshot(START, vec![holder(1, &[], START)], vec![]);
    assert_eq!(
        seconds_until_requeued(&overdue, LEASE),
        1,
        "not more often than that"
    );
}

#[test]
fn a_shown_end_that_passes_before_the_real_one_wakes_too() {
    let shown = declared(
        &StatusDraft::default(),
        &snapshot(START, vec![holder(1, &[], START + 30)], vec![]),
    );
    let renewed = snapshot(START + 20, vec![holder(1, &[], START + 50)], vec![]);
    assert_eq!(requeue_after(&shown, &renewed, LEASE).as_secs(), 10);
}
