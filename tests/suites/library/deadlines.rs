//! Promise 4: the server's clock decides expiry, and the holder's own clock makes it stop earlier, never later.

use std::time::Duration;

use tenure::{Client, Kind, Lease, LeaseState, Options};
use tenure_tests::{Context, Redis, Result, Suspender, ensure, eventually};
use tokio::time::Instant;

use super::support::{Doomed, SOON, World, gone, got, look, on_both, waiting};

/// The local deadline against the server's expiry, which is no later than the answer's arrival plus the remaining time in
/// the answer.
async fn stops_before_the_server(client: &Client, lease: &Lease) -> Result {
    let deadline = lease.deadline();
    let snapshot = look(client, lease.object()).await?;
    let left = snapshot.holders[0].expires.duration_since(snapshot.now)?;
    ensure!(
        deadline < Instant::now() + left,
        "the holder would stop after the server's expiry"
    );
    // A pushed lease counts from the newest answer, which may be a third of a queue entry's life old.
    ensure!(
        deadline > Instant::now() + left / 3,
        "the holder would stop far too early"
    );
    Ok(())
}

/// docs/protocol.md#deadline-2, docs/protocol.md#deadline-order: by reply and by push.
async fn the_local_deadline_lies_before_the_servers_expiry_however_the_lease_came(world: World) -> Result {
    let client = world.client().await?;
    // By reply,
    let lease = client.lock("x")?.acquire().await?;
    stops_before_the_server(&client, &lease).await?;
    // by push,
    let lock = world
        .client()
        .await?
        .lock("x")?
        .with(Options::new().lease(Duration::from_secs(3)));
    let waiter = tokio::spawn(async move { lock.acquire().await });
    waiting(&client, &world.object(Kind::Lock, "x")?, 1).await?;
    lease.release().await?;
    let lease = waiter.await??;
    stops_before_the_server(&client, &lease).await?;
    // and by renewal.
    let first = lease.deadline();
    eventually("a renewal", SOON, async || {
        ensure!(lease.deadline() > first, "not yet");
        Ok(())
    })
    .await?;
    stops_before_the_server(&client, &lease).await
}

#[tokio::test]
async fn a_paused_server_makes_the_holder_unsure_and_then_stop() -> Result {
    let redis = Redis::start().await?;
    let world = World::on(&redis, "paused");
    let client = world
        .builder()
        .response_timeout(Duration::from_millis(200))
        .connect()
        .await?;
    let lease = client
        .lock("x")?
        .with(Options::new().lease(Duration::from_millis(1500)))
        .acquire()
        .await?;
    redis.pause()?;
    eventually("the holder to be unsure", SOON, async || {
        ensure!(
            matches!(lease.state(), LeaseState::Unsure { .. }),
            "{:?}",
            lease.state()
        );
        Ok(())
    })
    .await?;
    lease.check()?;
    let deadline = lease.deadline();
    let cause = lease.lost().await;
    ensure!(Instant::now() >= deadline, "lost before its deadline: {cause}");
    assert!(lease.check().is_err());
    redis.resume()?;
    // It stays lost, though the server may still have it for a moment.
    let error = lease.release().await.unwrap_err();
    assert!(error.to_string().contains("is lost"), "{error}");
    Ok(())
}

on_both! {
    the_local_deadline_lies_before_the_servers_expiry_however_the_lease_came,
}

const HOUR: i64 = 3600;

/// The timers of a suspended machine stand still; its lease does not.
#[tokio::test]
async fn a_process_whose_machine_was_suspended_for_longer_than_its_lease_has_lost_it() -> Result {
    let world = World::shared("suspended-machine").await?;
    let suspender = Suspender::new()?;
    let mut worker = world.worker_with(&["--lease-ms", "60000"], |command| suspender.prepare(command))?;
    worker
        .ready(SOON, async |worker| {
            ensure!(worker.output()?.contains("granted"), "not yet");
            Ok(())
        })
        .await?;
    // Shorter than the lease, which is renewed when the machine wakes up.
    suspender.suspend(Duration::from_secs(30))?;
    let client = world.client().await?;
    let object = world.object(Kind::Lock, "x")?;
    let before = look(&client, &object).await?.holders[0].expires;
    eventually("a renewal", SOON, async || {
        let snapshot = look(&client, &object).await?;
        ensure!(snapshot.holders[0].expires > before, "not yet");
        Ok(())
    })
    .await?;
    ensure!(!worker.output()?.contains("lost"), "{}", worker.output()?);
    // Half of that time has not passed by any other clock.
    suspender.suspend(Duration::from_secs(120))?;
    worker.wait(SOON).await?;
    let output = worker.output()?;
    let last = output.lines().last().unwrap_or_default();
    ensure!(last.starts_with("lost x"), "{output}");
    Ok(())
}

