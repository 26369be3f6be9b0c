//! Tenure's custom resources: [`LockPool`] and [`Semaphore`].
//!
//! These types are the one source of the YAML in `crds/yaml`, which the program `crdgen` writes.
//!
//! | module | what is in it |
//! |---|---|
//! | `lockpool` | a pool of named resources: what a user declares and what is reported |
//! | `semaphore` | a number of permits: what a user declares and what is reported |
//! | `lease` | the part of a spec that both kinds share: how long a lease runs and how it ends |
//! | `status` | the part of a status that both kinds share: counts, holders, waiters |
//! | `condition` | types and reasons of conditions, and their merge |
//! | `columns` | what `kubectl get` shows of both kinds |
//! | `schema` | what turns the derived schemas into the ones that an API server is given |

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

pub use condition::{Assessment, ConditionReason, ConditionStatus, ConditionType, merge};
pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
pub use lease::{DeletionPolicy, LeasePolicy, ReclaimPolicy};
pub use lockpool::{Generate, LockPool, LockPoolSpec, LockPoolStatus, Order, PoolResource, ResourceHolder};
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
/// `LockPool::crd()` and `Semaphore::crd()` are the raw derivations; what is installed is this.
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
