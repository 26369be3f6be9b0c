//! Asked for: an object that a client asks for while Redis does not have it is reconciled at once, beside the queue of the
//! others. After a restart of Redis all objects are in that queue, and kube's runtime has no order in it. In a cluster, whose
//! subscriptions have no patterns, the events of all objects are listened to beforehand.

use std::sync::Arc;

use futures_util::{StreamExt, stream};
use kube::runtime::reflector::{ObjectRef as KubeRef, Store};
use tenure::{
    ObjectRef,
    control::{Event, Events},
};

use crate::{
    kinds::Declared,
    reconcile::{self, Context},
};

/// Reconciliations of one kind that are reserved for such objects.
const CONCURRENCY: usize = 4;

/// Reconciles the objects of `store` that clients ask for. Ends when no events come any more.
pub(crate) async fn reconcile<K: Declared>(store: Store<K>, context: Arc<Context>, events: Events) {
    let events = stream::unfold(events, |mut events| async move {
        Some((events.next().await?, events))
    });
    let first = stream::iter([Event::Reconnected]);
    first
        .chain(events)
        .for_each_concurrent(CONCURRENCY, |event| async {
            match event {
                Event::Reconnected => listen(&store, &context).await,
                Event::Missing(object) => {
                    if let Some(object) = find(&store, &object) {
                        // The event is in the queue, too: there a failure is handled, and the status written.
                        let _ = reconcile::asked_for(object, context.clone()).await;
                    }
                }
                Event::Changed(_) => {}
            }
        })
        .await;
}

/// Listens to the events of all objects of `store`. Those of a server that does not answer follow when it is connected again.
async fn listen<K: Declared>(store: &Store<K>, context: &Context) {
    let objects = store.state();
    let names: Vec<_> = objects
        .iter()
        .filter_map(|object| object.declares().ok())
        .collect();
    if let Err(error) = context.control.listen(&names).await {
        tracing::debug!(kind = K::CRD_KIND, %error, "the events of some objects are not listened to yet");
    }
}

/// The custom resource of an object that a client asks for.
fn find<K: Declared>(store: &Store<K>, object: &ObjectRef) -> Option<Arc<K>> {
    if object.kind() != K::KIND {
        return None;
    }
    let found = store.get(&KubeRef::new(object.name()).within(object.namespace()))?;
    found.meta().deletion_timestamp.is_none().then_some(found)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use kube::runtime::{reflector, watcher};
    use tenure_crds::Semaphore;

    use super::*;
    use crate::fixtures::World;

    #[tokio::test(start_paused = true)]
    async fn an_object_that_a_client_asks_for_is_declared_without_the_queue() {
        let world = World::with_epochs().await;
        let (store, mut writer) = reflector::store::<Semaphore>();
        writer.apply_watcher_event(&watcher::Event::Init);
        for name in ["s0", "s1", "s2"] {
            world.add(name);
            world.reconcile_named(name).await.unwrap();
            let object = (*world.cached_named(name)).clone();
            writer.apply_watcher_event(&watcher::Event::InitApply(object));
        }
        writer.apply_watcher_event(&watcher::Event::InitDone);
        let events = world.context.control.events().unwrap();
        tokio::spawn(reconcile(store, world.context.clone(), events));
        world.redis.flush_all();
        world.calls();

        let client = world.user("worker").await;
        let refused = client.semaphore("s1").unwrap().try_acquire().await;
        assert!(refused.is_err(), "it is not declared");
        tokio::time::sleep(Duration::from_secs(1)).await;
        let calls = world.calls();
        let declared = calls.iter().filter(|call| *call == "redis declare").count();
        assert_eq!(declared, 1, "{calls:?}");
        let object = world.cached_named("s1").declares().unwrap();
        let seen = world.context.control.look(&object, 0).await.unwrap();
        assert!(seen.unwrap().recovering_until.is_some());

        // It is asked for again: its status waits for the queue all the same.
        assert_eq!(
            client
                .semaphore("s1")
                .unwrap()
                .try_acquire()
                .await
                .unwrap()
                .map(drop),
            None
        );
        reconcile::asked_for(world.cached_named("s1"), world.context.clone())
            .await
            .unwrap();
        let calls = world.calls();
        assert!(!calls.contains(&"WriteStatus".to_owned()), "{calls:?}");
    }
}
