//! Conditions: a closed set of types and reasons, and the merge that keeps transition times.
//!
//! | type | True | False |
//! |---|---|---|
//! | `Ready` | the spec is applied to Redis, and requests are granted | new requests wait, and the message names the reason |
//! | `Reconciling` | the controller is at work on it, or waits for something that needs no action | there is nothing to do |
//! | `Stalled` | the object needs an action, which the message names | otherwise |
//! | `BackendReachable` | Redis answered the last time it was asked | it did not; counts and lists are the last known ones |
//!
//! `Ready`, `Reconciling` and `Stalled` are those that `kubectl wait`, Flux and Argo CD understand.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::status::{MAX_MESSAGE, bounded, whole_seconds};

/// The type of a condition.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum ConditionType {
    /// The spec is applied to Redis, and requests are granted.
    Ready,
    /// The controller is at work on the object.
    Reconciling,
    /// The object stays as it is until a person acts.
    Stalled,
    /// Redis answers.
    BackendReachable,
}

impl ConditionType {
    /// Every type, in the order in which a status lists them.
    pub const ALL: [Self; 4] = [
        Self::Ready,
        Self::Reconciling,
        Self::Stalled,
        Self::BackendReachable,
    ];

    /// The name in a status.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::Reconciling => "Reconciling",
            Self::Stalled => "Stalled",
            Self::BackendReachable => "BackendReachable",
        }
    }
}

/// The status of a condition.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum ConditionStatus {
    /// It does.
    True,
    /// It does not.
    False,
    /// The status is not known.
    Unknown,
}

impl ConditionStatus {
    /// Every status.
    pub const ALL: [Self; 3] = [Self::True, Self::False, Self::Unknown];

    /// The name in a status.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl From<bool> for ConditionStatus {
    fn from(holds: bool) -> Self {
        if holds { Self::True } else { Self::False }
    }
}

/// Why a condition has its status.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum ConditionReason {
    /// The spec is applied to Redis.
    Synced,
    /// The spec has not been brought to Redis yet.
    Pending,
    /// Redis has lost the data of this object, or was restarted: nothing new is granted until every lease of before has
    /// ended or was renewed.
    Recovering,
    /// Resources or permits were taken away while held, and their holders keep them until they let go.
    Draining,
    /// The object is being deleted.
    Deleting,
    /// Redis answered.
    Connected,
    /// Redis does not answer.
    BackendUnreachable,
    /// Redis answers, and refuses: a wrong password, or a user without the permission.
    BackendDenied,
    /// The server is older than Tenure requires, or a proxy that lacks a feature which Tenure requires.
    BackendUnsupported,
    /// The spec cannot be applied, although the API server has accepted it.
    InvalidSpec,
    /// The data of the object in Redis was overwritten or removed in part: other objects go on.
    Damaged,
    /// The data of the object in Redis was written by a newer Tenure than the controller.
    VersionMismatch,
}

impl ConditionReason {
    /// Every reason.
    pub const ALL: [Self; 12] = [
        Self::Synced,
        Self::Pending,
        Self::Recovering,
        Self::Draining,
        Self::Deleting,
        Self::Connected,
        Self::BackendUnreachable,
        Self::BackendDenied,
        Self::BackendUnsupported,
        Self::InvalidSpec,
        Self::Damaged,
        Self::VersionMismatch,
    ];

    /// The name in a status.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Synced => "Synced",
            Self::Pending => "Pending",
            Self::Recovering => "Recovering",
            Self::Draining => "Draining",
            Self::Deleting => "Deleting",
            Self::Connected => "Connected",
            Self::BackendUnreachable => "BackendUnreachable",
            Self::BackendDenied => "BackendDenied",
            Self::BackendUnsupported => "BackendUnsupported",
            Self::InvalidSpec => "InvalidSpec",
            Self::Damaged => "Damaged",
            Self::VersionMismatch => "VersionMismatch",
        }
    }
}

/// The finding about one condition; [`merge`] makes a [`Condition`] of it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Assessment {
    /// The type of the condition.
    pub type_: ConditionType,
    /// The status of the condition.
    pub status: ConditionStatus,
    /// Why.
    pub reason: ConditionReason,
    /// A message for people: what is wrong and what to do. It must not change while nothing changes.
    pub message: String,
}

