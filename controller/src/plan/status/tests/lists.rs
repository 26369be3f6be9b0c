use tenure_crds::{MAX_HELD_BY, MAX_POD, MAX_REASON};

use super::*;
use crate::{
    fixtures::identity,
    plan::status::{lists::MAX_TOKEN, named, named_holders},
};

#[test]
fn holders_and_waiters_are_listed() {
    let snapshot = snapshot(
        START,
        vec![holder(1, &["a", "b"], START + 30)],
        vec![waiter(8), waiter(9)],
    );
    let report = declared(&StatusDraft::default(), &snapshot);
    let common = &report.common;
    assert_eq!(
        (common.total, common.held, common.free, common.waiting),
        (4, 2, 2, 2)
    );
    assert_eq!(common.held_by, "worker-1 (a, b)");
    assert!(!common.truncated);
    let lines: Vec<_> = report
        .holds
        .iter()
        .map(|h| (h.resource.as_deref().unwrap(), h.permits))
        .collect();
    assert_eq!(lines, [("a", 1), ("b", 1)]);
    let first = &report.holds[0].holder;
    assert_eq!(
        (first.pod.as_str(), first.reason.as_str(), first.fencing_token),
        ("worker-1", "training", 101)
    );
    assert_eq!(
        (first.acquired_at.0, first.renewable_until.clone()),
        (time(START), None)
    );
    let queue: Vec<_> = common
        .waiters
        .iter()
        .map(|w| (w.position, w.pod.as_str()))
        .collect();
    assert_eq!(queue, [(1, "waiter-8"), (2, "waiter-9")]);
}

#[test]
fn the_end_of_the_longest_hold_is_shown() {
    let mut bounded = holder(1, &[], START + 30);
    bounded.renewable_until = Some(at(START + 600));
    let report = declared(&StatusDraft::default(), &snapshot(START, vec![bounded], vec![]));
    let shown = report.holds[0].holder.renewable_until.clone();
    assert_eq!(shown, Some(whole_seconds(time(START + 600))));
}

#[test]
fn permits_are_one_line_a_lease() {
    let mut two = holder(1, &[], START + 30);
    two.permits = 2;
    let report = declared(
        &StatusDraft::default(),
        &snapshot(START, vec![two, holder(2, &[], START + 30)], vec![]),
    );
    let lines: Vec<_> = report
        .holds
        .iter()
        .map(|h| (h.resource.clone(), h.permits))
        .collect();
    assert_eq!(lines, [(None, 2), (None, 1)]);
    assert_eq!(report.common.held_by, "worker-1 (2) +1");
}

#[test]
fn a_holder_that_is_no_pod_is_named_by_its_process_and_one_of_another_namespace_with_that() {
    let mut process = holder(1, &[], START + 30);
    process.holder = identity(None, "default");
    let mut foreign = holder(2, &[], START + 30);
    foreign.holder = identity(Some("p"), "web");
    let report = declared(
        &StatusDraft::default(),
        &snapshot(START, vec![process, foreign], vec![]),
    );
    let who: Vec<_> = report
        .holds
        .iter()
        .map(|h| (h.holder.pod.as_str(), h.holder.namespace.as_deref()))
        .collect();
    assert_eq!(who, [("host/7", None), ("p", Some("web"))]);
}

#[test]
fn lists_are_heads_and_counts_are_exact() {
    let holders: Vec<_> = (0..40).map(|n| holder(n, &["x"], START + 30)).collect();
    let mut many = snapshot(START, holders[..32].to_vec(), (0..32).map(waiter).collect());
    (many.held, many.waiting) = (40, 50);
    let report = declared(&StatusDraft::default(), &many);
    assert_eq!((report.holds.len(), report.common.waiters.len()), (32, 32));
    assert_eq!((report.common.held, report.common.waiting), (40, 50));
    assert!(report.common.truncated);
    assert_eq!(report.common.held_by, "worker-0 (x) +31 and more");

    let names: Vec<String> = (0..40).map(|n| format!("resource-{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let wide = declared(
        &StatusDraft::default(),
        &snapshot(START, vec![holder(1, &names, START + 30)], vec![]),
    );
    assert_eq!(wide.holds.len(), 32);
    assert!(wide.common.truncated);
    assert_eq!(wide.common.held_by.chars().count(), MAX_HELD_BY);
}

#[test]
fn what_users_write_is_cut_to_what_the_schema_takes() {
    let mut long = holder(1, &[], START + 30);
    (long.reason, long.token) = ("r".repeat(5_000), "t".repeat(5_000));
    long.holder = identity(Some(&"p".repeat(5_000)), &"n".repeat(5_000));
    let report = declared(&StatusDraft::default(), &snapshot(START, vec![long], vec![]));
    let shown = &report.holds[0].holder;
    let lengths = [
        &shown.reason,
        &shown.token,
        &shown.pod,
        shown.namespace.as_ref().unwrap(),
    ];
    assert_eq!(
        lengths.map(|text| text.chars().count()),
        [MAX_REASON, MAX_TOKEN, MAX_POD, 63]
    );
}

#[test]
fn the_note_of_an_event_names_ten_holders_and_counts_the_others() {
    let of = |holders: Vec<_>| snapshot(START, holders, vec![]);
    assert_eq!(named_holders("ml", &of(vec![])), "");
    let mut two = holder(1, &[], START + 30);
    two.permits = 2;
    assert_eq!(
        named_holders("ml", &of(vec![two, holder(2, &[], START + 30)])),
        "worker-1 (2), worker-2"
    );
    let many = of((1..=13).map(|n| holder(n, &["a"], START + 30)).collect());
    let shown = named_holders("ml", &many);
    assert!(shown.starts_with("worker-1 (a), worker-2 (a), "), "{shown}");
    assert!(shown.ends_with("worker-10 (a) and 3 more"), "{shown}");
    let report = declared(&StatusDraft::default(), &many);
    assert_eq!(named(&report.holds, 40), shown.replace("3 more", "30 more"));
    assert_eq!(named(&[], 3), "3 that are not listed");
}
