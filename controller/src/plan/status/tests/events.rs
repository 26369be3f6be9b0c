use tenure_crds::{Assessment, ConditionStatus};

use super::*;

fn with_condition(type_: ConditionType, status: ConditionStatus, reason: ConditionReason) -> StatusDraft {
    let found = [Assessment {
        type_,
        status,
        reason,
        message: "check the password".to_owned(),
    }];
    let mut report = StatusDraft::default();
    report.common.conditions = merge(&[], &found, None, Timestamp::UNIX_EPOCH);
    report
}

#[test]
fn the_beginning_of_draining_is_an_event_and_its_continuation_is_not() {
    let draining = with_condition(
        ConditionType::Reconciling,
        ConditionStatus::True,
        ConditionReason::Draining,
    );
    assert_eq!(
        event(&StatusDraft::default(), &draining),
        Some(ObjectEvent::Draining)
    );
    assert_eq!(event(&draining, &draining), None);
    assert_eq!(event(&draining, &StatusDraft::default()), None);
}

#[test]
fn stalling_is_one_event_with_the_message_of_the_condition() {
    let stalled = with_condition(
        ConditionType::Stalled,
        ConditionStatus::True,
        ConditionReason::BackendDenied,
    );
    let expected = Some(ObjectEvent::Stalled {
        message: "check the password".to_owned(),
    });
    assert_eq!(event(&StatusDraft::default(), &stalled), expected);
    assert_eq!(event(&stalled, &stalled), None);
}
