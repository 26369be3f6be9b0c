//! Promise 9: the holder is notified of a lost lease. `max_hold` caps renewals, so that a hung holder loses its lease.

use std::time::Duration;

use rustix::process::Signal;
use tenure::{Kind, LeaseState, Options};
use tenure_tests::{Context, Redis, Result, bail, ensure, eventually, proxy::Dead};

use tokio::time::Instant;

use super::support::{SOON, World, gone, got, look, on_both, waiting};

async fn a_reclaimed_lease_is_reported_by_push_with_the_cause(world: World) -> Result {
    let client = world.client().await?;
    let object = world.declare_semaphore(&client, "x", 1).await?;
    let lease = client.semaphore("x")?.acquire().await?;
    let control = world.client().await?.control();
    let token = look(&client, &object).await?.holders[0].token.clone();
    assert_eq!(
        control
            .reclaim(&object, std::slice::from_ref(&token), "its pod has ended")
            .await?,
        1
    );
    // Long before it would have been renewed.
    let cause = tokio::time::timeout(Duration::from_secs(5), lease.lost()).await?;
    assert_eq!(cause, "its pod has ended");
    assert!(
        lease
            .check()
            .unwrap_err()
            .to_string()
            .contains("its pod has ended")
    );
    assert_eq!(control.reclaim(&object, &[token], "again").await?, 0);
    Ok(())
}

#[tokio::test]
async fn a_lost_lease_never_touches_its_successor() -> Result {
    let redis = Redis::start().await?;
    let world = World::on(&redis, "successor");
    let client = world.client().await?;
    let lease = client.lock("x")?.acquire().await?;
    redis.cli(&["FLUSHALL"]).await?;
    let successor = world.client().await?.lock("x")?.acquire().await?;
    let error = lease.release().await.unwrap_err();
    assert!(error.to_string().contains("lost"), "{error}");
    let snapshot = look(&client, successor.object()).await?;
    assert_eq!(snapshot.holders[0].fence, successor.fencing_token());
    successor.release().await?;
    Ok(())
}

/// Pushes and replies take about as long as a lease: a lease that arrives in time is held, and a late one is not a lease.
#[tokio::test]
async fn over_a_slow_connection_no_acquisition_returns_a_lease_that_is_lost() -> Result {
    let redis = Redis::start().await?;
    let world = World::on(&redis, "late");
    let near = world.client().await?;
    let (proxy, far) = world.behind_proxy(&redis).await?;
    let far = far.client().await?;
    let short = Options::new().lease(Duration::from_millis(200));
    far.lock("x")?
        .with(short.clone())
        .acquire()
        .await?
        .release()
        .await?;
    let object = world.object(Kind::Lock, "x")?;
    let mut in_time = 0;
    for round in 0..16 {
        let gate = near.lock("x")?.acquire().await?;
        let lock = far.lock("x")?.with(short.clone());
        let wait = tokio::spawn(async move {
            let outcome = lock.acquire_timeout(Duration::from_millis(1200)).await;
            let state = match &outcome {
                Ok(Some(lease)) => Some(lease.state()),
                _ => None,
            };
            (outcome, state)
        });
        waiting(&near, &object, 1).await?;
        proxy.delay_replies(Duration::from_millis([20, 100, 180, 260][round % 4]));
        gate.release().await?;
        let (outcome, state) = wait.await?;
        proxy.delay_replies(Duration::ZERO);
        match state {
            Some(LeaseState::Held) => in_time += 1,
            Some(state) => bail!("round {round}: {state:?}"),
            None => ensure!(
                outcome
                    .as_ref()
                    .map_or_else(tenure::Error::is_unreachable, Option::is_none),
                "round {round}: {outcome:?}"
            ),
        }
    }
    ensure!(in_time > 0, "none came in time");
    Ok(())
}

