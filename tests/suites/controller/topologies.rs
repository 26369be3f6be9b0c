//! Declared objects on Redis Cluster and behind Sentinels: whatever server has an object, it is declared there, and its
//! fencing tokens grow.

use std::time::Duration;

use tenure::{Kind, Lease, ObjectRef};
use tenure_crds::Semaphore;
use tenure_tests::{Cluster, Context, Result, Sentinel, ensure, eventually};
use tokio::time::timeout;

use super::support::{SOON, World, condition};

/// Length of a lease: longer than a failover takes, so that the holder outlives it; and not much longer, because nothing
/// new is granted for that time after it.
const SPEC: &str = "leaseDurationSeconds: 8";

/// Lets a waiter queue up behind a holder, does something to Redis, and sees the permit handed over afterwards: under a
/// larger fencing token, and shown in the status.
async fn hands_over<R>(
    world: &mut World<R>,
    upset: impl AsyncFnOnce(&mut World<R>, &Lease) -> Result,
) -> Result {
    world.semaphore("calls", 1, SPEC).await?;
    let (first, second) = (world.client("first").await?, world.client("second").await?);
    let held = first.semaphore("calls")?.acquire().await?;
    let fence = held.fencing_token();
    let calls = second.semaphore("calls")?;
    let waiting = tokio::spawn(async move { calls.acquire().await });
    let shows = |holder: &'static str, waiting| {
        move |object: &Semaphore| {
            let status = object.status.clone().unwrap_or_default();
            let holders: Vec<_> = status.holders.iter().map(|h| &*h.holder.pod).collect();
            ensure!(
                holders == [holder] && status.common.waiting == waiting,
                "{status:?}"
            );
            Ok(())
        }
    };
    let seen = world.until::<Semaphore>("calls", "held and waited for", SOON, shows("first", 1));
    seen.await?;
    upset(world, &held).await?;
    // Nothing has been released yet: a renewal has to be enough to have it declared again.
    let object = ObjectRef::new(Kind::Semaphore, &world.namespace, "calls")?;
    eventually("the object to be declared again", SOON, async || {
        let snapshot = second.control().look(&object, 1).await?;
        let snapshot = snapshot.context("it is gone")?;
        ensure!(snapshot.current && snapshot.held == 1, "{snapshot:?}");
        Ok(())
    })
    .await?;
    held.check().context("the holder has gone on renewing")?;
    ensure!(held.fencing_token() == fence, "it has got another fencing token");
    held.release().await?;
    let next = timeout(SOON, waiting).await.context("the waiter hangs")???;
    ensure!(
        next.fencing_token() > fence,
        "{} after {fence}",
        next.fencing_token()
    );
    let seen = world.until::<Semaphore>("calls", "handed over", SOON, shows("second", 0));
    seen.await?;
    next.release().await?;
    Ok(())
}

#[tokio::test]
async fn an_object_whose_slot_moves_is_declared_at_its_new_server_by_itself() -> Result {
    let cluster = Cluster::start().await?;
    let url = cluster.url();
    let mut world = World::at("moving-slot", cluster, url, &[]).await?;
    hands_over(&mut world, async |world, _| {
        let cluster = &world.redis;
        let key = format!("tenure:{{{}/semaphore/calls}}:obj", world.namespace);
        let slot = cluster.slot(&key).await?;
        let owner = cluster.owner(slot).await?;
        let masters = cluster.masters().await?;
        let other = masters.into_iter().find(|master| *master != owner);
        cluster.reshard(&[slot], other.context("one master")?).await
    })
    .await
}

#[tokio::test]
async fn a_master_of_a_cluster_that_dies_is_followed_by_its_replica() -> Result {
    let cluster = Cluster::start().await?;
    let url = cluster.url_of_all();
    let mut world = World::at("dead-master", cluster, url, &[]).await?;
    hands_over(&mut world, async |world, _| {
        let key = format!("tenure:{{{}/semaphore/calls}}:obj", world.namespace);
        let cluster = &mut world.redis;
        let owner = cluster.owner_of(&key).await?;
        let replica = cluster.replica_of(owner).await?;
        cluster.replicated(owner).await?;
        cluster.kill9(owner)?;
        cluster.promoted(replica).await
    })
    .await
}

/// No connection breaks, so that the controller learns of the loss by the event of the client alone, which is published on the sharded
/// channel of the object.
#[tokio::test]
async fn an_object_that_a_cluster_has_lost_is_declared_when_a_client_asks_for_it() -> Result {
    let cluster = Cluster::builder().no_replicas().start().await?;
    let url = cluster.url();
    let world = World::at("lost-objects", cluster, url, &[]).await?;
    let names = ["one", "two", "three", "four"];
    for name in names {
        world.semaphore(name, 1, "leaseDurationSeconds: 2").await?;
    }
    let client = world.client("first").await?;
    for name in names {
        client.semaphore(name)?.acquire().await?.release().await?;
    }
    for node in world.redis.nodes() {
        node.cli(&["FLUSHALL"]).await?;
    }
    for name in names {
        let lease = client.semaphore(name)?.acquire_timeout(SOON).await?;
        let lease = lease.with_context(|| format!("{name} is not declared again"))?;
        lease.release().await?;
    }
    Ok(())
}

