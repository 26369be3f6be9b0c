//! Options of all acquisitions: grace after expiry, priority, hand-over between processes.

use std::time::Duration;

use tenure::{Error, Kind, LockStatus, Options};
use tenure_tests::{Context, Redis, Result, ensure, eventually};

use super::support::{Doomed, SOON, World, gone, got, look, on_both, waiting};

async fn grace_keeps_others_out_after_an_expiry_and_not_after_a_release(world: World) -> Result {
    let client = world.client().await?;
    let options = Options::new()
        .lease(Duration::from_millis(300))
        .grace(Duration::from_millis(1200));
    client
        .lock("x")?
        .with(options.clone())
        .acquire()
        .await?
        .release()
        .await?;
    got(client.lock("x")?.try_acquire().await?)?.release().await?;

    let mut doomed = Doomed::start(&world).await?;
    let lock = doomed.client()?.lock("x")?.with(options);
    let lease = doomed.spawn(async move { lock.acquire().await })?.await??;
    let expires = look(&client, lease.object()).await?.holders[0].expires;
    doomed.crash_with(lease);
    let next = got(client.lock("x")?.acquire_timeout(SOON).await?)?;
    let after = next.acquired_at().duration_since(expires)?;
    ensure!(
        after >= Duration::from_millis(1200),
        "granted {after:?} after the expiry"
    );
    next.release().await?;
    gone(&client, &world.object(Kind::Lock, "x")?).await
}

async fn a_larger_priority_stands_before_all_smaller_ones_and_behind_its_equals(world: World) -> Result {
    let client = world.client().await?;
    let object = world.object(Kind::Lock, "x")?;
    let gate = client.lock("x")?.acquire().await?;
    let order = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let mut tasks = Vec::new();
    for (i, (name, priority)) in [("a", 0), ("low", -128), ("b", 0), ("high", 127), ("higher", 127)]
        .into_iter()
        .enumerate()
    {
        let lock = world
            .client()
            .await?
            .lock("x")?
            .with(Options::new().priority(priority));
        let order = order.clone();
        tasks.push(tokio::spawn(async move {
            let lease = lock.acquire().await?;
            order.lock().unwrap().push(name);
            lease.release().await
        }));
        waiting(&client, &object, i as u64 + 1).await?;
    }
    gate.release().await?;
    for task in tasks {
        task.await??;
    }
    assert_eq!(*order.lock().unwrap(), ["high", "higher", "a", "b", "low"]);
    Ok(())
}

/// If there is room for a small request while a large one waits at the head, it is granted without another call.
async fn a_larger_priority_that_fits_is_granted_at_once(world: World) -> Result {
    let client = world.client().await?;
    let object = world.declare_semaphore(&client, "x", 3).await?;
    let semaphore = client.semaphore("x")?;
    let held = semaphore.acquire_many(2).await?;
    let large = semaphore.clone();
    let large = tokio::spawn(async move { large.acquire_many(2).await });
    waiting(&client, &object, 1).await?;
    assert!(semaphore.try_acquire().await?.is_none(), "no try overtakes");
    let urgent = semaphore.clone().with(Options::new().priority(1));
    // Less than the renewal of a queue entry takes to find out.
    let soon = Duration::from_secs(2);
    let small = got(urgent.acquire_timeout(soon).await?)?;
    held.release().await?;
    let large = large.await??;
    assert_eq!((small.permits(), large.permits()), (1, 2));
    Ok(())
}

async fn a_takeover_respects_the_grace(world: World) -> Result {
    let client = world.client().await?;
    let options = Options::new()
        .lease(Duration::from_millis(300))
        .grace(Duration::from_secs(5));
    let lock = client.lock("x")?;
    drop(lock.clone().with(options).acquire().await?.detach());
    eventually("the grace", SOON, async || {
        let holders = look(&client, lock.object()).await?.holders;
        ensure!(
            holders.iter().all(|h| h.token.starts_with("grace-")),
            "{holders:?}"
        );
        Ok(())
    })
    .await?;
    assert!(lock.take_over("too early").await?.is_none());
    let lease = got(lock.acquire_timeout(SOON).await?)?;
    assert!(lock.take_over("in time").await?.is_some());
    assert!(lease.release().await.is_err());
    Ok(())
}

