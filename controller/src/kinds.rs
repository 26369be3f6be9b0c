//! The properties of a custom resource that the controller uses, so that one path serves every kind.

use std::{collections::BTreeMap, fmt::Debug};

use jiff::Timestamp;
use k8s_openapi::NamespaceResourceScope;
use kube::{Resource, ResourceExt};
use serde::{Serialize, de::DeserializeOwned};
use tenure::{
    Kind, ObjectRef,
    control::{self, Capacity, Order},
};
use tenure_crds::{
    CommonStatus, Holder, LeasePolicy, LockPool, LockPoolStatus, PermitHolder, ResourceHolder, Semaphore,
    SemaphoreStatus,
};

use crate::first_floor;

/// A custom resource that declares an object.
pub(crate) trait Declared:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + Debug
    + DeserializeOwned
    + Serialize
    + Send
    + Sync
    + 'static
{
    /// Its status as the API server keeps it.
    type Status: Serialize;

    /// Its kind as the API server knows it.
    const CRD_KIND: &'static str;

    /// The name of the resource for kubectl.
    const RESOURCE: &'static str;

    /// The kind of object that it declares.
    const KIND: Kind;

    /// The lengths of leases.
    fn lease(&self) -> &LeasePolicy;

    /// The permits or resources.
    fn capacity(&self) -> Capacity;

    /// Resources or permits, disabled ones included.
    fn total(&self) -> u32;

    /// The common part of the status, as the API server has it.
    fn common(&self) -> Option<&CommonStatus>;

    /// The status, if it has one yet, with the floor of the first declaration.
    fn report(&self) -> StatusDraft;

    /// A report in the form of its status.
    fn status(report: StatusDraft) -> Self::Status;

    /// The part that plans are made from, if its name can be one of an object.
    fn desired(&self) -> Result<Desired, tenure::Error> {
        let meta = self.meta();
        Ok(Desired {
            resource: Self::RESOURCE,
            name: self.declares()?,
            generation: meta.generation,
            finalizers: self.finalizers().to_vec(),
            deleted_at: meta.deletion_timestamp.as_ref().map(|time| time.0),
            lease: self.lease().clone(),
            capacity: self.capacity(),
            total: self.total(),
        })
    }

    /// The object that it declares, if its name can be one.
    fn declares(&self) -> Result<ObjectRef, tenure::Error> {
        let meta = self.meta();
        ObjectRef::new(
            Self::KIND,
            meta.namespace.as_deref().unwrap_or_default(),
            meta.name.as_deref().unwrap_or_default(),
        )
    }
}

/// Removes the parts of a custom resource that the controller does not read, and that may be as large as the rest.
pub(crate) fn strip<K: Declared>(object: &mut K) {
    let has_floor = object
        .common()
        .is_some_and(|common| common.fencing_floor.is_some());
    let meta = object.meta_mut();
    (meta.managed_fields, meta.labels) = (None, None);
    // The annotation of the first floor counts as long as the status has none.
    let annotations = meta.annotations.take().filter(|_| !has_floor);
    let first_floor = annotations.and_then(|mut all| all.remove_entry(first_floor::ANNOTATION));
    meta.annotations = first_floor.map(|entry| BTreeMap::from([entry]));
}

/// A custom resource without its status and its kind: the desired state of an object.
#[derive(Clone, Debug)]
pub(crate) struct Desired {
    /// The name of the resource for kubectl.
    pub(crate) resource: &'static str,
    pub(crate) name: ObjectRef,
    pub(crate) generation: Option<i64>,
    pub(crate) finalizers: Vec<String>,
    /// The time of the deletion, if the custom resource is being deleted.
    pub(crate) deleted_at: Option<Timestamp>,
    pub(crate) lease: LeasePolicy,
    pub(crate) capacity: Capacity,
    /// Resources or permits, disabled ones included.
    pub(crate) total: u32,
}

