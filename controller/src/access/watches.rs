//! Watches: the namespaces, of which only the metadata is read, and their Secrets of the one name.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    sync::Arc,
};

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::{
    Api, Client, Resource, ResourceExt,
    core::PartialObjectMeta,
    runtime::{
        WatchStreamExt,
        reflector::{self, Store, store::Writer},
        watcher,
    },
};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;

use crate::{
    access::secret,
    http::Health,
    run::WATCH_SECONDS,
    watching::{self, WatchCheck, with_probe},
};

/// The label of a namespace that is to have access, with the value `true`.
const LABEL: &str = "tenure.dev/access";

/// The namespaces and Secrets of all scopes.
#[derive(Clone)]
pub(crate) struct Watches {
    /// The names of the scopes; empty: all namespaces.
    watched: BTreeSet<String>,
    namespaces: Vec<Store<PartialObjectMeta<Namespace>>>,
    secrets: Vec<Store<Secret>>,
    changed: Arc<Notify>,
}

impl Watches {
    /// Returns them, and the futures that fill them.
    pub(crate) fn new(
        client: &Client,
        scopes: &[Option<String>],
        health: &Arc<Health>,
    ) -> (Self, Vec<impl Future<Output = &'static str> + Send + use<>>) {
        let mut watches = Self {
            watched: scopes.iter().flatten().cloned().collect(),
            namespaces: Vec::new(),
            secrets: Vec::new(),
            changed: Arc::default(),
        };
        let mut tasks = Vec::new();
        for scope in scopes {
            let (namespaces, namespace_writer) = reflector::store();
            let (secrets, secret_writer) = reflector::store();
            watches.namespaces.push(namespaces);
            watches.secrets.push(secrets);
            let config = watcher::Config::default().timeout(WATCH_SECONDS);
            let (namespace_config, secret_api, place) = match scope {
                Some(name) => (
                    config.clone().fields(&format!("metadata.name={name}")),
                    Api::namespaced(client.clone(), name),
                    format!(" in {name}"),
                ),
                None => (config.clone(), Api::all(client.clone()), String::new()),
            };
            let namespace_api = Api::<PartialObjectMeta<Namespace>>::all(client.clone());
            // The name stands in the request, so that a role may be bound to it.
            let secret_config = config.fields(&format!("metadata.name={}", secret::NAME));
            let (changed, health) = (watches.changed.clone(), health.clone());
            tasks.push(async move {
                let namespaces = Followed {
                    check: WatchCheck::new(&health, format!("watch namespaces{place}"), "namespaces"),
                    changed: changed.clone(),
                };
                let secrets = Followed {
                    check: WatchCheck::new(&health, format!("watch secrets{place}"), "secrets"),
                    changed,
                };
                tokio::select! {
                    () = namespaces.follow(namespace_api, namespace_config, namespace_writer) => {}
                    () = secrets.follow(secret_api, secret_config, secret_writer) => {}
                }
                "the watch of namespaces and Secrets"
            });
        }
        (watches, tasks)
    }

    /// Is notified of each change.
    pub(crate) fn changed(&self) -> Arc<Notify> {
        self.changed.clone()
    }

    /// Waits until all first lists have come.
    pub(crate) async fn listed(self) {
        // An error means that the watch has ended, and with it the controller.
        for store in self.namespaces {
            let _ = store.wait_until_ready().await;
        }
        for store in self.secrets {
            let _ = store.wait_until_ready().await;
        }
    }

    pub(crate) fn is_watched(&self, namespace: &str) -> bool {
        self.watched.is_empty() || self.watched.contains(namespace)
    }

    /// The namespaces that may have access: those with the label, and those of these names.
    pub(crate) fn allowed(&self, named: &BTreeSet<String>) -> BTreeSet<String> {
        let namespaces = self.namespaces.iter().flat_map(Store::state);
        let allowed = namespaces.filter(|namespace| {
            let is_labelled = namespace.labels().get(LABEL).is_some_and(|value| value == "true");
            namespace.metadata.deletion_timestamp.is_none()
                && (is_labelled || named.contains(&namespace.name_any()))
        });
        allowed.map(|namespace| namespace.name_any()).collect()
    }

    /// Returns whether a namespace is there and is not being deleted.
    pub(crate) fn is_active(&self, namespace: &str) -> bool {
        let key = reflector::ObjectRef::new(namespace);
        let found = self.namespaces.iter().find_map(|store| store.get(&key));
        found.is_some_and(|found| found.metadata.deletion_timestamp.is_none())
    }

    /// The Secrets by namespace.
    pub(crate) fn secrets(&self) -> BTreeMap<String, Secret> {
        let secrets = self.secrets.iter().flat_map(Store::state);
        secrets
            .filter_map(|secret| Some((secret.namespace()?, (*secret).clone())))
            .collect()
    }

    /// The version of a Secret that was delivered last.
    pub(crate) fn version_of(&self, namespace: &str) -> Option<String> {
        let key = reflector::ObjectRef::new(secret::NAME).within(namespace);
        let found = self.secrets.iter().find_map(|store| store.get(&key));
        found.and_then(|secret| secret.resource_version())
    }
}

/// One watch.
struct Followed {
    check: Arc<WatchCheck>,
    changed: Arc<Notify>,
}

impl Followed {
    /// Keeps a store up to date.
    async fn follow<K>(&self, api: Api<K>, config: watcher::Config, writer: Writer<K>)
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    {
        let (fields, probed) = (config.field_selector.clone(), api.clone());
        let mut events = watcher(api, config)
            .backoff(watching::Backoff::default())
            .modify(|object: &mut K| object.meta_mut().managed_fields = None)
            .reflect(writer)
            .boxed();
        let events = async {
            while let Some(event) = events.next().await {
                match event {
                    Ok(event) => {
                        self.check.delivered(&event);
                        self.changed.notify_one();
                    }
                    Err(error) => self.check.broke(&error),
                }
            }
        };
        with_probe(events, self.check.probe(probed, fields.as_deref())).await;
    }
}