#[tokio::test]
async fn a_clock_set_back_does_not_keep_a_dead_holders_lease_alive() -> Result {
    let redis = Redis::builder().movable_clock().start().await?;
    let world = World::on(&redis, "set-back");
    let short = Options::new().lease(Duration::from_secs(1));
    let mut doomed = Doomed::start(&world).await?;
    for (name, waits) in [("waited-for", true), ("asked-for", false)] {
        let lock = doomed.client()?.lock(name)?.with(short.clone());
        // A detached lease is not renewed: its holder might as well be dead.
        drop(
            doomed
                .spawn(async move { lock.acquire().await.map(tenure::Lease::detach) })?
                .await??,
        );
        let client = world.client().await?;
        let lock = client.lock(name)?.with(short.clone());
        if waits {
            let wait = tokio::spawn(async move { lock.acquire().await });
            waiting(&client, &world.object(Kind::Lock, name)?, 1).await?;
            redis.move_clock(-HOUR)?;
            tokio::time::timeout(Duration::from_secs(5), wait)
                .await???
                .release()
                .await?;
        } else {
            redis.move_clock(-2 * HOUR)?;
            let lease = eventually("a lease", Duration::from_secs(5), async || {
                got(lock.try_acquire().await?)
            });
            lease.await?.release().await?;
        }
        gone(&client, &world.object(Kind::Lock, name)?).await?;
    }
    doomed.crash();
    Ok(())
}

#[tokio::test]
async fn a_clock_set_back_takes_nothing_from_live_holders_and_waiters() -> Result {
    let redis = Redis::builder().movable_clock().start().await?;
    let world = World::on(&redis, "set-back-live");
    let client = world.client().await?;
    let short = Options::new().lease(Duration::from_secs(3));
    let lease = client.lock("x")?.with(short.clone()).acquire().await?;
    let lock = world.client().await?.lock("x")?.with(short.clone());
    let wait = tokio::spawn(async move { lock.acquire().await });
    waiting(&client, lease.object(), 1).await?;
    redis.move_clock(-HOUR)?;
    let before = lease.deadline();
    eventually("a renewal", SOON, async || {
        ensure!(lease.deadline() > before, "not yet");
        Ok(())
    })
    .await?;
    stops_before_the_server(&client, &lease).await?;
    ensure!(!wait.is_finished(), "two holders");
    lease.release().await?;
    // It comes by push, and its deadline does not depend on the clock's earlier time.
    let lease = tokio::time::timeout(SOON, wait).await???;
    lease.check()?;
    stops_before_the_server(&client, &lease).await?;
    lease.release().await?;
    // And the longest hold is counted from the new time.
    let capped = short
        .lease(Duration::from_millis(600))
        .max_hold(Duration::from_secs(2));
    let lease = client.lock("x")?.with(capped).acquire().await?;
    redis.move_clock(-2 * HOUR)?;
    tokio::time::timeout(Duration::from_secs(6), lease.lost()).await?;
    Ok(())
}

#[tokio::test]
async fn a_recovery_ends_though_the_clock_is_set_back() -> Result {
    use tenure::control::{Capacity, Declaration};
    let redis = Redis::builder().movable_clock().start().await?;
    let world = World::on(&redis, "set-back-recovery");
    let client = world.client().await?;
    let object = world.object(Kind::Semaphore, "x")?;
    let again = Declaration {
        recovery: Some(Duration::ZERO),
        lease: Duration::from_secs(1),
        ..super::support::declaration(Capacity::Permits(1))
    };
    ensure!(
        client.control().declare(&object, &again).await?,
        "it has to recover"
    );
    redis.move_clock(-HOUR)?;
    let semaphore = client.semaphore("x")?;
    ensure!(
        semaphore.try_acquire().await?.is_none(),
        "granted while it recovers"
    );
    eventually("the recovery to end", Duration::from_secs(5), async || {
        got(semaphore.try_acquire().await?)
    })
    .await?
    .release()
    .await?;
    Ok(())
}

/// By its clock every lease has run out: the holder is notified in the same step in which the next one is granted.
#[tokio::test]
async fn a_clock_set_ahead_ends_leases_with_notice_and_fencing_tokens_keep_growing() -> Result {
    let redis = Redis::builder().movable_clock().start().await?;
    let world = World::on(&redis, "set-ahead");
    let client = world.client().await?;
    let object = world.declare_semaphore(&client, "x", 1).await?;
    let semaphore = client.semaphore("x")?;
    let first = semaphore.acquire().await?;
    let lock = client.lock("x")?.acquire().await?;
    redis.move_clock(HOUR)?;
    let other = world.client().await?;
    let second = other
        .semaphore("x")?
        .acquire_timeout(Duration::from_secs(5))
        .await?;
    let second = second.context("still held")?;
    ensure!(
        second.fencing_token() > first.fencing_token(),
        "{second:?} {first:?}"
    );
    tokio::time::timeout(Duration::from_secs(5), first.lost()).await?;
    ensure!(
        first.check().is_err() && first.release().await.is_err(),
        "its end went unnoticed"
    );
    let next = got(other.lock("x")?.acquire_timeout(Duration::from_secs(5)).await?)?;
    ensure!(next.fencing_token() > lock.fencing_token(), "{next:?} {lock:?}");
    assert!(lock.release().await.is_err());
    next.release().await?;
    // Back again: a declared object counts on.
    redis.move_clock(0)?;
    second.renew().await?;
    let newest = second.fencing_token();
    second.release().await?;
    ensure!(
        got(semaphore.try_acquire().await?)?.fencing_token() > newest,
        "it went back"
    );
    ensure!(look(&client, &object).await?.last_fence > newest, "it went back");
    Ok(())
}