/// The part that the statuses of all kinds share.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct StatusDraft {
    pub(crate) common: CommonStatus,
    pub(crate) holds: Vec<Hold>,
}

/// A line of the list of holders: a lease, or one resource of a lease.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Hold {
    /// Absent where permits have no names.
    pub(crate) resource: Option<String>,
    pub(crate) permits: u32,
    pub(crate) holder: Holder,
}

impl Declared for LockPool {
    type Status = LockPoolStatus;

    const CRD_KIND: &'static str = "LockPool";
    const RESOURCE: &'static str = "lockpool";
    const KIND: Kind = Kind::Pool;

    fn lease(&self) -> &LeasePolicy {
        &self.spec.lease
    }

    fn capacity(&self) -> Capacity {
        let order = match self.spec.order {
            tenure_crds::Order::LeastRecentlyUsed => Order::LeastRecentlyUsed,
            tenure_crds::Order::MostRecentlyUsed => Order::MostRecentlyUsed,
            tenure_crds::Order::Random => Order::Random,
        };
        if let Some(generate) = &self.spec.generate {
            return Capacity::Generated {
                order,
                prefix: generate.prefix.clone(),
                count: u64::from(generate.count),
            };
        }
        let resources = self
            .spec
            .resources
            .iter()
            .map(|resource| control::Resource {
                name: resource.name.clone(),
                properties: resource.properties.clone(),
                disabled: resource.disabled,
            })
            .collect();
        Capacity::Resources { order, resources }
    }

    fn total(&self) -> u32 {
        match &self.spec.generate {
            Some(generate) => generate.count,
            None => u32::try_from(self.spec.resources.len()).unwrap_or(u32::MAX),
        }
    }

    fn common(&self) -> Option<&CommonStatus> {
        self.status.as_ref().map(|status| &status.common)
    }

    fn report(&self) -> StatusDraft {
        let mut status = self.status.clone().unwrap_or_default();
        first_floor::add(&mut status.common, &self.metadata);
        let holds = status
            .holders
            .into_iter()
            .map(|ResourceHolder { resource, holder }| Hold {
                resource: Some(resource),
                permits: 1,
                holder,
            })
            .collect();
        StatusDraft {
            common: status.common,
            holds,
        }
    }

    fn status(report: StatusDraft) -> LockPoolStatus {
        let holders = report
            .holds
            .into_iter()
            .map(|hold| ResourceHolder {
                resource: hold.resource.unwrap_or_default(),
                holder: hold.holder,
            })
            .collect();
        LockPoolStatus {
            common: report.common,
            holders,
        }
    }
}

impl Declared for Semaphore {
    type Status = SemaphoreStatus;

    const CRD_KIND: &'static str = "Semaphore";
    const RESOURCE: &'static str = "semaphore";
    const KIND: Kind = Kind::Semaphore;

    fn lease(&self) -> &LeasePolicy {
        &self.spec.lease
    }

    fn capacity(&self) -> Capacity {
        Capacity::Permits(u64::from(self.spec.permits))
    }

    fn total(&self) -> u32 {
        self.spec.permits
    }

    fn common(&self) -> Option<&CommonStatus> {
        self.status.as_ref().map(|status| &status.common)
    }

    fn report(&self) -> StatusDraft {
        let mut status = self.status.clone().unwrap_or_default();
        first_floor::add(&mut status.common, &self.metadata);
        let holds = status
            .holders
            .into_iter()
            .map(|PermitHolder { permits, holder }| Hold {
                resource: None,
                permits,
                holder,
            })
            .collect();
        StatusDraft {
            common: status.common,
            holds,
        }
    }

