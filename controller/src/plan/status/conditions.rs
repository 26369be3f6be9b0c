//! The conditions of an object, in the order in which `kubectl describe` shows them.

use jiff::Timestamp;
use tenure::control::Snapshot;
use tenure_crds::{
    Assessment, ConditionReason, ConditionStatus, ConditionType, LeasePolicy, condition, whole_seconds,
};

use crate::{kinds::StatusDraft, plan::status::timestamp};

/// The result of observing an object.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Outcome<'a> {
    /// Redis has it as declared: so many resources or permits in all, and no lease runs for longer, in seconds. It was asked at
    /// `asked_at`.
    Declared {
        snapshot: &'a Snapshot,
        lease: &'a LeasePolicy,
        total: u32,
        longest_lease: u32,
        asked_at: Timestamp,
    },
    /// It is being deleted, at the latest at `until`.
    Deleting {
        snapshot: &'a Snapshot,
        until: Timestamp,
    },
    /// Redis could not be asked, or refused; what was reported before is all there is.
    BackendProblem(&'a BackendProblem),
}

/// The reason why the spec is not applied to Redis.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct BackendProblem {
    reason: ConditionReason,
    message: String,
    /// The object is being deleted, and is removed without its keys then.
    removed_at: Option<Timestamp>,
}

/// The beginning of the message about an object that is being deleted.
const DELETED: &str = "being deleted";

impl BackendProblem {
    /// The same problem, of an object that is being deleted and is removed without its keys at that time.
    pub(crate) fn of_a_deletion(self, removed_at: Timestamp) -> Self {
        Self {
            removed_at: Some(removed_at),
            ..self
        }
    }

    /// The message, which must not change from attempt to attempt.
    fn message(&self, previous: &StatusDraft) -> String {
        let shown = condition(&previous.common.conditions, ConditionType::Ready)
            .filter(|ready| ready.reason == self.reason.as_str())
            .map(|ready| ready.message.as_str());
        match self.removed_at {
            // Another controller may have begun to fail at another time: the first time is kept.
            Some(at) => shown.filter(|shown| shown.starts_with(DELETED)).map_or_else(
                || {
                    format!(
                        "{DELETED}: {}. If that does not end before {}, the object is removed and its keys are left in Redis",
                        self.message,
                        whole_seconds(at).0
                    )
                },
                str::to_owned,
            ),
            // The exact error of a connection changes from attempt to attempt; the first one is kept until the outage ends.
            None => shown
                .filter(|_| self.reason == ConditionReason::BackendUnreachable)
                .unwrap_or(&self.message)
                .to_owned(),
        }
    }
}

impl From<&tenure::Error> for BackendProblem {
    fn from(error: &tenure::Error) -> Self {
        let reason = match error {
            tenure::Error::Unreachable { .. } => ConditionReason::BackendUnreachable,
            tenure::Error::UnsupportedServer { .. } => ConditionReason::BackendUnsupported,
            // This is about the controller's own setting, independent of the object.
            tenure::Error::InvalidInput { field: "url", .. } => ConditionReason::BackendDenied,
            tenure::Error::InvalidInput { .. } => ConditionReason::InvalidSpec,
            tenure::Error::Damaged { .. } => ConditionReason::Damaged,
            tenure::Error::VersionMismatch { .. } => ConditionReason::VersionMismatch,
            _ => ConditionReason::BackendDenied,
        };
        Self {
            reason,
            message: error.to_string(),
            removed_at: None,
        }
    }
}

/// Returns whether the report has `reason` for `type_`.
pub(super) fn has_reason(report: &StatusDraft, type_: ConditionType, reason: ConditionReason) -> bool {
    condition(&report.common.conditions, type_).is_some_and(|found| found.reason == reason.as_str())
}

/// The conditions of an object after an outcome.
pub(super) fn of(previous: &StatusDraft, outcome: Outcome<'_>) -> [Assessment; 4] {
    use ConditionReason as Reason;
    use ConditionStatus::{False, True};
    use ConditionType::{BackendReachable, Ready, Reconciling, Stalled};

    let is = |type_, status, reason, message: &str| Assessment {
        type_,
        status,
        reason,
        message: message.to_owned(),
    };
    let connected = || is(BackendReachable, True, Reason::Connected, "Redis answers");
    let not_stalled = || is(Stalled, False, Reason::Synced, "no action is needed");
    match outcome {
        Outcome::BackendProblem(trouble) => {
            let reason = trouble.reason;
            let message = trouble.message(previous);
            let message = message.as_str();
            let comes_back = reason == Reason::BackendUnreachable;
            let redis_is_well = [Reason::InvalidSpec, Reason::Damaged, Reason::VersionMismatch];
            let reachable = if redis_is_well.contains(&reason) {
                connected()
            } else {
                is(BackendReachable, False, reason, message)
            };
            [
                is(Ready, False, reason, message),
                is(Reconciling, comes_back.into(), reason, message),
                is(Stalled, (!comes_back).into(), reason, message),
                reachable,
            ]
        }
        Outcome::Deleting { snapshot, until } => {
            let message = format!(
                "being deleted: {} still held, nothing new is granted, remaining leases are ended at {}",
                snapshot.held,
                whole_seconds(until).0,
            );
            [
                is(Ready, False, Reason::Deleting, &message),
                is(Reconciling, True, Reason::Deleting, &message),
                not_stalled(),
                connected(),
            ]
        }
        Outcome::Declared { snapshot, .. } => {
            if let Some(until) = snapshot.recovering_until {
                let message = format!(
                    "Redis has lost the data of this object, or was restarted: nothing new is granted before {}, and holders \
                     keep what they have",
                    whole_seconds(timestamp(until)).0,
                );
                return [
                    is(Ready, False, Reason::Recovering, &message),
                    is(Reconciling, True, Reason::Recovering, &message),
                    not_stalled(),
                    connected(),
                ];
            }
            let reconciling = if snapshot.draining() > 0 {
                let message = format!(
                    "{} held beyond the number in the spec: their holders keep them, and they are not granted again",
                    snapshot.draining()
                );
                is(Reconciling, True, Reason::Draining, &message)
            } else {
                is(Reconciling, False, Reason::Synced, "there is nothing to do")
            };
            [
                is(Ready, True, Reason::Synced, "the spec is applied to Redis"),
                reconciling,
                not_stalled(),
                connected(),
            ]
        }
    }
}
