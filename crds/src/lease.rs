//! How long a lease runs and how it ends: what the specs of both kinds share.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How long leases run, how they end, and what happens to them when the object goes.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LeasePolicy {
    /// Length of a lease in seconds, 1 to 86400: a holder that has not renewed for this long loses its hold. The
    /// library renews about three times in this span. A shorter one counts from each holder's next renewal, a longer one
    /// from its next lease.
    #[serde(default = "LeasePolicy::default_duration")]
    #[schemars(range(min = 1, max = 86_400))]
    pub lease_duration_seconds: u32,

    /// Longest hold in seconds, 1 to 2592000 and not less than `leaseDurationSeconds`: after it a lease is not renewed
    /// any more, so that a holder that hangs lets go. No limit if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2_592_000))]
    pub max_hold_seconds: Option<u32>,

    /// What ends a lease early: `OnPodEnd` frees it as soon as the holder's pod is in phase Succeeded or Failed, `OnExpiry`
    /// leaves it to run out.
    #[serde(default)]
    pub reclaim_policy: ReclaimPolicy,

    /// What happens in Redis when this object is deleted: `Drain` grants nothing new and removes the keys after the
    /// last holder, `Delete` removes them at once (holders lose their leases), `Retain` leaves them as they are.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
}

impl LeasePolicy {
    const fn default_duration() -> u32 {
        30
    }

    /// The length of a lease.
    #[must_use]
    pub fn lease_duration(&self) -> Duration {
        Duration::from_secs(self.lease_duration_seconds.into())
    }

    /// The longest hold, if there is a limit.
    #[must_use]
    pub fn max_hold(&self) -> Option<Duration> {
        self.max_hold_seconds
            .map(|seconds| Duration::from_secs(seconds.into()))
    }
}

impl Default for LeasePolicy {
    fn default() -> Self {
        Self {
            lease_duration_seconds: Self::default_duration(),
            max_hold_seconds: None,
            reclaim_policy: ReclaimPolicy::default(),
            deletion_policy: DeletionPolicy::default(),
        }
    }
}

/// What ends a lease before it expires.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum ReclaimPolicy {
    /// The end of the holder's pod.
    #[default]
    OnPodEnd,
    /// Nothing: a lease runs until it expires.
    OnExpiry,
}

/// What happens to an object in Redis when its custom resource is deleted.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum DeletionPolicy {
    /// Nothing new is granted; the keys go after the last holder.
    #[default]
    Drain,
    /// The keys go at once; holders lose their leases.
    Delete,
    /// The keys stay.
    Retain,
}
