use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::*;

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
    let report = report(&live, &Ahead::default(), Some(3), "ml", outcome, time(START));
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
    assert_eq!(second, first);
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