/// Returns the condition of a type, of which a status has at most one.
#[must_use]
pub fn condition(conditions: &[Condition], type_: ConditionType) -> Option<&Condition> {
    conditions
        .iter()
        .find(|condition| condition.type_ == type_.as_str())
}

/// Returns the conditions with `found` of `generation`.
///
/// A condition keeps its transition time from `previous` as long as its status is the same, and `previous` conditions
/// that nothing was found about are dropped. Pure: equal input gives equal output, so that a status that did not change
/// need not be written.
#[must_use]
pub fn merge(
    previous: &[Condition],
    found: &[Assessment],
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    found
        .iter()
        .map(
            |Assessment {
                 type_,
                 status,
                 reason,
                 message,
             }| {
                let last_transition_time = condition(previous, *type_)
                    .filter(|before| before.status == status.as_str())
                    .map_or_else(
                        || whole_seconds(now),
                        |before| before.last_transition_time.clone(),
                    );
                Condition {
                    last_transition_time,
                    message: bounded(message, MAX_MESSAGE),
                    observed_generation: generation,
                    reason: reason.as_str().to_owned(),
                    status: status.as_str().to_owned(),
                    type_: type_.as_str().to_owned(),
                }
            },
        )
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready(status: ConditionStatus, reason: ConditionReason, message: &str) -> Assessment {
        Assessment {
            type_: ConditionType::Ready,
            status,
            reason,
            message: message.to_owned(),
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_new_condition_has_the_time_of_now_in_whole_seconds() {
        let found = [ready(
            ConditionStatus::False,
            ConditionReason::Pending,
            "not in Redis yet",
        )];
        let now = Timestamp::from_millisecond(5_999).unwrap();
        let [condition] = &merge(&[], &found, Some(1), now)[..] else {
            panic!("one condition")
        };
        assert_eq!(condition.last_transition_time.0, at(5));
        assert_eq!(
            (
                condition.type_.as_str(),
                condition.status.as_str(),
                condition.reason.as_str()
            ),
            ("Ready", "False", "Pending")
        );
        assert_eq!(condition.observed_generation, Some(1));
    }

    #[test]
    fn the_transition_time_stays_while_only_reason_message_and_generation_change() {
        let before = merge(
            &[],
            &[ready(
                ConditionStatus::False,
                ConditionReason::Pending,
                "not in Redis yet",
            )],
            Some(1),
            at(5),
        );
        let found = [ready(
            ConditionStatus::False,
            ConditionReason::Recovering,
            "until 09:05:42",
        )];
        let after = merge(&before, &found, Some(2), at(9));
        assert_eq!(after[0].last_transition_time.0, at(5));
        assert_eq!(after[0].reason, "Recovering");
        assert_eq!(after[0].message, "until 09:05:42");
        assert_eq!(after[0].observed_generation, Some(2));
    }

    #[test]
    fn the_transition_time_moves_with_the_status() {
        let before = merge(
            &[],
            &[ready(ConditionStatus::False, ConditionReason::Pending, "")],
            Some(1),
            at(5),
        );
        let after = merge(
            &before,
            &[ready(ConditionStatus::True, ConditionReason::Synced, "")],
            Some(1),
            at(9),
        );
        assert_eq!(after[0].last_transition_time.0, at(9));
    }

    #[test]
    fn nothing_changes_while_nothing_changes() {
        let found = [ready(
            ConditionStatus::True,
            ConditionReason::Synced,
            "2 of 2 are held",
        )];
        let before = merge(&[], &found, Some(1), at(5));
        assert_eq!(merge(&before, &found, Some(1), at(99)), before);
    }

    #[test]
    fn what_is_not_found_any_more_is_dropped() {
        let before = merge(
            &[],
            &[ready(ConditionStatus::True, ConditionReason::Synced, "")],
            Some(1),
            at(5),
        );
        assert_eq!(merge(&before, &[], Some(1), at(9)), []);
    }

    #[test]
    fn a_long_message_is_cut_to_what_the_schema_takes() {
        let found = [ready(
            ConditionStatus::False,
            ConditionReason::BackendUnreachable,
            &"x".repeat(2_000),
        )];
        assert_eq!(
            merge(&[], &found, None, at(0))[0].message.chars().count(),
            MAX_MESSAGE
        );
    }
}