    fn status(report: StatusDraft) -> SemaphoreStatus {
        let holders = report
            .holds
            .into_iter()
            .map(|hold| PermitHolder {
                permits: hold.permits,
                holder: hold.holder,
            })
            .collect();
        SemaphoreStatus {
            common: report.common,
            holders,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(yaml: serde_json::Value) -> LockPool {
        LockPool::new("seats", serde_json::from_value(yaml).unwrap())
    }

    #[test]
    fn a_stored_object_has_of_its_annotations_only_the_first_floor_and_only_until_the_status_has_one() {
        let mut pool = pool(serde_json::json!({"generate": {"prefix": "s", "count": 2}}));
        pool.metadata.managed_fields = Some(Vec::new());
        pool.metadata.labels = Some(BTreeMap::from([("app".to_owned(), "x".to_owned())]));
        let annotations = [
            "kubectl.kubernetes.io/last-applied-configuration",
            first_floor::ANNOTATION,
        ];
        let annotations = annotations.map(|name| (name.to_owned(), "x".to_owned()));
        pool.metadata.annotations = Some(annotations.into());
        strip(&mut pool);
        assert_eq!(
            (&pool.metadata.managed_fields, &pool.metadata.labels),
            (&None, &None)
        );
        let left: Vec<_> = pool
            .metadata
            .annotations
            .iter()
            .flat_map(BTreeMap::keys)
            .collect();
        assert_eq!(left, [first_floor::ANNOTATION]);
        let mut status = LockPoolStatus::default();
        status.common.fencing_floor = Some(1);
        pool.status = Some(status);
        strip(&mut pool);
        assert_eq!(pool.metadata.annotations, None);
    }

    #[test]
    fn a_pool_of_named_resources_declares_each_with_its_properties_and_counts_the_disabled_ones() {
        let pool = pool(serde_json::json!({
            "resources": [{"name": "a", "properties": {"host": "gpu-1"}}, {"name": "b", "disabled": true}],
            "order": "MostRecentlyUsed",
        }));
        assert_eq!(pool.total(), 2);
        let Capacity::Resources {
            order: Order::MostRecentlyUsed,
            resources,
        } = pool.capacity()
        else {
            panic!("{:?}", pool.capacity())
        };
        assert_eq!(resources[0].properties["host"], "gpu-1");
        assert_eq!(
            resources.iter().map(|r| r.disabled).collect::<Vec<_>>(),
            [false, true]
        );
    }

    #[test]
    fn a_generated_pool_declares_prefix_and_count() {
        let pool = pool(serde_json::json!({"generate": {"prefix": "seat-", "count": 1000}}));
        assert_eq!(pool.total(), 1000);
        let Capacity::Generated {
            order: Order::LeastRecentlyUsed,
            prefix,
            count: 1000,
        } = pool.capacity()
        else {
            panic!("{:?}", pool.capacity())
        };
        assert_eq!(prefix, "seat-");
    }

    #[test]
    fn a_status_comes_back_from_the_report_as_it_was() {
        let holder = serde_json::json!({
            "token": "t", "pod": "p", "fencingToken": 7,
            "acquiredAt": "2026-11-21T09:00:00Z", "renewableUntil": "2026-11-21T09:00:30Z",
        });
        let mut held = holder.clone();
        held["resource"] = "a".into();
        let status: LockPoolStatus =
            serde_json::from_value(serde_json::json!({"total": 2, "held": 1, "holders": [held]})).unwrap();
        let mut pool = pool(serde_json::json!({"generate": {"prefix": "s", "count": 2}}));
        pool.status = Some(status.clone());
        assert_eq!(LockPool::status(pool.report()), status);

        let mut held = holder;
        held["permits"] = 3.into();
        let status: SemaphoreStatus =
            serde_json::from_value(serde_json::json!({"total": 4, "held": 3, "holders": [held]})).unwrap();
        let mut semaphore = Semaphore::new(
            "s",
            serde_json::from_value(serde_json::json!({"permits": 4})).unwrap(),
        );
        semaphore.status = Some(status.clone());
        assert_eq!(semaphore.report().holds[0].permits, 3);
        assert_eq!(Semaphore::status(semaphore.report()), status);
    }
}
