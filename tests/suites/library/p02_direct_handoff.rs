//! Promise 2: the release grants the head waiter and tells that client alone, by push on its one connection. A lost
//! connection costs a bounded delay, never a hold or a hang.

use std::time::Duration;

use tenure::{Kind, Options};
use tenure_tests::{Redis, Result, ensure, eventually};

use super::support::{SOON, World, got, on_both, waiting};

#[tokio::test]
async fn a_client_has_one_connection_however_many_locks() -> Result {
    let redis = Redis::start().await?;
    let world = World::on(&redis, "connections");
    let (holder, waiter) = (world.client().await?, world.client().await?);
    let mut held = Vec::new();
    let mut waits = Vec::new();
    for i in 0..200 {
        held.push(holder.lock(&format!("x{i}"))?.acquire().await?);
        let lock = waiter.lock(&format!("x{i}"))?;
        waits.push(tokio::spawn(async move { lock.acquire().await?.release().await }));
    }
    waiting(&holder, &world.object(Kind::Lock, "x199")?, 1).await?;
    let clients = redis.cli(&["INFO", "clients"]).await?;
    // Two clients, and the harness' own.
    assert!(clients.contains("connected_clients:3"), "{clients}");
    drop(held);
    for wait in waits {
        wait.await??;
    }
    Ok(())
}

#[tokio::test]
async fn only_the_head_of_the_queue_hears_of_a_release() -> Result {
    let redis = Redis::start().await?;
    let world = World::on(&redis, "herd");
    let first = world.client().await?;
    let lease = first.lock("x")?.acquire().await?;
    let mut waits = Vec::new();
    for _ in 0..10 {
        let lock = world.client().await?.lock("x")?;
        waits.push(tokio::spawn(async move { lock.acquire().await }));
    }
    waiting(&first, &world.object(Kind::Lock, "x")?, 10).await?;
    let published = async || -> Result<u64> {
        let stats = redis.cli(&["INFO", "commandstats"]).await?;
        let calls = stats.lines().find_map(|l| {
            l.strip_prefix("cmdstat_publish:calls=")?
                .split(',')
                .next()?
                .parse()
                .ok()
        });
        Ok(calls.unwrap_or_default())
    };
    let before = published().await?;
    lease.release().await?;
    let now = eventually("one waiter to be granted", SOON, async || {
        let granted = waits.iter().filter(|wait| wait.is_finished()).count();
        ensure!(granted == 1, "{granted} are granted");
        published().await
    })
    .await?;
    assert_eq!(now - before, 1, "messages for one release");
    for wait in waits {
        wait.abort();
    }
    Ok(())
}

#[tokio::test]
async fn waiters_outlive_their_connections() -> Result {
    let redis = Redis::start().await?;
    let world = World::on(&redis, "cut");
    let holder = world.client().await?;
    let waiter = world.client().await?.lock("x")?;
    for _ in 0..20 {
        let lease = holder.lock("x")?.acquire().await?;
        let lock = waiter.clone();
        let wait = tokio::spawn(async move { lock.acquire().await?.release().await });
        waiting(&holder, &world.object(Kind::Lock, "x")?, 1).await?;
        // Cuts everybody, the holder too: the release goes over a new connection, and so does the grant's push or, if it
        // came too early, the question what has become of the place.
        redis
            .cli(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"])
            .await?;
        redis
            .cli(&["CLIENT", "KILL", "TYPE", "pubsub", "SKIPME", "yes"])
            .await?;
        lease.release().await?;
        tokio::time::timeout(SOON, wait).await???;
    }
    Ok(())
}

async fn a_waiter_finds_out_by_itself_when_the_holder_is_dead(world: World) -> Result {
    let mut doomed = super::support::Doomed::start(&world).await?;
    let client = world.client().await?;
    let lock = doomed
        .client()?
        .lock("x")?
        .with(Options::new().lease(Duration::from_millis(500)));
    let lease = doomed.spawn(async move { lock.acquire().await })?.await??;
    doomed.crash_with(lease);
    // No renewal, no release, nobody else: the waiter's own clock has to bring it back to Redis.
    let lease = client.lock("x")?.acquire_timeout(Duration::from_secs(5)).await?;
    got(lease)?.release().await?;
    Ok(())
}

on_both! {
    a_waiter_finds_out_by_itself_when_the_holder_is_dead,
}
