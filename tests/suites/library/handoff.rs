//! Promise 2: the release grants the head waiter and notifies that client alone, by push on its one connection. A lost
//! connection costs a bounded delay, never a hold or a hang.

use std::time::Duration;

use tenure::{Kind, Options};
use tenure_tests::{Context, Redis, Result, ensure, eventually, proxy::Dead};
use tokio::{sync::watch, task::JoinSet, time::Instant};

use super::support::{SOON, World, gone, got, on_both, scaled, waiting};

#[tokio::test]
async fn a_client_has_one_connection_however_many_locks() -> Result {
    let redis = Redis::start().await?;
    let world = World::on(&redis, "connections");
    let (holder, waiter) = (world.client().await?, world.client().await?);
    let mut held = Vec::new();
    let mut waits = Vec::new();
    for i in 0..200 {
        held.push(holder.lock(format!("x{i}"))?.acquire().await?);
        let lock = waiter.lock(format!("x{i}"))?;
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
async fn only_the_head_of_the_queue_is_notified_of_a_release() -> Result {
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
        // Cuts all connections, also the holder's: the release goes over a new connection, and so does the grant's push or,
        // if it came too early, the renewal of the queue entry.
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
    // No renewal, no release, no other client: the waiter's own clock has to bring it back to Redis.
    let lease = client.lock("x")?.acquire_timeout(Duration::from_secs(5)).await?;
    got(lease)?.release().await?;
    Ok(())
}

on_both! {
    a_waiter_finds_out_by_itself_when_the_holder_is_dead,
}

/// The renewal of a queue entry finds out that it has become a lease: a lost push costs a third of the entry's life.
/// docs/protocol.md#push-renewal: the renewal of the queue entry.
#[tokio::test]
async fn pushes_lost_alone_cost_a_bounded_delay() -> Result {
    const PLACE: Duration = Duration::from_millis(900);
    let redis = Redis::start().await?;
    let world = World::on(&redis, "no-push");
    let (proxy, far) = world.behind_proxy(&redis).await?;
    let (holder, deaf) = (world.client().await?, far.client().await?);
    proxy.drop_pushes(true);
    let mut gates = Vec::new();
    let mut waits = Vec::new();
    for i in 0..20 {
        let name = format!("x{i}");
        gates.push(holder.lock(&name)?.acquire().await?);
        let lock = deaf.lock(&name)?.with(Options::new().lease(PLACE));
        waits.push(tokio::spawn(async move {
            let lease = lock.acquire().await?;
            let granted = Instant::now();
            lease.release().await?;
            Result::Ok(granted)
        }));
        waiting(&holder, &world.object(Kind::Lock, &name)?, 1).await?;
    }
    for gate in gates {
        gate.release().await?;
    }
    let released = Instant::now();
    for wait in waits {
        let granted = tokio::time::timeout(SOON, wait).await???;
        let cost = granted.saturating_duration_since(released);
        ensure!(cost < PLACE, "granted {cost:?} after the release");
    }
    assert_eq!((proxy.dropped_pushes(), proxy.connections()), (20, 1));
    for i in 0..20 {
        gone(&holder, &world.object(Kind::Lock, &format!("x{i}"))?).await?;
    }
    Ok(())
}

/// The network has forgotten the waiter's connection: nothing is refused, and nothing comes any more.
#[tokio::test]
async fn a_waiter_leaves_a_dead_connection_and_keeps_its_place() -> Result {
    let redis = Redis::start().await?;
    for dead in [Dead::Requests, Dead::Replies, Dead::Both] {
        let world = World::on(&redis, "half-open-waiter");
        let (proxy, far) = world.behind_proxy(&redis).await?;
        let holder = world.client().await?;
        let waiter = far
            .client_with_timeout(Duration::from_millis(300))
            .await?
            .lock("x")?;
        let object = world.object(Kind::Lock, "x")?;
        let gate = holder.lock("x")?.acquire().await?;
        let waiter = waiter.with(Options::new().lease(Duration::from_millis(1500)));
        let wait = tokio::spawn(async move { waiter.acquire().await });
        waiting(&holder, &object, 1).await?;
        let before = holder.control().look(&object, 1).await?.context("gone")?.waiters;
        proxy.half_open(dead);
        eventually("a new connection", SOON, async || {
            ensure!(proxy.connections() == 2, "{dead:?}: {}", proxy.connections());
            Ok(())
        })
        .await?;
        let after = holder.control().look(&object, 1).await?.context("gone")?.waiters;
        assert_eq!(before[0].token, after[0].token, "{dead:?}: another queue entry");
        gate.release().await?;
        tokio::time::timeout(SOON, wait).await???.release().await?;
        gone(&holder, &object).await?;
    }
    Ok(())
}

/// One connection on which as many locks are held, and waited for, is killed again and again, while they pass from hand to
/// hand. `TENURE_TEST_SCALE=25`: 10,000 locks and 1,000 kills.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_killed_over_and_over_leaves_no_waiter_hanging() -> Result {
    let (locks, kills) = (scaled(400)?, scaled(40)?);
    let redis = Redis::start().await?;
    let world = World::on(&redis, "killed-connection");
    let client = world.client().await?;
    let (over, _) = watch::channel(false);
    let mut tasks = JoinSet::new();
    for i in 0..locks * 2 {
        // Two on each lock, so that one of them waits.
        let lock = client.lock(format!("x{}", i % locks))?;
        let mut over = over.subscribe();
        // However many locks there are, about 400 a second change hands.
        let hold = Duration::from_micros(2500) * u32::try_from(locks * (50 + i % 100) / 100)?;
        tasks.spawn(async move {
            while !*over.borrow() {
                let lease = lock.acquire().await?;
                drop(tokio::time::timeout(hold, over.wait_for(|over| *over)).await);
                lease.release().await?;
            }
            Result::Ok(())
        });
    }
    for i in 0..locks {
        waiting(&client, &world.object(Kind::Lock, &format!("x{i}"))?, 1).await?;
    }
    let mut killed = 0;
    while killed < kills {
        eventually("the connection to be made again", SOON, async || {
            let connections = redis.cli(&["CLIENT", "LIST", "TYPE", "pubsub"]).await?;
            ensure!(!connections.trim().is_empty(), "not yet");
            Ok(())
        })
        .await?;
        // One that lives for less is made again with a growing delay, so that fewer would be killed.
        tokio::time::sleep(Duration::from_millis(110)).await;
        let count = redis
            .cli(&["CLIENT", "KILL", "TYPE", "pubsub", "SKIPME", "yes"])
            .await?;
        killed += count.trim().parse::<usize>()?;
    }
    over.send_replace(true);
    let patience = SOON + Duration::from_millis(5) * u32::try_from(locks * 2)?;
    let ended = async {
        while let Some(task) = tasks.join_next().await {
            task??;
        }
        Result::Ok(())
    };
    tokio::time::timeout(patience, ended)
        .await
        .context("a waiter hangs")??;
    let observer = world.client().await?;
    for i in 0..locks {
        gone(&observer, &world.object(Kind::Lock, &format!("x{i}"))?).await?;
    }
    Ok(())
}
