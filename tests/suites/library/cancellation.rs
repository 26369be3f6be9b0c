//! Promise 8: dropping a future at any await leaves no hold and no queue entry behind.

use std::time::Duration;

use tenure::Kind;
use tenure_tests::{Redis, Result};

use super::support::{World, gone, got, on_both, scaled, waiting};

/// Drops the future after every possible number of polls up to its end, with and without another holder.
#[tokio::test]
async fn an_acquisition_dropped_at_any_await_leaves_nothing() -> Result {
    let redis = Redis::start().await?;
    let world = World::on(&redis, "drop");
    let client = world.client().await?;
    let observer = world.client().await?;
    let object = world.object(Kind::Lock, "x")?;
    let lock = client.lock("x")?;
    for patience_us in (0..4000).step_by(20) {
        let holder = if patience_us % 40 == 0 {
            Some(observer.lock("x")?.acquire().await?)
        } else {
            None
        };
        let acquire = tokio::time::timeout(Duration::from_micros(patience_us), lock.acquire());
        // Granted and dropped at once, or dropped on its way: both have to end as if it had never been.
        drop(acquire.await);
        drop(holder);
        if patience_us % 400 == 0 {
            gone(&observer, &object).await?;
        }
    }
    gone(&observer, &object).await
}

async fn a_dropped_waiter_is_not_granted_and_a_dropped_lease_is_given_back(world: World) -> Result {
    let client = world.client().await?;
    let object = world.object(Kind::Lock, "x")?;
    let lease = client.lock("x")?.acquire().await?;
    let lock = world.client().await?.lock("x")?;
    let first = tokio::spawn(async move { lock.acquire().await });
    waiting(&client, &object, 1).await?;
    let lock = world.client().await?.lock("x")?;
    let second = tokio::spawn(async move { lock.acquire().await });
    waiting(&client, &object, 2).await?;
    first.abort();
    waiting(&client, &object, 1).await?;
    drop(lease);
    drop(second.await??);
    gone(&client, &object).await?;
    // Dropped with its client: the background finishes first.
    let last = world.client().await?;
    let lease = got(last.lock("x")?.try_acquire().await?)?;
    drop(last);
    drop(lease);
    gone(&client, &object).await
}

async fn closing_waits_until_everything_is_given_back(world: World) -> Result {
    let client = world.client().await?;
    let observer = world.client().await?;
    for i in 0..50 {
        drop(client.lock(format!("x{i}"))?.acquire().await?);
    }
    client.close().await;
    for i in 0..50 {
        let snapshot = observer
            .control()
            .look(&world.object(Kind::Lock, &format!("x{i}"))?, 1)
            .await?;
        assert_eq!(snapshot, None);
    }
    Ok(())
}

/// Drops from many tasks at once, on two connections, so that they meet one another at every moment of an acquisition.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_random_drops_leave_no_key() -> Result {
    const TASKS: usize = 64;
    const LOCKS: usize = 16;
    let drops = scaled(100_000)?;
    let redis = Redis::start().await?;
    let world = World::on(&redis, "random-drops");
    let clients = [world.client().await?, world.client().await?];
    let mut tasks = Vec::new();
    for id in 0..TASKS {
        let lock = clients[id / LOCKS % 2].lock(format!("x{}", id % LOCKS))?;
        tasks.push(tokio::spawn(async move {
            let mut random = 0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(id as u64 + 1);
            for _ in 0..drops.div_ceil(TASKS) {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                let patience = Duration::from_micros(random % 5000);
                drop(tokio::time::timeout(patience, lock.acquire()).await);
            }
        }));
    }
    for task in tasks {
        task.await?;
    }
    for client in clients {
        client.close().await;
    }
    let observer = world.client().await?;
    for lock in 0..LOCKS {
        gone(&observer, &world.object(Kind::Lock, &format!("x{lock}"))?).await?;
    }
    assert_eq!(redis.cli(&["DBSIZE"]).await?.trim(), "0");
    Ok(())
}

on_both! {
    a_dropped_waiter_is_not_granted_and_a_dropped_lease_is_given_back,
    closing_waits_until_everything_is_given_back,
}
