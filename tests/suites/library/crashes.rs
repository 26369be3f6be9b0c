//! Promise 10: a crash costs at most one lease in total, also with a hundred dead waiters ahead.

use std::time::{Duration, Instant};

use tenure::{Kind, Options};
use tenure_tests::{Result, ensure, eventually};

use super::support::{Doomed, SOON, World, got, look, on_both, waiting};

const LEASE: Duration = Duration::from_secs(2);

async fn a_hundred_dead_waiters_cost_one_lease(world: World) -> Result {
    let client = world.client().await?;
    let object = world.object(Kind::Lock, "x")?;
    let gate = client.lock("x")?.acquire().await?;
    let mut doomed = Doomed::start(&world).await?;
    for _ in 0..100 {
        let lock = doomed.client()?.lock("x")?.with(Options::new().lease(LEASE));
        drop(doomed.spawn(async move { lock.acquire().await.map(std::mem::forget) })?);
    }
    waiting(&client, &object, 100).await?;
    let live = world.client().await?.lock("x")?;
    let live = tokio::spawn(async move { live.acquire().await });
    waiting(&client, &object, 101).await?;
    doomed.crash();
    let crashed = Instant::now();
    gate.release().await?;
    tokio::time::timeout(SOON, live).await???.release().await?;
    let cost = crashed.elapsed();
    ensure!(cost < LEASE + Duration::from_secs(1), "it cost {cost:?}");
    Ok(())
}

/// A worker process is killed with -9 while it holds; a waiter gets the lock when the lease is over, and not before.
#[tokio::test]
async fn a_killed_holder_is_followed_by_the_next_within_one_lease() -> Result {
    let world = World::shared("killed-holder").await?;
    let client = world.client().await?;
    let mut worker = world.worker(&["--lease-ms", "2000", "--reason", "to be killed"])?;
    let object = world.object(Kind::Lock, "x")?;
    let held = eventually("the worker to hold", SOON, async || look(&client, &object).await).await?;
    assert_eq!(
        (
            held.holders[0].holder.pod.as_deref(),
            held.holders[0].reason.as_str()
        ),
        (Some("worker-1"), "to be killed")
    );
    let lock = client.lock("x")?;
    let next = tokio::spawn(async move { lock.acquire_timeout(SOON).await });
    waiting(&client, &object, 1).await?;
    let last = look(&client, &object).await?.holders[0].expires;
    worker.kill9()?;
    let killed = Instant::now();
    let lease = got(next.await??)?;
    ensure!(
        killed.elapsed() < LEASE + Duration::from_secs(1),
        "it took {:?}",
        killed.elapsed()
    );
    ensure!(
        lease.acquired_at() >= last,
        "granted before the dead holder's lease was over"
    );
    Ok(())
}

#[tokio::test]
async fn nothing_is_left_when_all_clients_have_crashed() -> Result {
    let redis = tenure_tests::Redis::start().await?;
    let world = World::on(&redis, "left");
    let mut doomed = Doomed::start(&world).await?;
    let lock = doomed
        .client()?
        .lock("x")?
        .with(Options::new().lease(Duration::from_millis(300)));
    let waiter = lock.clone();
    let lease = doomed.spawn(async move { lock.acquire().await })?.await??;
    drop(doomed.spawn(async move { waiter.acquire().await.map(std::mem::forget) })?);
    let client = world.client().await?;
    waiting(&client, &world.object(Kind::Lock, "x")?, 1).await?;
    doomed.crash_with(lease);
    drop(client);
    eventually("the last key to be gone", SOON, async || {
        let keys = redis.cli(&["KEYS", "*"]).await?;
        ensure!(keys.trim().is_empty(), "{keys}");
        Ok(())
    })
    .await
}

on_both! {
    a_hundred_dead_waiters_cost_one_lease,
}
