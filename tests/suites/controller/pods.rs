//! The end of a pod frees what it held and what it waited for; nothing else does before its time.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::json;
use tenure_crds::{LockPool, Semaphore};
use tenure_tests::{Context, Result, ensure, eventually};
use tokio::time::timeout;

use super::support::{SOON, Watched, World};

/// Shorter than any lease here.
const EARLY: Duration = Duration::from_secs(10);

/// A pod that no kubelet runs; its holders are in this process.
async fn pod(world: &World, name: &str) -> Result<String> {
    let pod = serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {"containers": [{"name": "main", "image": "example.com/none"}]},
    }))?;
    let pods = Api::<Pod>::namespaced(world.kube.clone(), &world.namespace);
    let pod = pods.create(&PostParams::default(), &pod).await?;
    pod.uid().context("a pod without uid")
}

/// Ends a pod as a kubelet does for a deletion: the final phase is reported before the object goes.
async fn end(world: &World, name: &str) -> Result {
    let pods = Api::<Pod>::namespaced(world.kube.clone(), &world.namespace);
    let over = Patch::Merge(json!({"status": {"phase": "Failed"}}));
    pods.patch_status(name, &PatchParams::default(), &over).await?;
    force_deletion(world, name).await
}

/// Removes the object at once, whatever its processes do.
async fn force_deletion(world: &World, name: &str) -> Result {
    let pods = Api::<Pod>::namespaced(world.kube.clone(), &world.namespace);
    pods.delete(name, &DeleteParams::default().grace_period(0))
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_pod_that_was_deleted_by_force_keeps_its_lease_for_its_processes_may_go_on() -> Result {
    let world = World::new("forced").await?;
    world.semaphore("calls", 2, "leaseDurationSeconds: 60").await?;
    let mut leases = Vec::new();
    for name in ["gone", "ended"] {
        let client = world.client_of(name, Some(pod(&world, name).await?)).await?;
        leases.push(client.semaphore("calls")?.acquire().await?);
    }
    force_deletion(&world, "gone").await?;
    // Once the later end has been heeded, the deletion has been seen, too.
    end(&world, "ended").await?;
    assert_eq!(timeout(EARLY, leases[1].lost()).await?, "pod ended has ended");
    let settled = world.until::<Semaphore>("calls", "held once", SOON, |s| {
        ensure!(s.common().held == 1, "held");
        Ok(())
    });
    settled.await?;
    leases[0].renew().await?;
    Ok(())
}

#[tokio::test]
async fn a_deleted_pod_releases_its_leases_and_leaves_the_queue() -> Result {
    let world = World::new("deleted").await?;
    world
        .pool("seats", "resources: [{name: a}], leaseDurationSeconds: 60")
        .await?;
    let (one, two) = (pod(&world, "one").await?, pod(&world, "two").await?);
    let (first, second) = (
        world.client_of("one", Some(one)).await?,
        world.client_of("two", Some(two)).await?,
    );
    let lease = first.lock_pool("seats")?.acquire().await?;
    // In the queue: the second pod, then a client without a pod.
    let (behind, last) = (
        second.lock_pool("seats")?,
        world.client("last").await?.lock_pool("seats")?,
    );
    let queued = async |number: u32| {
        let queued = world.until::<LockPool>("seats", "waited for", SOON, |pool| {
            ensure!(pool.common().waiting == number, "waiting");
            Ok(())
        });
        queued.await.map(drop)
    };
    let behind = tokio::spawn(async move { behind.acquire().await });
    queued(1).await?;
    let last = tokio::spawn(async move { last.acquire().await });
    queued(2).await?;

    for name in ["two", "one"] {
        end(&world, name).await?;
    }
    assert_eq!(
        timeout(EARLY, lease.into_lease().lost()).await?,
        "pod one has ended"
    );
    let granted = timeout(EARLY, last).await???;
    assert_eq!(granted.resource(), "a");
    behind.abort();
    // One event for both, or one for each.
    eventually("both pods to be named", SOON, async || {
        let notes = world.event("ReclaimedFromEndedPod").await?;
        for pod in ["one", "two"] {
            let named = [format!("{pod} (1)"), format!("pod {pod},")];
            ensure!(named.iter().any(|named| notes.contains(named)), "{notes}");
        }
        Ok(())
    })
    .await?;
    assert_eq!(
        world
            .metric("tenure_reclaimed_leases_total{kind=\"LockPool\"}")
            .await?,
        Some(2.0)
    );
    granted.release().await?;
    Ok(())
}

#[tokio::test]
async fn a_pod_that_succeeded_releases_its_leases_also_if_the_controller_was_down() -> Result {
    let mut world = World::new("succeeded").await?;
    world.semaphore("calls", 1, "leaseDurationSeconds: 60").await?;
    let uid = pod(&world, "job").await?;
    let client = world.client_of("job", Some(uid)).await?;
    let lease = client.semaphore("calls")?.acquire().await?;
    world.controller.kill9()?;
    let pods = Api::<Pod>::namespaced(world.kube.clone(), &world.namespace);
    let over = Patch::Merge(json!({"status": {"phase": "Succeeded"}}));
    pods.patch_status("job", &PatchParams::default(), &over).await?;
    world.restart_controller().await?;
    assert_eq!(timeout(EARLY, lease.lost()).await?, "pod job has ended");
    Ok(())
}

#[tokio::test]
async fn leases_beyond_those_that_a_status_lists_are_given_back_too() -> Result {
    let world = World::new("unlisted").await?;
    world.semaphore("calls", 100, "leaseDurationSeconds: 60").await?;
    let semaphore = world.client("many").await?.semaphore("calls")?;
    let mut leases = Vec::new();
    for _ in 0..40 {
        leases.push(semaphore.acquire().await?);
    }
    let uid = pod(&world, "last").await?;
    let client = world.client_of("last", Some(uid)).await?;
    let lease = client.semaphore("calls")?.acquire().await?;
    let held = world.until::<Semaphore>("calls", "held", SOON, |s| {
        ensure!(s.common().held == 41 && s.common().truncated, "held");
        Ok(())
    });
    held.await?;
    end(&world, "last").await?;
    assert_eq!(timeout(EARLY, lease.lost()).await?, "pod last has ended");
    for lease in &leases {
        lease.check()?;
    }
    Ok(())
}

#[tokio::test]
async fn nothing_is_taken_from_a_pod_never_seen_nor_from_one_whose_lease_is_to_expire() -> Result {
    let world = World::new("kept").await?;
    world.semaphore("ends", 2, "leaseDurationSeconds: 60").await?;
    world
        .semaphore("expires", 1, "leaseDurationSeconds: 60, reclaimPolicy: OnExpiry")
        .await?;
    let uid = pod(&world, "here").await?;
    let here = world.client_of("here", Some(uid)).await?;
    let elsewhere = world
        .client_of("here", Some("9b2d0c5e-0000-4000-8000-000000000000".to_owned()))
        .await?;
    let kept = [
        elsewhere.semaphore("ends")?.acquire().await?,
        here.semaphore("expires")?.acquire().await?,
    ];
    let taken = here.semaphore("ends")?.acquire().await?;
    end(&world, "here").await?;
    timeout(EARLY, taken.lost()).await?;
    // Leases that the same end of a pod might have taken by mistake are still there.
    let settled = world.until::<Semaphore>("ends", "held once", SOON, |s| {
        ensure!(s.common().held == 1, "held");
        Ok(())
    });
    settled.await?;
    for lease in &kept {
        lease.check()?;
    }
    let expires = world.until::<Semaphore>("expires", "held", SOON, |s| {
        ensure!(s.common().held == 1, "held");
        Ok(())
    });
    expires.await.map(drop)
}

#[tokio::test]
async fn the_end_of_a_pod_reconciles_only_the_objects_that_it_holds_or_waits_for() -> Result {
    let world = World::new("index").await?;
    let (one, two) = (pod(&world, "one").await?, pod(&world, "two").await?);
    let other = world.client_of("other", Some("other".to_owned())).await?;
    let mut others = Vec::new();
    for number in 0..8 {
        let name = format!("s{number}");
        world.semaphore(&name, 2, "leaseDurationSeconds: 600").await?;
        others.push(other.semaphore(&name)?.acquire().await?);
    }
    let first = world.client_of("one", Some(one)).await?;
    let lease = first.semaphore("s3")?.acquire().await?;
    let waits = world.client_of("two", Some(two)).await?.semaphore("s3")?;
    let waiting = tokio::spawn(async move { waits.acquire().await });
    for number in 0..8 {
        let expected = if number == 3 { (2, 1) } else { (1, 0) };
        let name = format!("s{number}");
        let shown = world.until::<Semaphore>(&name, "shown", SOON, |s| {
            let found = (s.common().held, s.common().waiting);
            ensure!(found == expected, "{found:?}");
            Ok(())
        });
        shown.await?;
    }
    let series = "tenure_reconciles_total{kind=\"Semaphore\"}";
    let before = world.metric(series).await?.unwrap_or_default();
    for number in 0..5 {
        let name = format!("unrelated{number}");
        pod(&world, &name).await?;
        end(&world, &name).await?;
    }
    // Ends are heeded in their order, so that the unrelated ones are by now.
    end(&world, "two").await?;
    let queue = world.until::<Semaphore>("s3", "waited for by no pod", SOON, |s| {
        ensure!(s.common().waiting == 0, "waiting");
        Ok(())
    });
    queue.await?;
    end(&world, "one").await?;
    assert_eq!(timeout(EARLY, lease.lost()).await?, "pod one has ended");
    let settled = world.until::<Semaphore>("s3", "held once", SOON, |s| {
        ensure!(s.common().held == 1, "held");
        Ok(())
    });
    settled.await?;
    waiting.abort();
    let reconciles = world.metric(series).await?.unwrap_or_default() - before;
    // The object of the two pods is also looked at when a queue entry may have expired. If each end reconciled all eight objects, there
    // would be at least 56.
    ensure!(reconciles < 28.0, "{reconciles} reconciliations");
    Ok(())
}

#[tokio::test]
async fn each_of_many_pods_that_end_together_is_named_in_an_event() -> Result {
    const PODS: usize = 40;
    let mut world = World::new("named").await?;
    world.semaphore("calls", 100, "leaseDurationSeconds: 600").await?;
    let mut leases = Vec::new();
    for number in 0..PODS {
        let name = format!("gpu-training-worker-{number}");
        let uid = pod(&world, &name).await?;
        let client = world.client_of(&name, Some(uid)).await?;
        leases.push(client.semaphore("calls")?.acquire().await?);
    }
    // The controller finds all of them ended.
    world.controller.kill9()?;
    for number in 0..PODS {
        let pods = Api::<Pod>::namespaced(world.kube.clone(), &world.namespace);
        let over = Patch::Merge(json!({"status": {"phase": "Succeeded"}}));
        pods.patch_status(
            &format!("gpu-training-worker-{number}"),
            &PatchParams::default(),
            &over,
        )
        .await?;
    }
    world.restart_controller().await?;
    for lease in &leases {
        timeout(EARLY, lease.lost()).await?;
    }
    let notes = eventually("each pod to be named", SOON, async || {
        let notes = world.event("ReclaimedFromEndedPod").await?;
        for number in 0..PODS {
            let name = format!("gpu-training-worker-{number}");
            let named = [format!("{name} ("), format!("{name},")];
            ensure!(named.iter().any(|name| notes.contains(name)), "{name}: {notes}");
        }
        Ok(notes)
    })
    .await?;
    let events = notes.matches("took back").count();
    ensure!(events <= PODS, "{events} events for {PODS} pods: {notes}");
    Ok(())
}