/// Each master has a marker of its data, so that only the objects of the one that has lost them are observed.
#[tokio::test]
async fn a_loss_of_one_master_of_a_cluster_is_noticed_for_its_objects() -> Result {
    let cluster = Cluster::builder().no_replicas().start().await?;
    let url = cluster.url();
    let world = World::at("lost-shard", cluster, url, &[]).await?;
    let mut lost = 0.0;
    for number in 0..12 {
        let name = format!("s{number}");
        let key = format!("tenure:{{{}/semaphore/{name}}}:obj", world.namespace);
        if world.redis.owner_of(&key).await? == 1 {
            lost += 1.0;
        }
        world.semaphore(&name, 1, "leaseDurationSeconds: 2").await?;
    }
    let markers = async || {
        let mut markers = Vec::new();
        for node in world.redis.nodes() {
            let keys = node.cli(&["KEYS", "tenure:{_data*"]).await?;
            markers.push(keys.lines().filter(|key| !key.is_empty()).count());
        }
        Result::Ok(markers)
    };
    eventually("a marker at each master", SOON, async || {
        let markers = markers().await?;
        ensure!(markers == [1, 1, 1], "{markers:?}");
        Ok(())
    })
    .await?;
    let series = "tenure_declarations_total{kind=\"Semaphore\"}";
    let before = world.metric(series).await?.unwrap_or_default();
    world.redis.node(1).cli(&["FLUSHALL"]).await?;
    let found = world.until_metric(series, before + lost);
    found
        .await
        .with_context(|| world.controller.logs().unwrap_or_default())?;
    // The next checks find nothing more.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let after = world.metric(series).await?.unwrap_or_default();
    ensure!(
        (after - before - lost).abs() < 0.5,
        "{after} declarations after {before}, and {lost} lost"
    );
    ensure!(markers().await? == [1, 1, 1], "the marker is not made again");
    Ok(())
}

#[tokio::test]
async fn a_master_behind_sentinels_that_dies_is_followed_by_its_replica() -> Result {
    let sentinel = Sentinel::builder()
        .down_after(Duration::from_millis(500))
        .start()
        .await?;
    let url = sentinel.url();
    let mut world = World::at("sentinels", sentinel, url, &[]).await?;
    hands_over(&mut world, async |world, _| {
        let sentinel = &mut world.redis;
        let master = sentinel.master().await?;
        sentinel.replicated().await?;
        sentinel.kill9(master)?;
        sentinel.promoted(master).await.map(drop)
    })
    .await
}

/// One shard of the cluster has neither master nor replica, and the others are served.
#[tokio::test]
async fn a_dead_shard_stops_only_its_own_objects() -> Result {
    let builder = Cluster::builder().no_replicas().partial_coverage();
    let cluster = builder.start().await?;
    let url = cluster.url_of_all();
    let mut world = World::at("dead-shard", cluster, url, &[]).await?;
    let mut names = [const { Vec::new() }; 2];
    let dead = 0;
    for number in 0.. {
        let name = format!("s{number}");
        let key = format!("tenure:{{{}/semaphore/{name}}}:obj", world.namespace);
        let live = usize::from(world.redis.owner_of(&key).await? != dead);
        names[live].push(name);
        if names[0].len() >= 2 && names[1].len() >= 3 {
            break;
        }
    }
    let [dead_names, live] = names;
    for name in dead_names.iter().take(2).chain(&live[..3]) {
        world.semaphore(name, 1, SPEC).await?;
    }
    world.redis.kill9(dead)?;
    let is = |type_: &'static str, status: &'static str| {
        move |object: &Semaphore| {
            let found = condition(object, type_)?;
            ensure!(found.status == status, "{found:?}");
            Ok(())
        }
    };
    let unreachable = is("BackendReachable", "False");
    world
        .until::<Semaphore>(&dead_names[0], "unreachable", SOON, unreachable)
        .await?;
    for restarted in [false, true] {
        if restarted {
            world.restart_controller().await?;
        }
        let (code, text) = world.controller.get("/readyz").await?;
        ensure!(code == 200, "{text}");
        let permits = if restarted { 7 } else { 5 };
        world.semaphore(&live[0], permits, SPEC).await?;
        let declared = world.client("reader").await?;
        let object = ObjectRef::new(Kind::Semaphore, &world.namespace, &live[0])?;
        let snapshot = declared.control().look(&object, 0).await?.context("it is gone")?;
        ensure!(snapshot.limit == u64::from(permits), "{snapshot:?}");
        world
            .until::<Semaphore>(&live[0], "reachable", SOON, is("BackendReachable", "True"))
            .await?;
        let gone = &live[1 + usize::from(restarted)];
        world.delete("semaphore", gone).await?;
        world.until_gone::<Semaphore>(gone, SOON).await?;
        let object = ObjectRef::new(Kind::Semaphore, &world.namespace, gone)?;
        ensure!(
            declared.control().look(&object, 0).await?.is_none(),
            "its keys are left"
        );
    }
    // Objects on the dead shard wait for it.
    world.delete("semaphore", &dead_names[1]).await?;
    world.redis.start_again(dead).await?;
    world.until_gone::<Semaphore>(&dead_names[1], SOON).await?;
    world
        .until::<Semaphore>(&dead_names[0], "reachable", SOON, is("BackendReachable", "True"))
        .await?;
    Ok(())
}
