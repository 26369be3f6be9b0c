//! Calls: the I/O of Redis and of the API server.

use std::sync::Arc;

use futures_util::stream::{self, StreamExt};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use tenure::{
    Control, Error,
    control::{Event, Events},
};
use tokio::sync::Notify;

use crate::{
    access::{
        plan::{Users, Write},
        secret,
    },
    apply::FIELD_MANAGER,
    failure::{Failure, bounded},
};

/// Namespaces whose Secrets are written, or whose users are changed, at the same time.
const CONCURRENCY: usize = 8;

/// The outcome of a write in a namespace: the Secret as it is then, absent if it was deleted.
pub(crate) type Written = (String, Write, Result<Option<Secret>, Failure>);

/// Gives each server the users, and takes others away.
pub(crate) async fn change_users(control: &Control, users: Users) -> Vec<Result<(), Error>> {
    let set = users
        .set
        .into_iter()
        .map(|(namespace, passwords)| (namespace, Some(passwords)));
    let removed = users.remove.into_iter().map(|namespace| (namespace, None));
    let calls = set.chain(removed).map(|(namespace, passwords)| {
        let control = control.clone();
        async move {
            match passwords {
                Some(passwords) => control.set_tenant(&namespace, passwords).await,
                None => control.remove_tenant(&namespace).await,
            }
        }
    });
    let calls: Vec<_> = calls.collect();
    stream::iter(calls).buffer_unordered(CONCURRENCY).collect().await
}

/// Writes Secrets, with the ones that were looked at.
pub(crate) async fn write_secrets(
    client: &Client,
    writes: Vec<(String, Write, Option<Secret>)>,
) -> Vec<Written> {
    let calls = writes.into_iter().map(|(namespace, write, found)| {
        let api = Api::<Secret>::namespaced(client.clone(), &namespace);
        async move {
            let outcome = write_secret(&api, &write, found.as_ref()).await;
            (namespace, write, outcome)
        }
    });
    let calls: Vec<_> = calls.collect();
    stream::iter(calls).buffer_unordered(CONCURRENCY).collect().await
}

/// Writes a Secret. Returns it as it is then.
async fn write_secret(
    api: &Api<Secret>,
    write: &Write,
    found: Option<&Secret>,
) -> Result<Option<Secret>, Failure> {
    match write {
        Write::Apply(rendered, ..) => {
            let params = PatchParams::apply(FIELD_MANAGER).force();
            let patched = bounded(api.patch(secret::NAME, &params, &Patch::Apply(rendered))).await?;
            if secret::differs(&patched, rendered) {
                return Err(Failure::NotTaken);
            }
            Ok(Some(patched))
        }
        Write::Delete => {
            // It is the one that was looked at.
            let preconditions = found.map(|secret| Preconditions {
                uid: secret.uid(),
                resource_version: secret.resource_version(),
            });
            let params = DeleteParams {
                preconditions,
                ..DeleteParams::default()
            };
            // A Secret that is not found was deleted by another controller, which has published the event.
            bounded(api.delete(secret::NAME, &params)).await.map(|_| None)
        }
    }
}

/// Reports that Redis has come, gone, or lost its connection: the users may be lost. Never ends.
pub(crate) async fn follow_connections(control: Control, mut events: Events, changed: Arc<Notify>) {
    let reconnected = async {
        while let Some(event) = events.next().await {
            if event == Event::Reconnected {
                changed.notify_one();
            }
        }
    };
    let came_or_gone = async {
        let mut known = control.server();
        loop {
            known = control.server_changed(&known).await;
            changed.notify_one();
        }
    };
    tokio::join!(reconnected, came_or_gone);
}
