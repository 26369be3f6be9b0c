//! Triggers: the reasons to look at an object, apart from a change of its custom resource.

use std::sync::Arc;

use futures_util::{
    Stream, StreamExt,
    stream::{self, BoxStream},
};
use kube::runtime::reflector::{ObjectRef as KubeRef, Store};
use tenure::{
    Control,
    control::{DataLoss, Event, Events, Server},
};
use tenure_crds::ReclaimPolicy;
use tokio::sync::{broadcast::error::RecvError, watch};

use crate::{kinds::Declared, reconcile::Context};

/// Returns the objects of `store` to reconcile: when Redis has published a change, Redis is back or gone, a server has lost data, or
/// a pod has ended.
pub(crate) fn triggers<K: Declared>(
    store: &Store<K>,
    context: &Arc<Context>,
    events: Events,
    pods_ended: watch::Receiver<()>,
) -> BoxStream<'static, KubeRef<K>> {
    let changed = {
        let store = store.clone();
        stream::unfold(events, |mut events| async move {
            Some((events.next().await?, events))
        })
        .flat_map(move |event| stream::iter(concerned(&store, &event)))
    };
    let came_or_gone = {
        let store = store.clone();
        comings_and_goings(context.control.clone()).flat_map(move |()| stream::iter(all(&store)))
    };
    let ended = {
        let (store, context) = (store.clone(), context.clone());
        stream::unfold(pods_ended, |mut pods_ended| async move {
            pods_ended.changed().await.ok()?;
            Some(((), pods_ended))
        })
        .flat_map(move |()| stream::iter(reclaimable(&store, &context)))
    };
    let lost = {
        let store = store.clone();
        stream::unfold(context.losses.subscribe(), |mut losses| async move {
            let lost = match losses.recv().await {
                Ok(lost) => Some(lost),
                Err(RecvError::Lagged(_)) => None,
                Err(RecvError::Closed) => return None,
            };
            Some((lost, losses))
        })
        .flat_map(move |lost| stream::iter(lost_by(&store, lost.as_deref())))
    };
    let streams: [BoxStream<'static, KubeRef<K>>; 4] =
        [changed.boxed(), came_or_gone.boxed(), ended.boxed(), lost.boxed()];
    stream::select_all(streams).boxed()
}

/// Returns the custom resources of an event. Objects without a custom resource are ignored.
fn concerned<K: Declared>(store: &Store<K>, event: &Event) -> Vec<KubeRef<K>> {
    match event {
        Event::Changed(object) | Event::Missing(object) if object.kind() == K::KIND => {
            let reference = KubeRef::new(object.name()).within(object.namespace());
            store.get(&reference).map(|_| reference).into_iter().collect()
        }
        Event::Changed(_) | Event::Missing(_) => Vec::new(),
        Event::Reconnected => all(store),
    }
}

fn all<K: Declared>(store: &Store<K>) -> Vec<KubeRef<K>> {
    store
        .state()
        .iter()
        .map(|object| KubeRef::from_obj(&**object))
        .collect()
}

/// The objects of servers that have lost data; `None`: of any.
fn lost_by<K: Declared>(store: &Store<K>, losses: Option<&[DataLoss]>) -> Vec<KubeRef<K>> {
    let Some(losses) = losses else {
        return all(store);
    };
    let objects = store.state();
    let lost = objects.iter().filter(|object| {
        object
            .declares()
            .is_ok_and(|name| losses.iter().any(|loss| loss.concerns(&name)))
    });
    lost.map(|object| KubeRef::from_obj(&**object)).collect()
}

/// Those that an ended pod may hold or wait for.
fn reclaimable<K: Declared>(store: &Store<K>, context: &Context) -> Vec<KubeRef<K>> {
    let objects = store.state();
    let reclaimable = objects.iter().filter(|object| {
        object.lease().reclaim_policy == ReclaimPolicy::OnPodEnd
            && object
                .declares()
                .is_ok_and(|name| context.tracker.pod_ended(&name))
    });
    reclaimable.map(|object| KubeRef::from_obj(&**object)).collect()
}

/// An item whenever Redis has come, gone, or changed between being away and refusing.
fn comings_and_goings(control: Control) -> impl Stream<Item = ()> + Send {
    let known = control.server();
    stream::unfold((control, known), |(control, mut known)| async move {
        loop {
            let server = control.server_changed(&known).await;
            let news = manner(&server) != manner(&known);
            known = server;
            if news {
                return Some(((), (control, known)));
            }
        }
    })
}

#[derive(Eq, PartialEq)]
enum Manner {
    Answers,
    Degraded,
    Refuses,
    Away,
}

fn manner(server: &Server) -> Manner {
    match server {
        Server::Connected { .. } => Manner::Answers,
        Server::Degraded { .. } => Manner::Degraded,
        Server::Disconnected { transient: false, .. } => Manner::Refuses,
        Server::Disconnected { transient: true, .. } => Manner::Away,
    }
}
