//! Each deletion policy, and deletions that cannot be carried out: none of them hangs.

use std::time::Duration;

use k8s_openapi::api::{coordination::v1::Lease, core::v1::Namespace};
use kube::Api;
use tenure::{Kind, ObjectRef};
use tenure_crds::{LockPool, Semaphore};
use tenure_tests::{Context, ControlPlane, Redis, Result, ensure, eventually, redis::Persistence};
use tokio::time::timeout;

use super::support::{SOON, Watched, World, expect};

#[tokio::test]
async fn drain_waits_for_holders_sends_waiters_away_and_then_leaves_no_key() -> Result {
    let world = World::new("drain").await?;
    world.pool("seats", "resources: [{name: a}]").await?;
    let client = world.client("holder").await?;
    let pool = client.lock_pool("seats")?;
    let lease = pool.acquire().await?;
    let next = world.client("waiter").await?.lock_pool("seats")?;
    let waiting = tokio::spawn(async move { next.acquire().await });
    let queued = world.until::<LockPool>("seats", "waited for", SOON, |pool| {
        ensure!(pool.common().waiting == 1, "waiting");
        Ok(())
    });
    queued.await?;

    world.delete("lockpool", "seats").await?;
    let deleting = world.until::<LockPool>("seats", "drained", SOON, |pool| {
        expect(pool, "Ready", "False", "Deleting")?;
        expect(pool, "Reconciling", "True", "Deleting")
    });
    assert_eq!(deleting.await?.common().held, 1);
    let sent_away = timeout(SOON, waiting)
        .await??
        .map(|lease| lease.resource().to_owned());
    ensure!(
        matches!(sent_away, Err(tenure::Error::NotDeclared { .. })),
        "{sent_away:?}"
    );
    ensure!(
        matches!(pool.try_acquire().await, Err(tenure::Error::NotDeclared { .. })),
        "granted while draining"
    );
    lease.release().await?;
    world.until_gone::<LockPool>("seats", SOON).await?;
    assert_eq!(world.keys("pool", "seats").await?, [""; 0]);
    Ok(())
}

#[tokio::test]
async fn an_object_that_redis_loses_while_it_drains_is_not_made_again_beside_its_holders() -> Result {
    let world = World::new("drain-lost").await?;
    world.semaphore("calls", 1, "leaseDurationSeconds: 6").await?;
    let client = world.client("holder").await?;
    let lease = client.semaphore("calls")?.acquire().await?;
    world.delete("semaphore", "calls").await?;
    let deleting = world.until::<Semaphore>("calls", "drained", SOON, |s| {
        expect(s, "Ready", "False", "Deleting")
    });
    deleting.await?;
    world.redis.cli(&["FLUSHALL"]).await?;
    // It goes, but not before the lease that Redis does not know has run out.
    world.until_gone::<Semaphore>("calls", 2 * SOON).await?;
    ensure!(
        lease.check().is_err(),
        "{lease:?} is held, and another one could be"
    );
    Ok(())
}

#[tokio::test]
async fn draining_ends_when_its_time_is_over() -> Result {
    let world = World::with("drain-timeout", Redis::start().await?, &["--drain-timeout", "2s"]).await?;
    world.semaphore("calls", 1, "").await?;
    let client = world.client("hangs").await?;
    let lease = client.semaphore("calls")?.acquire().await?;
    world.delete("semaphore", "calls").await?;
    let cause = timeout(SOON, lease.lost()).await?;
    assert_eq!(cause, "withdrawn");
    world.until_gone::<Semaphore>("calls", SOON).await?;
    assert_eq!(world.keys("semaphore", "calls").await?, [""; 0]);
    world.event("DrainTimedOut").await.map(drop)
}

#[tokio::test]
async fn delete_takes_the_leases_and_the_keys_at_once() -> Result {
    let world = World::new("delete").await?;
    world.semaphore("calls", 1, "deletionPolicy: Delete").await?;
    let client = world.client("holder").await?;
    let lease = client.semaphore("calls")?.acquire().await?;
    assert!(!world.keys("semaphore", "calls").await?.is_empty());
    world.delete("semaphore", "calls").await?;
    assert_eq!(timeout(SOON, lease.lost()).await?, "withdrawn");
    world.until_gone::<Semaphore>("calls", SOON).await?;
    assert_eq!(world.keys("semaphore", "calls").await?, [""; 0]);
    Ok(())
}