async fn a_detached_lease_is_taken_over_under_its_fencing_token_or_runs_out(world: World) -> Result {
    let (giver, taker) = (world.client().await?, world.client().await?);
    let short = Options::new()
        .lease(Duration::from_millis(1500))
        .reason("taken over");
    let lease = giver.lock("x")?.with(short.clone()).acquire().await?;
    let fence = lease.fencing_token();
    let token = lease.detach();
    let lock = taker.lock("x")?.with(short);
    let lease = got(lock.adopt(&token).await?)?;
    assert_eq!(lease.fencing_token(), fence);
    // It is renewed by the taker, whose pushes it gets.
    let first = lease.deadline();
    eventually("a renewal", SOON, async || {
        ensure!(lease.deadline() > first, "not yet");
        Ok(())
    })
    .await?;
    let token = lease.detach();
    giver.lock("x")?.acquire().await?.release().await?;
    assert!(lock.adopt(&token).await?.is_none(), "it has run out");
    gone(&giver, &world.object(Kind::Lock, "x")?).await?;
    let error = lock.adopt("no secret").await.unwrap_err();
    assert!(error.to_string().starts_with("secret "), "{error}");
    Ok(())
}

async fn a_semaphore_reports_its_available_permits(world: World) -> Result {
    let client = world.client().await?;
    assert!(client.semaphore("x")?.available_permits().await.is_err());
    world.declare_semaphore(&client, "x", 5).await?;
    let semaphore = client.semaphore("x")?;
    let permits = semaphore.available_permits().await?;
    assert_eq!((permits.available, permits.total), (5, 5));
    let lease = semaphore.acquire_many(2).await?;
    assert_eq!(
        (lease.permits(), semaphore.available_permits().await?.available),
        (2, 3)
    );
    assert!(!client.lock("y")?.is_locked().await?);
    let held = client.lock("y")?.acquire().await?;
    assert_eq!(
        client.lock("y")?.holder().await?.map(|view| view.fence),
        Some(held.fencing_token())
    );
    Ok(())
}

async fn a_takeover_notifies_the_holder_with_the_reason_and_passes_the_queue(world: World) -> Result {
    let client = world.client().await?;
    let lock = client.lock("x")?;
    assert_eq!(lock.status(Duration::ZERO).await?, LockStatus::Free);
    let hung = world.client().await?.lock("x")?.acquire().await?;
    assert_eq!(lock.status(Duration::from_secs(60)).await?, LockStatus::Locked);
    assert_eq!(
        lock.status(Duration::from_secs(5)).await?,
        LockStatus::Unavailable
    );
    let queued = world.client().await?.lock("x")?;
    let queued = tokio::spawn(async move { queued.acquire().await });
    waiting(&client, lock.object(), 1).await?;
    let lease = got(lock.take_over("ticket 4711").await?)?;
    assert!(lease.fencing_token() > hung.fencing_token());
    let cause = tokio::time::timeout(SOON, hung.lost()).await?;
    assert!(
        cause.starts_with("taken over by ") && cause.ends_with(": ticket 4711"),
        "{cause}"
    );
    assert!(!queued.is_finished());
    drop(hung);
    lease.release().await?;
    queued.await??.release().await?;
    Ok(())
}

async fn replica_of(redis: &Redis) -> Result<Redis> {
    let replica = Redis::builder().replica_of(redis).start().await?;
    eventually("the replica to be in step", SOON, async || {
        let info = replica.cli(&["INFO", "replication"]).await?;
        ensure!(info.contains("master_link_status:up"), "{info}");
        Ok(())
    })
    .await?;
    Ok(replica)
}

#[tokio::test]
async fn a_takeover_is_released_when_too_few_replicas_have_it() -> Result {
    let redis = Redis::start().await?;
    let world = World::on(&redis, "replicas-takeover");
    let hasty = world
        .builder()
        .response_timeout(Duration::from_secs(1))
        .connect()
        .await?;
    let holder = world.client().await?;
    let hung = holder.lock("x")?.acquire().await?;
    let error = hasty
        .lock("x")?
        .with(Options::new().replicas(1))
        .take_over("ticket 4711")
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            Error::NotReplicated {
                asked: 1,
                reached: 0,
                ..
            }
        ),
        "{error}"
    );
    // It was taken, so that its holder has lost it nevertheless, and then released.
    let cause = tokio::time::timeout(SOON, hung.lost()).await?;
    assert!(cause.ends_with(": ticket 4711"), "{cause}");
    gone(&holder, hung.object()).await?;

    let replica = replica_of(&redis).await?;
    let hung = holder.lock("x")?.acquire().await?;
    // A longer wait does not fail on a busy machine; the answer comes as soon as the replica's does.
    let patient = world.builder().response_timeout(SOON).connect().await?;
    let lock = patient.lock("x")?.with(Options::new().replicas(1));
    let lease = got(lock.take_over("ticket 4711").await?)?;
    let fence = lease.fencing_token();
    assert!(fence > hung.fencing_token());
    let keys = replica.cli(&["KEYS", "*:holders"]).await?;
    let key = keys.lines().find(|key| key.contains(&world.namespace));
    let key = key.context("the replica has no holder")?;
    let there = replica.cli(&["ZRANGE", key, "0", "-1", "WITHSCORES"]).await?;
    assert!(there.contains(&fence.to_string()), "{fence}: {there}");
    lease.release().await?;
    Ok(())
}

