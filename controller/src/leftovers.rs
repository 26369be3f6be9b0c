//! Leftovers: objects whose deletion was given up while Redis was unreachable, so that their keys were left behind.
//!
//! Their custom resources are gone, so an annotation of the Lease of the installation records each of them. A controller that reaches
//! Redis withdraws the recorded objects by their deletion policies, and removes the records. An object that a custom resource declares
//! again keeps its keys.
//!
//! ```yaml
//! metadata:
//!   annotations:
//!     left.tenure.dev/5a1c7f0e-0b43-4a52-9d0b-6a8e6f2d9c11: >-
//!       {"kind":"Semaphore","namespace":"ml","name":"calls","deletionPolicy":"Drain","deletedAt":"2026-01-02T03:04:05Z"}
//! ```

use std::{collections::BTreeMap, future::pending, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{api::core::v1::ObjectReference, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{Api, Resource, api::ListParams};
use serde::{Deserialize, Serialize};
use tenure::{ObjectRef, control::Server};
use tenure_crds::{DeletionPolicy, LockPool, Semaphore, Time};

use crate::{
    events::{self, ObjectEvent},
    failure::{Failure, bounded},
    kinds::{Declared, Desired},
    plan::{finalizer::FINALIZER, withdrawal},
    reconcile::Context,
};

/// The prefix of the annotations; the uid of the custom resource follows.
const PREFIX: &str = "left.tenure.dev/";
/// The records that a Lease has at most: a resource has 256 KiB of annotations at most. Keys of further objects stay until a person
/// removes them with the command in the event.
const MAX_RECORDS: usize = 200;
/// Objects that are still held, and those that could not be withdrawn, are looked at again after this.
const AGAIN_AFTER: Duration = Duration::from_secs(5);

/// The records, as the Lease had them last.
#[derive(Clone, Debug, Default)]
pub(crate) struct Records {
    /// The resource version of the Lease.
    version: Option<String>,
    by_annotation: BTreeMap<String, String>,
}

impl Records {
    /// Notes the annotations of the Lease, and returns whether the records have changed.
    pub(crate) fn note(&mut self, version: Option<String>, annotations: &BTreeMap<String, String>) -> bool {
        let records = annotations.iter().filter(|(key, _)| key.starts_with(PREFIX));
        let records = records.map(|(key, text)| (key.clone(), text.clone())).collect();
        self.version = version;
        let is_changed = self.by_annotation != records;
        self.by_annotation = records;
        is_changed
    }
}

/// A custom resource of the name of an object whose keys were left behind.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Found {
    /// There is none that declares the object.
    None,
    /// The deletion that was given up has not ended.
    Ending,
    /// It declares the object again.
    Another,
}

impl Found {
    /// `uid` is that of the custom resource that was deleted.
    fn of(meta: Option<&ObjectMeta>, uid: &str) -> Self {
        let Some(meta) = meta else {
            return Self::None;
        };
        let has_finalizer = meta.finalizers.iter().flatten().any(|name| name == FINALIZER);
        if meta.deletion_timestamp.is_some() && !has_finalizer {
            // Another finalizer keeps it.
            Self::None
        } else if meta.uid.as_deref() == Some(uid) {
            Self::Ending
        } else {
            Self::Another
        }
    }
}

/// An object whose keys were left behind.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Leftover {
    kind: String,
    namespace: String,
    name: String,
    deletion_policy: DeletionPolicy,
    deleted_at: Time,
}

/// The result of one attempt.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Outcome {
    Withdrawn,
    /// A custom resource declares it again.
    Declared,
    /// Programs have made it again, after Redis had lost it.
    OfPrograms,
    /// Leases of it are running, or it is being reconciled.
    Busy,
}

/// Records an object whose keys are left behind. Returns whether it is recorded.
pub(crate) async fn record<K: Declared>(context: &Context, desired: &Desired, uid: &str) -> bool {
    let Some(deleted_at) = desired.deleted_at else {
        return false;
    };
    if context.replicas.leftovers().borrow().by_annotation.len() >= MAX_RECORDS {
        return false;
    }
    let leftover = Leftover {
        kind: K::CRD_KIND.to_owned(),
        namespace: desired.name.namespace().to_owned(),
        name: desired.name.name().to_owned(),
        deletion_policy: desired.lease.deletion_policy,
        deleted_at: Time(deleted_at),
    };
    let Ok(text) = serde_json::to_string(&leftover) else {
        return false;
    };
    let annotation = BTreeMap::from([(format!("{PREFIX}{uid}"), Some(text))]);
    let recorded = context.replicas.annotate(None, &annotation).await;
    recorded.unwrap_or_else(|failure| {
        tracing::warn!(object = %desired.name, error = %failure, "the Lease of the installation does not record the keys that are left behind");
        false
    })
}

/// Withdraws recorded objects whenever Redis is reachable. Never ends.
pub(crate) async fn follow(context: Arc<Context>) -> &'static str {
    let mut leftovers = context.replicas.leftovers();
    let mut reported = BTreeMap::new();
    loop {
        let server = context.control.server();
        let records = leftovers.borrow_and_update().clone();
        let is_away = matches!(server, Server::Disconnected { .. });
        let waits = is_away || withdraw_all(&context, &records, &mut reported).await;
        let again = async {
            if waits {
                pending::<()>().await;
            } else {
                tokio::time::sleep(AGAIN_AFTER).await;
            }
        };
        tokio::select! {
            _ = leftovers.changed() => {}
            _ = context.control.server_changed(&server) => {}
            () = again => {}
        }
    }
}

