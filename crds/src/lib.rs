//! Tenure's custom resources: [`LockPool`] and [`Semaphore`].
//!
//! These types are the one source of the YAML in `crds/yaml`, which the program `crdgen` writes.
//!
//! | module | contents |
//! |---|---|
//! | `lockpool` | a pool of named resources: spec and status |
//! | `semaphore` | a number of permits: spec and status |
//! | `lease` | the part of a spec that both kinds share: length and end of leases |
//! | `status` | the part of a status that both kinds share: counts, holders, waiters |
//! | `condition` | types and reasons of conditions, and their merge |
//! | `columns` | the columns of `kubectl get` for both kinds |
//! | `schema` | the changes to the derived schemas before they are installed |

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

mod columns;
mod condition;
mod lease;
mod lockpool;
mod schema;
mod semaphore;
mod status;

#[cfg(test)]
mod lint;
#[cfg(test)]
mod rules;

pub use condition::{Assessment, ConditionReason, ConditionStatus, ConditionType, condition, merge};
pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
pub use lease::{DeletionPolicy, LeasePolicy, ReclaimPolicy};
pub use lockpool::{Generate, LockPool, LockPoolSpec, LockPoolStatus, Order, Resource, ResourceHolder};
pub use semaphore::{PermitHolder, Semaphore, SemaphoreSpec, SemaphoreStatus};
pub use status::{
    CommonStatus, Holder, MAX_HELD_BY, MAX_LISTED, MAX_MESSAGE, MAX_POD, MAX_REASON, Waiter, bounded,
    whole_seconds,
};

/// The API group of Tenure's resources.
pub const GROUP: &str = "tenure.dev";

/// The version of Tenure's resources that is served and stored.
pub const VERSION: &str = "v1alpha1";

/// Every custom resource definition of Tenure, as it is installed.
///
/// Use this instead of `LockPool::crd()` and `Semaphore::crd()`, which are the raw derivations.
#[must_use]
pub fn all() -> Vec<CustomResourceDefinition> {
    [
        columns::of_a_pool(LockPool::crd()),
        columns::of_a_semaphore(Semaphore::crd()),
    ]
    .into_iter()
    .map(schema::finish)
    .collect()
}
