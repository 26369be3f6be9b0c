//! The status of an object: counts that are always exact, and the heads of its two lists.
//!
//! Nothing here moves while nothing happens: no current time, no remaining time, no age, and no expiry of a lease that is renewed.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema;

/// The most holders, and the most waiters, that a status lists.
pub const MAX_LISTED: usize = 32;
/// The longest name of a pod or process that a status shows, in characters.
pub const MAX_POD: usize = 253;
/// The longest reason of a holder or waiter that a status shows, in characters.
pub const MAX_REASON: usize = 256;
/// The longest text of the column `HELD BY`, in characters, with which a line of `kubectl get` fits 120 columns. The schema takes a
/// longer one, because older versions have written it.
pub const MAX_HELD_BY: usize = 40;
/// The longest message of a condition, in characters.
pub const MAX_MESSAGE: usize = 1024;

/// The fields that the statuses of both kinds share.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CommonStatus {
    /// State of this object: `Ready`, `Reconciling`, `Stalled` and `BackendReachable`, each with the generation that it is about.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,

    /// Generation of the spec that this status is about; a smaller one than `metadata.generation` is out of date.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub observed_generation: Option<i64>,

    /// Installation of Tenure that manages this object, as `namespace/name` of its Lease: another one leaves the object alone
    /// while that Lease exists.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 3, max = 317))]
    pub controller: Option<String>,

    /// Resources or permits in force, disabled resources included.
    #[schemars(range(max = 1_000_000))]
    pub total: u32,

    /// Resources or permits that are held; more than `total` while a smaller spec drains. This count and the others follow a
    /// change at once, and the last of many changes within 8 seconds.
    pub held: u32,

    /// Resources or permits that can be granted now.
    #[schemars(range(max = 1_000_000))]
    pub free: u32,

    /// Requests in the queue, each for one or more resources or permits.
    pub waiting: u32,

    /// A short list of the holders, the longest hold first, with the number of further holders: `gpu-worker-1 (seat-a) +2`.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 128))]
    pub held_by: String,

    /// Head of the queue, at most 32, first come first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "atomic"))]
    pub waiters: Vec<Waiter>,

    /// True if there are more holders or waiters than are listed here; the counts are exact in any case.
    pub truncated: bool,

    /// Longest lease in seconds that may be running: for so long nothing new is granted after a loss of Redis' data. More
    /// than the spec's for a while after that was shortened.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86_400))]
    pub lease_duration_seconds: Option<u32>,

    /// Floor of fencing tokens: after a loss of Redis' data every new token is larger than this, so that protected
    /// systems never see a token twice. Mostly behind the newest token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fencing_floor: Option<u64>,

    /// Time at which the controller last knew that no token larger than the floor had been granted. After a loss of Redis' data
    /// it computes a safe new floor from it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fencing_floor_time: Option<Time>,
}

/// A lease: its holder, its grant and its expiry.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Holder {
    /// Id of the lease: a random text, and no secret. No client can take the lease over with it, and to end the lease takes access to
    /// Redis as well. It is not the fencing token, which is the number in `fencingToken`.
    #[schemars(length(min = 1, max = 64))]
    pub token: String,

    /// Pod that holds, or host/process-id if the holder is no pod.
    #[schemars(length(max = 253))]
    pub pod: String,

    /// Namespace of the pod, if it is not the one of this object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub namespace: Option<String>,

    /// The reason that the holder has given.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 256))]
    pub reason: String,

    /// Fencing token: a number that grows with each grant, and no secret. A protected system refuses a smaller one than it has seen.
    pub fencing_token: u64,

    /// Time of the grant, by the clock of Redis.
    pub acquired_at: Time,

    /// End of the longest hold, by the clock of Redis: no renewal extends the lease beyond it. Absent where renewals have no end.
    /// The expiry of the lease is not shown, because every renewal moves it: after the last renewal the lease runs for at most
    /// `leaseDurationSeconds`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renewable_until: Option<Time>,
}

/// A request that waits to be granted.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Waiter {
    /// Place in the queue, from 1.
    #[schemars(range(min = 1))]
    pub position: u32,

    /// Pod that waits, or host/process-id if the waiter is no pod.
    #[schemars(length(max = 253))]
    pub pod: String,

    /// Namespace of the pod, if it is not the one of this object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub namespace: Option<String>,

    /// The reason that the waiter has given.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 256))]
    pub reason: String,

    /// Number of resources or permits asked for.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub permits: u32,

    /// Time at which it asked, by the clock of Redis.
    pub since: Time,
}

/// `text`, cut to `max` characters if it is longer; the cut is shown by `…`.
///
/// The API server refuses a whole status for one text that is too long, and some of them come from users.
#[must_use]
pub fn bounded(text: &str, max: usize) -> String {
    if text.chars().nth(max).is_none() {
        return text.to_owned();
    }
    text.chars()
        .take(max.saturating_sub(1))
        .chain(['…'])
        .take(max)
        .collect()
}

/// `at` without its fraction of a second, as the API server keeps it.
///
/// A time with a fraction differs from itself once stored, and a status that differs is written again.
#[must_use]
pub fn whole_seconds(at: Timestamp) -> Time {
    let seconds = at.as_second() - i64::from(at.subsec_nanosecond() < 0);
    Time(Timestamp::from_second(seconds).unwrap_or(Timestamp::MIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_fits_is_left_alone() {
        assert_eq!(bounded("batch", 5), "batch");
        assert_eq!(bounded("", 0), "");
    }

    #[test]
    fn a_longer_text_is_cut_by_characters_and_says_so() {
        assert_eq!(bounded("nächtlich", 4), "näc…");
        assert_eq!(bounded("nächtlich", 4).chars().count(), 4);
        assert_eq!(bounded("x", 0), "");
    }

    #[test]
    fn a_time_equals_itself_after_it_was_stored() {
        for text in [
            "2026-11-21T09:05:42.999Z",
            "2026-11-21T09:05:42Z",
            "1969-12-31T23:59:58.5Z",
        ] {
            let time = whole_seconds(text.parse().unwrap());
            let stored: Time = serde_json::from_value(serde_json::to_value(&time).unwrap()).unwrap();
            assert_eq!(time, stored, "{text}");
            assert!(
                time.0 <= text.parse().unwrap(),
                "{text} is shown later than it was"
            );
        }
    }
}