/// Withdraws recorded objects, and returns whether none is left to another attempt. `reported`: the failures that the log has.
async fn withdraw_all(context: &Context, records: &Records, reported: &mut BTreeMap<String, String>) -> bool {
    let (mut ended, mut is_done) = (Vec::new(), true);
    reported.retain(|annotation, _| records.by_annotation.contains_key(annotation));
    for (annotation, text) in &records.by_annotation {
        // A record of a newer version is left to that.
        let Ok(leftover) = serde_json::from_str::<Leftover>(text) else {
            continue;
        };
        let uid = annotation.strip_prefix(PREFIX).unwrap_or_default();
        match leftover.withdraw(context, uid).await {
            Ok(Outcome::Busy) => is_done = false,
            Ok(outcome) => ended.push((annotation, leftover, outcome)),
            // The others would wait for an answer, too, one after the other.
            Err(Failure::Redis(error)) if error.is_unreachable() => {
                is_done = false;
                break;
            }
            Err(failure) => {
                is_done = false;
                let error = failure.to_string();
                if reported.get(annotation) != Some(&error) {
                    tracing::warn!(
                        kind = leftover.kind,
                        namespace = leftover.namespace,
                        name = leftover.name,
                        error,
                        "the keys that were left behind cannot be removed yet"
                    );
                    reported.insert(annotation.clone(), error);
                }
            }
        }
    }
    if ended.is_empty() {
        return is_done;
    }
    let removed = ended.iter().map(|(annotation, ..)| ((*annotation).clone(), None));
    // Of several controllers, one removes the records, and publishes the events.
    let version = records.version.as_deref();
    if let Err(failure) = context.replicas.annotate(version, &removed.collect()).await {
        tracing::debug!(error = %failure, "records of keys that were left behind could not be removed");
        return false;
    }
    for (_, leftover, outcome) in ended {
        tracing::info!(
            kind = leftover.kind,
            namespace = leftover.namespace,
            name = leftover.name,
            ?outcome,
            "keys are not left behind any more"
        );
        if outcome == Outcome::Withdrawn {
            let event = ObjectEvent::CleanupDone;
            context.events.publish(&leftover.reference(), &event).await;
        }
    }
    is_done
}

impl Leftover {
    async fn withdraw(&self, context: &Context, uid: &str) -> Result<Outcome, Failure> {
        match self.kind.as_str() {
            LockPool::CRD_KIND => self.withdraw_unless_declared::<LockPool>(context, uid).await,
            Semaphore::CRD_KIND => self.withdraw_unless_declared::<Semaphore>(context, uid).await,
            // As a record of a newer version.
            _ => Ok(Outcome::Busy),
        }
    }

    async fn withdraw_unless_declared<K: Declared>(
        &self,
        context: &Context,
        uid: &str,
    ) -> Result<Outcome, Failure> {
        let object = ObjectRef::new(K::KIND, &self.namespace, &self.name)?;
        // A custom resource that is applied now is reconciled afterwards.
        let Some(_turn) = context.tracker.take_turn(&object) else {
            return Ok(Outcome::Busy);
        };
        let api = Api::<K>::namespaced(context.client.clone(), &self.namespace);
        let params = ListParams::default().fields(&format!("metadata.name={}", self.name));
        let listed = bounded(api.list_metadata(&params)).await?;
        match Found::of(listed.items.first().map(|item| &item.metadata), uid) {
            Found::None => {}
            Found::Ending => return Ok(Outcome::Busy),
            Found::Another => return Ok(Outcome::Declared),
        }
        let snapshot = context.control.look(&object, 0).await?;
        if snapshot.is_some_and(|snapshot| snapshot.digest.is_none()) {
            return Ok(Outcome::OfPrograms);
        }
        let (deleted_at, now) = (self.deleted_at.0, Timestamp::now());
        let how = withdrawal::how(self.deletion_policy, deleted_at, now, context.limits);
        let outcome = match context.control.withdraw(&object, how).await? {
            0 => Outcome::Withdrawn,
            _ => Outcome::Busy,
        };
        Ok(outcome)
    }

    fn reference(&self) -> ObjectReference {
        let api_version = Semaphore::api_version(&());
        events::reference(&api_version, &self.kind, Some(&self.namespace), &self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_change_only_with_their_own_annotations() {
        let mut records = Records::default();
        let mut annotations = BTreeMap::from([("tenure.dev/redis-asked".to_owned(), "a".to_owned())]);
        assert!(!records.note(Some("1".to_owned()), &annotations));
        annotations.insert(format!("{PREFIX}uid"), "{}".to_owned());
        assert!(records.note(Some("2".to_owned()), &annotations));
        assert!(!records.note(Some("3".to_owned()), &annotations));
        assert_eq!(records.version.as_deref(), Some("3"));
        assert!(records.note(Some("4".to_owned()), &BTreeMap::new()));
    }

    #[test]
    fn only_a_custom_resource_that_declares_the_object_keeps_its_keys() {
        let found = |uid: &str, is_deleted: bool, finalizer: &str| {
            let meta = ObjectMeta {
                uid: Some(uid.to_owned()),
                deletion_timestamp: is_deleted.then_some(Time(Timestamp::UNIX_EPOCH)),
                finalizers: Some(vec![finalizer.to_owned()]),
                ..ObjectMeta::default()
            };
            Found::of(Some(&meta), "left")
        };
        assert_eq!(Found::of(None, "left"), Found::None);
        assert_eq!(found("left", true, FINALIZER), Found::Ending);
        assert_eq!(found("left", true, "others/keep"), Found::None);
        assert_eq!(
            found("new", false, "others/keep"),
            Found::Another,
            "not reconciled yet"
        );
        assert_eq!(found("new", false, FINALIZER), Found::Another);
        assert_eq!(found("new", true, FINALIZER), Found::Another);
    }
}
