//! The custom resources of objects, their events, and the pods of a namespace.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
};

use jiff::Timestamp;
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        authentication::v1::SelfSubjectReview,
        core::v1::{Event, EventSource, ObjectReference, Pod},
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube::{
    Api, Resource,
    api::{ApiResource, DynamicObject, ListParams, Patch, PatchParams, PostParams},
};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tenure::{Kind, ObjectRef};

use crate::{
    exit::Failure,
    kubernetes::{Kubernetes, failure, reason, status, within},
};

/// Kinds that have a custom resource.
const DECLARED: [Kind; 2] = [Kind::Pool, Kind::Semaphore];
/// The text of the API server for a JSON patch of which a `test` has failed.
const FAILED_TEST: &str = "the server rejected our request due to an error in our request";
const COMPONENT: &str = "kubectl-tenure";

/// The resource of the API; `None`: objects of the kind are made by their first users.
fn resource(kind: Kind) -> Option<ApiResource> {
    let (kind, plural) = match kind {
        Kind::Pool => ("LockPool", "lockpools"),
        Kind::Semaphore => ("Semaphore", "semaphores"),
        _ => return None,
    };
    Some(ApiResource {
        group: "tenure.dev".to_owned(),
        version: "v1alpha1".to_owned(),
        api_version: "tenure.dev/v1alpha1".to_owned(),
        kind: kind.to_owned(),
        plural: plural.to_owned(),
    })
}

impl Kubernetes {
    fn api(&self, object: &ObjectRef) -> Option<Api<DynamicObject>> {
        let resource = resource(object.kind())?;
        Some(Api::namespaced_with(
            self.client.clone(),
            object.namespace(),
            &resource,
        ))
    }

    /// The custom resource of an object; `None`: there is none.
    pub(crate) async fn declaration(&self, object: &ObjectRef) -> Result<Option<DynamicObject>, Failure> {
        let Some(api) = self.api(object) else {
            return Ok(None);
        };
        let found = within(api.get_opt(object.name())).await;
        found.map_err(|error| failure(&format!("get {object}"), &error))
    }