/// A stopped server does not answer, and its kernel accepts the data.
#[tokio::test]
async fn on_a_stopped_server_no_call_waits_for_longer_than_its_timeout() -> Result {
    let redis = Redis::start().await?;
    let world = World::on(&redis, "hung");
    let client = world.client_with_timeout(SOON).await?;
    let held = client.lock("held")?.acquire().await?;
    redis.pause()?;
    drop(held);
    let within = Duration::from_millis(700);
    let started = Instant::now();
    let many = client.lock_set([("k", [("id", 1)]), ("k", [("id", 2)])])?;
    let outcomes = (
        client.lock("x")?.acquire_timeout(within).await.is_err(),
        many.acquire_timeout(within).await.is_err(),
        client.clone().close_timeout(within).await,
    );
    // Well below the response timeout, on a machine that does much else.
    ensure!(started.elapsed() < SOON / 2, "{:?}", started.elapsed());
    assert_eq!(outcomes, (true, true, false));
    redis.resume()?;
    assert!(client.clone().close_timeout(SOON).await);
    for name in ["held", "x"] {
        gone(&client, &world.object(Kind::Lock, name)?).await?;
    }
    Ok(())
}

async fn the_longest_hold_ends_a_lease_that_is_still_renewed(world: World) -> Result {
    let client = world.client().await?;
    let options = Options::new()
        .lease(Duration::from_millis(400))
        .max_hold(Duration::from_millis(1500));
    let before = Instant::now();
    let lease = client.lock("x")?.with(options).acquire().await?;
    let next = world.client().await?.lock("x")?;
    let next = tokio::spawn(async move { next.acquire().await });
    lease.lost().await;
    let held = before.elapsed();
    ensure!(
        held > Duration::from_millis(800),
        "it was not renewed at all: {held:?}"
    );
    assert!(matches!(lease.state(), LeaseState::Lost { .. }));
    tokio::time::timeout(SOON, next).await???.release().await?;
    Ok(())
}

async fn a_deleted_object_notifies_its_holders_and_waiters(world: World) -> Result {
    use tenure::control::Withdrawal;
    let client = world.client().await?;
    let object = world.declare_semaphore(&client, "x", 1).await?;
    let control = client.control();
    let lease = client.semaphore("x")?.acquire().await?;
    let waiter = world.client().await?.semaphore("x")?;
    let waiter = tokio::spawn(async move { waiter.acquire().await });
    super::support::waiting(&client, &object, 1).await?;
    // Draining sends the waiters away, and lets the holder finish.
    assert_eq!(control.withdraw(&object, Withdrawal::Drain).await?, 1);
    let error = tokio::time::timeout(SOON, waiter).await??.unwrap_err();
    assert!(error.to_string().contains("not declared"), "{error}");
    lease.check()?;
    assert!(client.semaphore("x")?.try_acquire().await.is_err());
    // Deleting takes it from the holder too.
    assert_eq!(control.withdraw(&object, Withdrawal::Delete).await?, 0);
    assert_eq!(tokio::time::timeout(SOON, lease.lost()).await?, "withdrawn");
    assert_eq!(control.look(&object, 1).await?, None);
    // And a drained object goes with its last lease.
    world.declare_semaphore(&client, "x", 1).await?;
    let lease = got(client.semaphore("x")?.try_acquire().await?)?;
    assert_eq!(control.withdraw(&object, Withdrawal::Drain).await?, 1);
    lease.release().await?;
    assert_eq!(control.look(&object, 1).await?, None);
    Ok(())
}

#[tokio::test]
async fn a_broken_connection_makes_no_lease_be_lost() -> Result {
    let redis = Redis::start().await?;
    let client = World::on(&redis, "broken").client().await?;
    let lease = client
        .lock("x")?
        .with(Options::new().lease(Duration::from_secs(20)))
        .acquire()
        .await?;
    let first = lease.deadline();
    redis.cli(&["CLIENT", "KILL", "TYPE", "pubsub"]).await?;
    // The new connection renews at once, without waiting for a third of the lease.
    eventually(
        "the lease to be renewed over the new connection",
        Duration::from_secs(5),
        async || {
            ensure!(lease.deadline() > first, "not yet");
            Ok(())
        },
    )
    .await?;
    assert_eq!(lease.state(), LeaseState::Held);
    lease.release().await?;
    assert_eq!(
        client
            .control()
            .look(&tenure::ObjectRef::new(Kind::Lock, "default", "x")?, 1)
            .await?,
        None
    );
    Ok(())
}

