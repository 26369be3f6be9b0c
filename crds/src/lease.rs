//! Length and end of leases: the part of a spec that both kinds share.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Length of leases, their end, and the deletion of the object.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LeasePolicy {
    /// Length of a lease in seconds, 1 to 86400, default 30: a holder that has not renewed for this long loses its lease. The
    /// library renews about three times in this span. A shorter length applies from each holder's next renewal, a longer one
    /// from its next lease.
    #[serde(default = "LeasePolicy::default_duration")]
    #[schemars(range(min = 1, max = 86_400))]
    pub lease_duration_seconds: u32,

    /// Longest hold in seconds, 1 to 2592000 and not less than `leaseDurationSeconds`: after it a lease is not renewed
    /// any more, so that a hung holder loses it. No limit if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2_592_000))]
    pub max_hold_seconds: Option<u32>,

    /// Event that ends a lease early, default `OnPodEnd`: the holder's pod reaches the phase Succeeded or Failed. With
    /// `OnExpiry` every lease runs until it expires.
    #[serde(default)]
    pub reclaim_policy: ReclaimPolicy,

    /// Effect of a deletion of this object on Redis, default `Drain`: it grants nothing new and removes the keys after the
    /// last holder; `Delete` removes them at once, and holders lose their leases; `Retain` leaves them unchanged.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
}

impl LeasePolicy {
    const fn default_duration() -> u32 {
        30
    }

    /// Length of a lease.
    #[must_use]
    pub fn lease_duration(&self) -> Duration {
        Duration::from_secs(self.lease_duration_seconds.into())
    }

    /// Longest hold, if there is a limit.
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

/// Event that ends a lease before it expires.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum ReclaimPolicy {
    /// The end of the holder's pod.
    #[default]
    OnPodEnd,
    /// None: a lease runs until it expires.
    OnExpiry,
}

/// Effect of the deletion of a custom resource on its object in Redis.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum DeletionPolicy {
    /// Nothing new is granted; the keys are removed after the last holder.
    #[default]
    Drain,
    /// The keys are removed at once; holders lose their leases.
    Delete,
    /// The keys stay.
    Retain,
}