    /// The objects of a namespace that custom resources declare, with those resources.
    pub(crate) async fn declared(
        &self,
        namespace: &str,
    ) -> Result<BTreeMap<ObjectRef, DynamicObject>, Failure> {
        let mut objects = BTreeMap::new();
        for kind in DECLARED {
            let Some(resource) = resource(kind) else { continue };
            let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &resource);
            let what = format!("list {} in the namespace {namespace}", resource.plural);
            let found = within(api.list(&ListParams::default())).await;
            let found = found.map_err(|error| failure(&what, &error))?;
            objects.extend(found.items.into_iter().filter_map(|one| {
                let name = one.metadata.name.as_deref()?;
                Some((ObjectRef::new(kind, namespace, name).ok()?, one))
            }));
        }
        Ok(objects)
    }

    /// Patches the custom resource of an object. `false`: the patch expects another state than there is.
    pub(crate) async fn patch(&self, object: &ObjectRef, patch: Value) -> Result<bool, Failure> {
        let what = format!("patch {object}");
        let api = self
            .api(object)
            .ok_or_else(|| Failure::usage(format!("no resource declares {object}")))?;
        let patch = serde_json::from_value(patch).map_err(Failure::usage)?;
        let params = PatchParams {
            field_manager: Some(COMPONENT.to_owned()),
            ..PatchParams::default()
        };
        let patched = within(api.patch(object.name(), &params, &Patch::Json::<()>(patch))).await;
        match patched {
            Ok(_) => Ok(true),
            // A failed `test` of a JSON patch; a changed object.
            Err(error) if status(&error) == Some(409) => Ok(false),
            // Other refusals, such as those of a policy, name the object or the policy.
            Err(error) if status(&error) == Some(422) && reason(&error) == FAILED_TEST => Ok(false),
            Err(error) => Err(failure(&what, &error)),
        }
    }

    /// The names of the pods of a namespace.
    pub(crate) async fn pods(&self, namespace: &str) -> Result<BTreeSet<String>, Failure> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let found = within(api.list_metadata(&ListParams::default())).await;
        let what = format!("list the pods in the namespace {namespace}");
        let found = found.map_err(|error| failure(&what, &error))?;
        Ok(found
            .items
            .into_iter()
            .filter_map(|pod| pod.metadata.name)
            .collect())
    }

    /// Returns whether there is such an object. `true`, too, where that cannot be read.
    pub(crate) async fn exists<T>(&self, namespace: &str, name: &str) -> bool
    where
        T: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + Debug,
    {
        let api: Api<T> = Api::namespaced(self.client.clone(), namespace);
        !matches!(within(api.get_metadata_opt(name)).await, Ok(None))
    }

    /// The events of an object, the newest first.
    pub(crate) async fn events(&self, of: &DynamicObject) -> Result<Vec<Event>, Failure> {
        let namespace = of.metadata.namespace.as_deref().unwrap_or_default();
        let api: Api<Event> = Api::namespaced(self.client.clone(), namespace);
        let uid = of.metadata.uid.as_deref().unwrap_or_default();
        let params = ListParams::default().fields(&format!("involvedObject.uid={uid}"));
        let found = within(api.list(&params)).await;
        let what = format!("list the events in the namespace {namespace}");
        let mut events = found.map_err(|error| failure(&what, &error))?.items;
        events.sort_by_key(|event| std::cmp::Reverse(last_seen(event)));
        Ok(events)
    }

    /// The name by which the API server knows the user, if it returns one.
    pub(crate) async fn user(&self) -> Option<String> {
        let api: Api<SelfSubjectReview> = Api::all(self.client.clone());
        let review = SelfSubjectReview::default();
        let created = within(api.create(&PostParams::default(), &review)).await.ok()?;
        created.status?.user_info?.username
    }

    /// Writes an event about an object.
    pub(crate) async fn record(
        &self,
        involved: ObjectReference,
        reason: &str,
        action: &str,
        note: &str,
    ) -> Result<(), Failure> {
        let namespace = involved.namespace.clone().unwrap_or_default();
        let api: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        let now = Time(Timestamp::now());
        let name = involved.name.clone().unwrap_or_default();
        let event = Event {
            metadata: ObjectMeta {
                generate_name: Some(format!("{name}.")),
                namespace: Some(namespace.clone()),
                ..ObjectMeta::default()
            },
            action: Some(action.to_owned()),
            count: Some(1),
            first_timestamp: Some(now.clone()),
            last_timestamp: Some(now),
            involved_object: involved,
            message: Some(note.chars().take(1000).collect()),
            reason: Some(reason.to_owned()),
            source: Some(EventSource {
                component: Some(COMPONENT.to_owned()),
                host: None,
            }),
            type_: Some("Warning".to_owned()),
            ..Event::default()
        };
        let created = within(api.create(&PostParams::default(), &event)).await;
        let what = format!("create events in the namespace {namespace}");
        created.map(drop).map_err(|error| failure(&what, &error))
    }
}

/// The text about a resource whose newest spec the controller has not applied, if that is so.
pub(crate) fn unapplied(resource: &DynamicObject) -> Option<String> {
    let generation = resource.metadata.generation?;
    let check = "check the conditions, and that the controller runs";
    match resource.data["status"]["observedGeneration"].as_i64() {
        None => Some(format!("has not handled it: {check}")),
        Some(applied) if applied < generation => Some(format!(
            "has applied generation {applied} of the spec, which has {generation}: {check}"
        )),
        Some(_) => None,
    }
}

/// The reference of a custom resource for its events.
pub(crate) fn reference(of: &DynamicObject) -> ObjectReference {
    let types = of.types.clone().unwrap_or_default();
    ObjectReference {
        api_version: Some(types.api_version),
        kind: Some(types.kind),
        name: of.metadata.name.clone(),
        namespace: of.metadata.namespace.clone(),
        uid: of.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

/// The reference of a pod for its events.
pub(crate) fn pod_reference(identity: &tenure::Identity) -> Option<ObjectReference> {
    Some(ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        name: Some(identity.pod.clone()?),
        namespace: Some(identity.namespace.clone()),
        uid: identity.uid.clone(),
        ..ObjectReference::default()
    })
}

/// The time at which an event happened last.
pub(crate) fn last_seen(event: &Event) -> Option<Timestamp> {
    let series = event
        .series
        .as_ref()
        .and_then(|series| series.last_observed_time.as_ref());
    let time = event.last_timestamp.as_ref().map(|time| time.0);
    series
        .map(|time| time.0)
        .or(time)
        .or_else(|| event.event_time.as_ref().map(|time| time.0))
}