on_both! {
    a_reclaimed_lease_is_reported_by_push_with_the_cause,
    the_longest_hold_ends_a_lease_that_is_still_renewed,
    a_deleted_object_notifies_its_holders_and_waiters,
}

/// Nothing is refused, and nothing comes any more: the client gives the connection up in time to keep the lease.
#[tokio::test]
async fn a_dead_connection_makes_no_lease_be_lost() -> Result {
    let redis = Redis::start().await?;
    for dead in [Dead::Requests, Dead::Replies, Dead::Both] {
        let world = World::on(&redis, "half-open-holder");
        let (proxy, far) = world.behind_proxy(&redis).await?;
        let client = far.client_with_timeout(Duration::from_millis(300)).await?;
        let options = Options::new().lease(Duration::from_secs(3));
        let lease = client.lock("x")?.with(options).acquire().await?;
        proxy.half_open(dead);
        eventually("a renewal over a new connection", SOON, async || {
            ensure!(proxy.connections() == 2, "{dead:?}: still on the dead connection");
            let state = lease.state();
            ensure!(!matches!(state, LeaseState::Lost { .. }), "{dead:?}: {state:?}");
            let left = lease.deadline().saturating_duration_since(Instant::now());
            ensure!(left > Duration::from_millis(2500), "{left:?} left");
            Ok(())
        })
        .await?;
        assert_eq!(lease.state(), LeaseState::Held);
        lease.release().await?;
    }
    Ok(())
}

/// Replies that come late shorten what is left of a lease, and end none.
#[tokio::test]
async fn a_slow_connection_makes_no_lease_be_lost() -> Result {
    let redis = Redis::start().await?;
    let world = World::on(&redis, "slow");
    let (proxy, far) = world.behind_proxy(&redis).await?;
    let client = far.client().await?;
    // Loads the scripts, which a lease's first second has no time for at this pace.
    let warm_up = client.lock("x")?.acquire().await?;
    warm_up.renew().await?;
    warm_up.release().await?;
    proxy.delay_replies(Duration::from_millis(300));
    let options = Options::new().lease(Duration::from_millis(1500));
    let lease = client.lock("x")?.with(options).acquire().await?;
    let until = Instant::now() + Duration::from_secs(4);
    while Instant::now() < until {
        lease.check()?;
        ensure!(lease.deadline() > Instant::now(), "its deadline has passed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    lease.release().await?;
    assert_eq!(proxy.connections(), 1);
    Ok(())
}

/// A stopped process cannot be notified. When it continues it must know before it does anything.
#[tokio::test]
async fn a_stopped_process_knows_at_once_when_it_wakes_up() -> Result {
    let world = World::shared("stopped-process").await?;
    let client = world.client().await?;
    let mut worker = world.worker(&["--lease-ms", "1000"])?;
    let fence = worker
        .ready(SOON, async |worker| {
            let output = worker.output()?;
            let fence = output.split("fence=").nth(1).context("not granted yet")?;
            Ok(fence.trim().parse::<u64>()?)
        })
        .await?;
    worker.signal(Signal::STOP)?;
    let lease = got(client.lock("x")?.acquire_timeout(SOON).await?)?;
    ensure!(
        lease.fencing_token() > fence,
        "{} after {fence}",
        lease.fencing_token()
    );
    worker.signal(Signal::CONT)?;
    worker.wait(SOON).await?;
    let output = worker.output()?;
    let last = output.lines().last().unwrap_or_default();
    ensure!(last.starts_with("lost x"), "{output}");
    ensure!(!output.contains("released"), "{output}");
    // It has touched nothing of its successor.
    lease.renew().await?;
    lease.release().await?;
    Ok(())
}