#[tokio::test]
async fn retain_leaves_the_leases_and_the_keys_for_a_day_and_a_new_object_takes_them_over() -> Result {
    let world = World::new("retain").await?;
    world.semaphore("calls", 2, "deletionPolicy: Retain").await?;
    let client = world.client("holder").await?;
    let semaphore = client.semaphore("calls")?;
    let lease = semaphore.acquire().await?;
    world.delete("semaphore", "calls").await?;
    world.until_gone::<Semaphore>("calls", SOON).await?;
    lease.check()?;
    // Keys that come into being meanwhile go with the others.
    world
        .redis
        .cli(&["DEL", &format!("tenure:{{{}}}:expiry", semaphore.object())])
        .await?;
    let other = semaphore.acquire().await?;
    let ttl = async |key: &str| -> Result<i64> { Ok(world.redis.cli(&["TTL", key]).await?.trim().parse()?) };
    let keys = world.keys("semaphore", "calls").await?;
    assert!(!keys.is_empty());
    for key in keys {
        let seconds = ttl(&key).await?;
        ensure!(
            (86_000..=86_400).contains(&seconds),
            "{key} lives for {seconds} s"
        );
    }

    world.semaphore("calls", 2, "deletionPolicy: Retain").await?;
    for key in world.keys("semaphore", "calls").await? {
        assert_eq!(ttl(&key).await?, -1, "{key} still has a time to live");
    }
    let first = lease.fencing_token();
    assert!(semaphore.try_acquire().await?.is_none(), "both are held");
    lease.renew().await?;
    lease.release().await?;
    drop(other);
    let second = semaphore.acquire().await?;
    assert!(second.fencing_token() > first);
    second.release().await?;
    Ok(())
}

#[tokio::test]
async fn a_deletion_without_redis_ends_and_describes_the_cleanup() -> Result {
    let mut world = World::with("away", Redis::start().await?, &["--cleanup-timeout", "2s"]).await?;
    world.semaphore("calls", 1, "").await?;
    world.redis.kill9()?;
    let seen = world.until::<Semaphore>("calls", "cut off", SOON, |s| {
        expect(s, "BackendReachable", "False", "BackendUnreachable")
    });
    seen.await?;
    world.delete("semaphore", "calls").await?;
    world.until_gone::<Semaphore>("calls", SOON).await?;
    let object = ObjectRef::new(Kind::Semaphore, &world.namespace, "calls")?;
    let command = object.removal_command("tenure");
    let note = world.event("CleanupSkipped").await?;
    assert!(note.contains(&command), "{note}");
    assert!(world.controller.logs()?.contains(&command));
    Ok(())
}

/// A world whose Redis keeps its data over a restart.
async fn kept(test: &str) -> Result<World> {
    let redis = Redis::builder().persistence(Persistence::Aof).start().await?;
    World::with(
        test,
        redis,
        &["--cleanup-timeout", "2s", "--drain-timeout", "10s"],
    )
    .await
}

/// Deletes the semaphore `calls` while Redis is stopped, until the deletion is given up.
async fn leave_behind(world: &mut World) -> Result {
    world.redis.stop().await?;
    world.delete("semaphore", "calls").await?;
    world.until_gone::<Semaphore>("calls", SOON).await?;
    let note = world.event("CleanupSkipped").await?;
    ensure!(note.contains("when Redis is reachable"), "{note}");
    assert_eq!(records(world).await?, 1);
    Ok(())
}

/// The number of objects that the Lease of the installation records.
async fn records(world: &World) -> Result<usize> {
    let api = Api::<Lease>::namespaced(world.kube.clone(), &world.namespace);
    let annotations = api.get("tenure-epoch").await?.metadata.annotations;
    let keys = annotations.unwrap_or_default().into_keys();
    Ok(keys.filter(|key| key.starts_with("left.tenure.dev/")).count())
}

async fn until_no_record(world: &World) -> Result {
    eventually("the record to be removed", SOON, async || {
        ensure!(records(world).await? == 0, "it is there");
        Ok(())
    })
    .await
    .with_context(|| world.controller.logs().unwrap_or_default())
}

