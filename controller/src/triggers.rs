//! Triggers: the reasons to look at an object, apart from a change of its custom resource.

use std::{collections::HashSet, sync::Arc};

use futures_util::{
    Stream, StreamExt,
    stream::{self, BoxStream},
};
use kube::runtime::reflector::{ObjectRef as KubeRef, Store};
use tenure::{
    Control, ObjectRef,
    control::{DataLoss, Event, Events, Server},
};
use tenure_crds::ReclaimPolicy;
use tokio::sync::{broadcast::error::RecvError, watch};

use crate::{kinds::Declared, reconcile::Context};

/// Returns the objects of `store` to reconcile: when Redis has published a change, Redis is back or gone, refuses or does not refuse any
/// more, a server has lost data, or a pod has ended.
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
    let refused = {
        let store = store.clone();
        stream::unfold(context.refused.subscribe(), |mut refused| async move {
            refused.changed().await.ok()?;
            Some(((), refused))
        })
        .flat_map(move |()| stream::iter(all(&store)))
    };
    let ended = {
        let (store, context) = (store.clone(), context.clone());
        stream::unfold(
            (pods_ended, 0, context.clone()),
            |(mut pods_ended, known, context)| async move {
                pods_ended.changed().await.ok()?;
                let (uids, known) = context.ended.since(known);
                Some((uids, (pods_ended, known, context)))
            },
        )
        .flat_map(move |uids| stream::iter(reclaimable(&store, context.holders.of(&uids))))
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
    let streams: [BoxStream<'static, KubeRef<K>>; 5] = [
        changed.boxed(),
        came_or_gone.boxed(),
        refused.boxed(),
        ended.boxed(),
        lost.boxed(),
    ];
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

/// Those of `objects` whose leases are reclaimed from ended pods.
fn reclaimable<K: Declared>(store: &Store<K>, objects: HashSet<ObjectRef>) -> Vec<KubeRef<K>> {
    let own = objects.into_iter().filter(|object| object.kind() == K::KIND);
    own.filter_map(|object| {
        let reference = KubeRef::new(object.name()).within(object.namespace());
        let object = store.get(&reference)?;
        (object.lease().reclaim_policy == ReclaimPolicy::OnPodEnd).then_some(reference)
    })
    .collect()
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
