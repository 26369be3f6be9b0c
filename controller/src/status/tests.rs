use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::*;

const LEASE: Duration = Duration::from_secs(30);
const START: i64 = 1_000;

fn at(second: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(second).unwrap())
}

fn time(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn identity(pod: Option<&str>, namespace: &str) -> Identity {
    let json = serde_json::json!({"pod": pod, "namespace": namespace, "process": "host/7"});
    serde_json::from_value(json).unwrap()
}

fn holder(number: u64, resources: &[&str], expires: i64) -> HolderView {
    HolderView {
        token: format!("token-{number}"),
        fence: 100 + number,
        permits: resources.len().max(1) as u64,
        resources: resources.iter().map(|&name| name.to_owned()).collect(),
        since: at(START),
        expires: at(expires),
        holder: identity(Some(&format!("worker-{number}")), "ml"),
        reason: "training".to_owned(),
    }
}

fn waiter(number: u64) -> WaiterView {
    WaiterView {
        token: format!("waiter-{number}"),
        permits: 1,
        since: at(START),
        holder: identity(Some(&format!("waiter-{number}")), "ml"),
        reason: String::new(),
    }
}

fn snapshot(now: i64, holders: Vec<HolderView>, waiters: Vec<WaiterView>) -> Snapshot {
    let held = holders.iter().map(|holder| holder.permits).sum();
    Snapshot {
        now: at(now),
        digest: Some("d".to_owned()),
        current: true,
        limit: 4,
        held,
        free: 4_u64.saturating_sub(held),
        waiting: waiters.len() as u64,
        last_fence: 200,
        recovering_until: None,
        withdrawing: false,
        next_change: holders.iter().map(|holder| holder.expires).min(),
        longest_lease: LEASE,
        holders,
        waiters,
    }
}

fn declared(previous: &StatusDraft, snapshot: &Snapshot) -> StatusDraft {
    let now = timestamp(snapshot.now);
    report(
        previous,
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

fn condition(report: &StatusDraft, type_: ConditionType) -> Condition {
    report
        .common
        .conditions
        .iter()
        .find(|c| c.type_ == type_.as_str())
        .cloned()
        .unwrap()
}

/// Type by type: status and reason.
fn verdict(report: &StatusDraft) -> Vec<(String, String, String)> {
    let conditions = report.common.conditions.iter();
    conditions
        .map(|c| (c.type_.clone(), c.status.clone(), c.reason.clone()))
        .collect()
}

fn expect(report: &StatusDraft, expected: [(&str, &str, &str); 4]) {
    let expected = expected.map(|(t, s, r)| (t.to_owned(), s.to_owned(), r.to_owned()));
    assert_eq!(verdict(report), expected);
    assert!(
        report
            .common
            .conditions
            .iter()
            .all(|c| c.observed_generation == Some(3) && !c.message.is_empty())
    );
    assert_eq!(report.common.observed_generation, Some(3));
}

#[test]
fn it_tells_who_holds_what_and_who_waits() {
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
        (first.acquired_at.0, first.expires_at.0),
        (time(START), time(START + 30))
    );
    let queue: Vec<_> = common
        .waiters
        .iter()
        .map(|w| (w.position, w.pod.as_str()))
        .collect();
    assert_eq!(queue, [(1, "waiter-8"), (2, "waiter-9")]);
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
fn conditions_of_an_object_in_order() {
    expect(
        &declared(&StatusDraft::default(), &snapshot(START, vec![], vec![])),
        [
            ("Ready", "True", "Synced"),
            ("Reconciling", "False", "Synced"),
            ("Stalled", "False", "Synced"),
            ("BackendReachable", "True", "Connected"),
        ],
    );
}

#[test]
fn conditions_of_an_object_that_drains() {
    let mut shrunk = snapshot(START, vec![holder(1, &["a", "b", "c"], START + 30)], vec![]);
    (shrunk.limit, shrunk.free) = (1, 0);
    let report = declared(&StatusDraft::default(), &shrunk);
    expect(
        &report,
        [
            ("Ready", "True", "Synced"),
            ("Reconciling", "True", "Draining"),
            ("Stalled", "False", "Synced"),
            ("BackendReachable", "True", "Connected"),
        ],
    );
    assert!(
        condition(&report, ConditionType::Reconciling)
            .message
            .starts_with("2 held beyond")
    );
}

#[test]
fn conditions_of_an_object_that_recovers() {
    let mut recovering = snapshot(START, vec![], vec![]);
    recovering.recovering_until = Some(at(START + 30));
    let report = declared(&StatusDraft::default(), &recovering);
    expect(
        &report,
        [
            ("Ready", "False", "Recovering"),
            ("Reconciling", "True", "Recovering"),
            ("Stalled", "False", "Synced"),
            ("BackendReachable", "True", "Connected"),
        ],
    );
    assert!(
        condition(&report, ConditionType::Ready)
            .message
            .contains("before 1970-01-01T00:17:10Z")
    );
}

#[test]
fn conditions_of_an_object_that_is_being_deleted_and_its_last_total() {
    let live = declared(&StatusDraft::default(), &snapshot(START, vec![], vec![]));
    let held = snapshot(START, vec![holder(1, &["a"], START + 30)], vec![]);
    let outcome = Outcome::Deleting {
        snapshot: &held,
        until: time(START + 300),
    };
    let report = report(&live, Some(3), "ml", outcome, time(START));
    expect(
        &report,
        [
            ("Ready", "False", "Deleting"),
            ("Reconciling", "True", "Deleting"),
            ("Stalled", "False", "Synced"),
            ("BackendReachable", "True", "Connected"),
        ],
    );
    assert_eq!((report.common.total, report.common.held), (4, 1));
}

fn trouble(previous: &StatusDraft, error: &tenure::Error, now: i64) -> StatusDraft {
    report(
        previous,
        Some(3),
        "ml",
        Outcome::BackendProblem(&BackendProblem::from(error)),
        time(now),
    )
}

#[test]
fn while_redis_is_away_the_last_counts_and_lists_stay() {
    let before = declared(
        &StatusDraft::default(),
        &snapshot(START, vec![holder(1, &["a"], START + 30)], vec![]),
    );
    let away = tenure::Error::Unreachable {
        reason: "connection refused".to_owned(),
    };
    let after = trouble(&before, &away, START + 99);
    expect(
        &after,
        [
            ("Ready", "False", "BackendUnreachable"),
            ("Reconciling", "True", "BackendUnreachable"),
            ("Stalled", "False", "BackendUnreachable"),
            ("BackendReachable", "False", "BackendUnreachable"),
        ],
    );
    assert_eq!(
        (after.holds, after.common.held),
        (before.holds, before.common.held)
    );
}

#[test]
fn an_outage_is_written_once_however_its_message_changes() {
    let before = declared(&StatusDraft::default(), &snapshot(START, vec![], vec![]));
    let refused = tenure::Error::Unreachable {
        reason: "connection refused".to_owned(),
    };
    let silent = tenure::Error::Unreachable {
        reason: "no answer in time".to_owned(),
    };
    let first = trouble(&before, &refused, START + 1);
    let second = trouble(&first, &silent, START + 60);
    assert_eq!(to_write(&first, second, LEASE, time(START + 60)), None);
}

#[test]
fn what_only_somebody_can_mend_stalls_and_says_how() {
    let denied = tenure::Error::Authentication {
        address: "r:6379".to_owned(),
        reason: "WRONGPASS".to_owned(),
    };
    let old = tenure::Error::UnsupportedServer {
        address: "r:6379".to_owned(),
        found: "it is Redis 5.0, and Tenure needs Redis 7.0 or newer".to_owned(),
    };
    // The spec is right: it is the address of Redis that is not.
    let sentinel = tenure::Error::InvalidInput {
        field: "url",
        problem: "names r:26379, which is a Sentinel".to_owned(),
        fix: "use redis+sentinel://".to_owned(),
    };
    for (error, reason, fix) in [
        (denied, "BackendDenied", "check user name and password"),
        (old, "BackendUnsupported", "7.0 or newer"),
        (sentinel, "BackendDenied", "redis+sentinel://"),
    ] {
        let report = trouble(&StatusDraft::default(), &error, START);
        expect(
            &report,
            [
                ("Ready", "False", reason),
                ("Reconciling", "False", reason),
                ("Stalled", "True", reason),
                ("BackendReachable", "False", reason),
            ],
        );
        assert!(condition(&report, ConditionType::Stalled).message.contains(fix));
    }
}

#[test]
fn a_spec_that_cannot_be_declared_stalls_while_redis_is_well() {
    let error = tenure::ObjectRef::new(tenure::Kind::Pool, "ml", "a b").unwrap_err();
    expect(
        &trouble(&StatusDraft::default(), &error, START),
        [
            ("Ready", "False", "InvalidSpec"),
            ("Reconciling", "False", "InvalidSpec"),
            ("Stalled", "True", "InvalidSpec"),
            ("BackendReachable", "True", "Connected"),
        ],
    );
}

#[test]
fn a_damaged_object_stalls_while_redis_is_well_and_the_message_says_how_to_mend_it() {
    let error = tenure::Error::Damaged {
        object: tenure::ObjectRef::new(tenure::Kind::Pool, "ml", "seats").unwrap(),
        reason: "…:queue holds another type of value; to mend it, …".to_owned(),
    };
    let report = trouble(&StatusDraft::default(), &error, START);
    expect(
        &report,
        [
            ("Ready", "False", "Damaged"),
            ("Reconciling", "False", "Damaged"),
            ("Stalled", "True", "Damaged"),
            ("BackendReachable", "True", "Connected"),
        ],
    );
    assert!(
        condition(&report, ConditionType::Stalled)
            .message
            .contains("to mend it")
    );
}

#[test]
fn nothing_is_written_while_nothing_changes() {
    let snapshot = snapshot(START, vec![holder(1, &["a"], START + 30)], vec![waiter(2)]);
    let before = declared(&StatusDraft::default(), &snapshot);
    let later = report(
        &before,
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
fn transition_times_move_with_the_status_alone() {
    let before = declared(&StatusDraft::default(), &snapshot(START, vec![], vec![]));
    let after = declared(
        &before,
        &snapshot(START + 50, vec![holder(1, &["a"], START + 80)], vec![]),
    );
    assert_eq!(
        condition(&after, ConditionType::Ready).last_transition_time.0,
        time(START)
    );
    let away = tenure::Error::Unreachable {
        reason: "refused".to_owned(),
    };
    let down = trouble(&after, &away, START + 60);
    assert_eq!(
        condition(&down, ConditionType::Ready).last_transition_time.0,
        time(START + 60)
    );
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
    let nap_of = |snapshot: &Snapshot, lease| {
        let shown = declared(&StatusDraft::default(), snapshot);
        requeue_after(&shown, snapshot, lease).as_secs()
    };
    assert_eq!(
        nap_of(&snapshot(START, vec![], vec![]), LEASE),
        300,
        "nothing to wait for"
    );
    let held = snapshot(START, vec![holder(1, &[], START + 30)], vec![]);
    assert_eq!(nap_of(&held, LEASE), 30, "the end of the lease");
    let mut recovering = snapshot(START, vec![], vec![]);
    recovering.next_change = Some(at(START + 12));
    assert_eq!(nap_of(&recovering, LEASE), 12, "the end of the recovery");
    let overdue = snapshot(START, vec![holder(1, &[], START)], vec![]);
    assert_eq!(nap_of(&overdue, LEASE), 1, "not more often than that");
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