#[tokio::test]
async fn keys_that_were_left_behind_are_removed_by_the_next_controller_that_reaches_redis() -> Result {
    let mut world = kept("left").await?;
    world.semaphore("calls", 1, "").await?;
    leave_behind(&mut world).await?;
    world.controller.kill9()?;
    world.redis.start_again().await?;
    ensure!(
        !world.keys("semaphore", "calls").await?.is_empty(),
        "Redis has lost them"
    );
    world.restart_controller().await?;
    until_no_record(&world).await?;
    assert_eq!(world.keys("semaphore", "calls").await?, [""; 0]);
    world.event("CleanupDone").await.map(drop)
}

#[tokio::test]
async fn keys_that_were_left_behind_are_drained_until_the_time_for_that_is_over() -> Result {
    let mut world = kept("left-held").await?;
    world.semaphore("calls", 1, "leaseDurationSeconds: 60").await?;
    let client = world.client("holder").await?;
    let lease = client.semaphore("calls")?.acquire().await?;
    leave_behind(&mut world).await?;
    world.redis.start_again().await?;
    // The holder renews: without another attempt it would keep the lease.
    assert_eq!(timeout(SOON, lease.lost()).await?, "withdrawn");
    until_no_record(&world).await?;
    assert_eq!(world.keys("semaphore", "calls").await?, [""; 0]);
    Ok(())
}

#[tokio::test]
async fn an_object_that_is_applied_again_keeps_the_keys_that_were_left_behind() -> Result {
    let mut world = kept("left-again").await?;
    let spec = "leaseDurationSeconds: 60, deletionPolicy: Delete";
    world.semaphore("calls", 1, spec).await?;
    let client = world.client("holder").await?;
    let lease = client.semaphore("calls")?.acquire().await?;
    leave_behind(&mut world).await?;
    world.apply_semaphore("calls", 1, spec).await?;
    world.redis.start_again().await?;
    until_no_record(&world).await?;
    let held = world.until::<Semaphore>("calls", "held as before", SOON, |s| {
        ensure!(s.common().held == 1, "not held");
        Ok(())
    });
    held.await?;
    lease.check()?;
    lease.release().await?;
    Ok(())
}

#[tokio::test]
async fn a_deletion_while_redis_is_away_for_a_moment_is_carried_out() -> Result {
    let world = World::new("moment").await?;
    world.semaphore("calls", 1, "").await?;
    world.redis.pause()?;
    world.delete("semaphore", "calls").await?;
    let api = world.api::<Semaphore>();
    let deleted = eventually("the deletion to be noted", SOON, async || {
        let object = api.get("calls").await?;
        ensure!(object.metadata.deletion_timestamp.is_some(), "not deleted");
        Ok(())
    });
    deleted.await?;
    world.redis.resume()?;
    world.until_gone::<Semaphore>("calls", SOON).await?;
    assert_eq!(world.keys("semaphore", "calls").await?, [""; 0]);
    Ok(())
}

#[tokio::test]
async fn deleted_while_the_controller_was_dead_is_deleted_when_it_is_back() -> Result {
    let mut world = World::new("dead").await?;
    world.semaphore("calls", 1, "").await?;
    world.controller.kill9()?;
    world.delete("semaphore", "calls").await?;
    assert!(
        world.api::<Semaphore>().get_opt("calls").await?.is_some(),
        "the finalizer holds it"
    );
    world.restart_controller().await?;
    world.until_gone::<Semaphore>("calls", SOON).await?;
    assert_eq!(world.keys("semaphore", "calls").await?, [""; 0]);
    Ok(())
}

/// The effect of a namespace's deletion on its objects; without a controller-manager nothing else would.
#[tokio::test]
async fn objects_of_a_namespace_that_ends_end_too() -> Result {
    let world = World::new("ending").await?;
    world.semaphore("calls", 1, "deletionPolicy: Delete").await?;
    let plane: &ControlPlane = world.plane;
    plane
        .kubectl(&["delete", "namespace", "--wait=false", &world.namespace])
        .await?;
    let namespace = Api::<Namespace>::all(world.kube.clone())
        .get(&world.namespace)
        .await?;
    assert!(namespace.metadata.deletion_timestamp.is_some());
    plane
        .kubectl(&[
            "-n",
            &world.namespace,
            "delete",
            "semaphores",
            "--all",
            "--wait=false",
        ])
        .await?;
    // No events can be made in such a namespace, and nothing may depend on them.
    world
        .until_gone::<Semaphore>("calls", Duration::from_secs(10))
        .await?;
    assert_eq!(world.keys("semaphore", "calls").await?, [""; 0]);
    Ok(())
}
