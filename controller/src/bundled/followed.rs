//! A Secret that the controller follows by a watch of that one object, and writes.

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::{ObjectReference, Secret};
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
    runtime::{WatchStreamExt, watcher},
};
use tokio::{sync::watch, time::Instant};

use crate::{
    apply::FIELD_MANAGER,
    events,
    failure::{Failure, bounded},
    http::Health,
    run::WATCH_SECONDS,
    watching::{self, WatchCheck, with_probe},
};

/// The Secret is looked at again at least this often: time passes, and Redis may have lost a password.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The Secret as it is known: `None` before the first answer, `Some(None)` if there is none.
type Known = Option<Option<Arc<Secret>>>;

/// The Secret.
pub(crate) struct Followed {
    /// `NAMESPACE/NAME`, for messages.
    pub(crate) shown: String,
    name: String,
    api: Api<Secret>,
    seen: watch::Receiver<Known>,
    /// The result of a write counts until the watch delivers another one.
    written: watch::Sender<Known>,
}

impl Followed {
    /// Returns it, and the future that follows it.
    pub(crate) fn new(
        client: &Client,
        (namespace, name): &(String, String),
        health: &Arc<Health>,
    ) -> (Self, impl Future<Output = &'static str> + Send + use<>) {
        let (written, seen) = watch::channel(None);
        let followed = Self {
            shown: format!("{namespace}/{name}"),
            name: name.clone(),
            api: Api::namespaced(client.clone(), namespace),
            seen,
            written: written.clone(),
        };
        let watching = follow(followed.api.clone(), name.clone(), written, health.clone());
        (followed, watching)
    }

    /// The Secret as it was seen last.
    pub(crate) fn seen(&mut self) -> Known {
        self.seen.borrow_and_update().clone()
    }

    /// Waits for a change, and no longer than until it is time to look again.
    pub(crate) async fn changed(&mut self, at: Option<Instant>) {
        let latest = Instant::now() + LOOK_EVERY;
        let until = at.map_or(latest, |at| at.min(latest));
        let _ = tokio::time::timeout_at(until, self.seen.changed()).await;
    }

    /// Writes fields of the Secret, if it is the one that was seen. `what` is logged. Returns `false` if another controller was faster, or
    /// the watch lags behind: the next state of the Secret is delivered.
    pub(crate) async fn write(
        &self,
        found: &Secret,
        mut fields: Secret,
        what: &str,
    ) -> Result<bool, Failure> {
        fields.metadata.name = Some(self.name.clone());
        fields.metadata.resource_version = found.resource_version();
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let patched = match bounded(self.api.patch(&self.name, &params, &Patch::Apply(fields))).await {
            Ok(patched) => patched,
            Err(failure) if failure.is_outdated() => return Ok(false),
            Err(failure) => return Err(failure),
        };
        self.written.send_if_modified(|known| {
            // A write that has changed nothing is no reason to look again at once.
            let is_new = patched.resource_version() != found.resource_version();
            *known = Some(Some(Arc::new(patched)));
            is_new
        });
        tracing::info!(secret = self.shown, "wrote {what}");
        Ok(true)
    }

    /// Describes the failure of a write.
    pub(crate) fn unwritten(&self, failure: &Failure) -> String {
        format!("the Secret {} cannot be written: {failure}", self.shown)
    }

    /// The Secret, for events.
    pub(crate) fn reference(&self) -> ObjectReference {
        events::reference("v1", "Secret", self.api.namespace(), &self.name)
    }
}

async fn follow(
    api: Api<Secret>,
    name: String,
    seen: watch::Sender<Known>,
    health: Arc<Health>,
) -> &'static str {
    let check = WatchCheck::new(&health, format!("watch secret {name}"), "secrets");
    // The name stands in the request, so that a role may be bound to it.
    let fields = format!("metadata.name={name}");
    let config = watcher::Config::default().fields(&fields).timeout(WATCH_SECONDS);
    let mut events = watcher(api.clone(), config)
        .backoff(watching::Backoff::default())
        .boxed();
    let following = async {
        let mut listed = None;
        while let Some(event) = events.next().await {
            match &event {
                Ok(event) => check.delivered(event),
                Err(error) => check.broke(error),
            }
            match event {
                Ok(watcher::Event::Init) => listed = None,
                Ok(watcher::Event::InitApply(secret)) => listed = Some(Arc::new(secret)),
                Ok(watcher::Event::InitDone) => drop(seen.send_replace(Some(listed.take()))),
                Ok(watcher::Event::Apply(secret)) => drop(seen.send_replace(Some(Some(Arc::new(secret))))),
                Ok(watcher::Event::Delete(_)) => drop(seen.send_replace(Some(None))),
                Err(_) => {}
            }
        }
    };
    with_probe(following, check.probe(api, Some(&fields))).await;
    "the watch of a Secret"
}
