//! `Semaphore`: a number of permits, held by as many holders at a time.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    lease::LeasePolicy,
    schema,
    status::{CommonStatus, Holder},
};

// The scale subresource has no label selector: holders are pods of any workload, or no pods at all.
/// Desired state of the semaphore.
#[derive(Clone, CustomResource, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[kube(
    group = "tenure.dev",
    version = "v1alpha1",
    kind = "Semaphore",
    plural = "semaphores",
    shortname = "sem",
    category = "tenure",
    namespaced,
    doc = "Semaphore is a number of permits, held by as many holders at a time and handed on first come, first served; with one permit it is a lock.",
    derive = "PartialEq",
    status = "SemaphoreStatus",
    scale(spec_replicas_path = ".spec.permits", status_replicas_path = ".status.total"),
    validation = schema::name_rule(),
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [schema::max_hold_rule()]))]
pub struct SemaphoreSpec {
    /// Number of permits, 0 to 1000000; 0 grants nothing. A smaller number drains: holders keep their permits, and the excess
    /// is not granted again.
    #[schemars(range(max = 1_000_000))]
    pub permits: u32,

    /// Length and end of leases.
    #[serde(flatten)]
    pub lease: LeasePolicy,
}

/// Observed state of the semaphore.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SemaphoreStatus {
    /// Conditions, counts and waiters.
    #[serde(flatten)]
    pub common: CommonStatus,

    /// Holders and the number of their permits, at most 32 holders, the longest hold first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 32),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["token"])
    )]
    pub holders: Vec<PermitHolder>,
}

/// A holder and the number of its permits.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PermitHolder {
    /// Number of permits of the holder.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub permits: u32,

    /// Holder of the lease.
    #[serde(flatten)]
    pub holder: Holder,
}