/// `WAIT` holds up its connection: others' calls go over another one.
#[tokio::test]
async fn waiting_for_replicas_delays_no_other_call() -> Result {
    let redis = Redis::start().await?;
    let world = World::on(&redis, "replicas-wait");
    let client = world.client_with_timeout(Duration::from_secs(12)).await?;
    let lock = client.lock("x")?.with(Options::new().replicas(1));
    let waits = tokio::spawn(async move { lock.acquire().await });
    let object = world.object(Kind::Lock, "x")?;
    eventually("the lease", SOON, async || look(&client, &object).await).await?;
    for _ in 0..20 {
        client.lock("y")?.acquire().await?.release().await?;
    }
    assert!(!waits.is_finished(), "all have waited for replicas");
    let error = waits.await?.unwrap_err();
    assert!(
        matches!(error, Error::NotReplicated { reached: 0, .. }),
        "{error}"
    );
    gone(&client, &object).await
}

#[tokio::test]
async fn a_lease_that_too_few_replicas_have_is_given_back() -> Result {
    let redis = Redis::start().await?;
    let world = World::on(&redis, "replicas");
    let client = world
        .builder()
        .response_timeout(Duration::from_secs(1))
        .connect()
        .await?;
    let lock = client.lock("x")?.with(Options::new().replicas(1));
    let error = lock.acquire().await.unwrap_err();
    assert!(
        matches!(
            error,
            Error::NotReplicated {
                asked: 1,
                reached: 0,
                ..
            }
        ),
        "{error}"
    );
    gone(&client, lock.object()).await?;
    let replica = replica_of(&redis).await?;
    // A longer wait does not fail on a busy machine; the answer comes as soon as the replica's does.
    let patient = world.builder().response_timeout(SOON).connect().await?;
    let lease = patient
        .lock("x")?
        .with(Options::new().replicas(1))
        .acquire()
        .await?;
    let there = replica.cli(&["KEYS", "*:obj"]).await?;
    assert!(there.contains(&world.namespace), "{there}");
    lease.release().await?;
    Ok(())
}

async fn a_semaphore_that_its_first_user_makes_has_that_ones_permits_and_goes_with_the_last(
    world: World,
) -> Result {
    let client = world.client().await?;
    let semaphore = client.semaphore("x")?.or_permits(2)?;
    let (one, other) = (semaphore.acquire().await?, semaphore.acquire().await?);
    // S11: another number counts for nothing while the object is there.
    let generous = client.semaphore("x")?.or_permits(4)?;
    assert!(generous.try_acquire().await?.is_none());
    let permits = generous.available_permits().await?;
    assert_eq!((permits.available, permits.total), (0, 2));
    one.release().await?;
    other.release().await?;
    gone(&client, semaphore.object()).await?;
    // A declared object has the values of the declaration.
    world.declare_semaphore(&client, "x", 1).await?;
    let held = semaphore.acquire().await?;
    assert!(semaphore.try_acquire().await?.is_none());
    held.release().await?;
    Ok(())
}

on_both! {
    grace_keeps_others_out_after_an_expiry_and_not_after_a_release,
    a_larger_priority_stands_before_all_smaller_ones_and_behind_its_equals,
    a_larger_priority_that_fits_is_granted_at_once,
    a_takeover_respects_the_grace,
    a_detached_lease_is_taken_over_under_its_fencing_token_or_runs_out,
    a_semaphore_reports_its_available_permits,
    a_takeover_notifies_the_holder_with_the_reason_and_passes_the_queue,
    a_semaphore_that_its_first_user_makes_has_that_ones_permits_and_goes_with_the_last,
}
