//! Promise 3: first come, first served. Trying does not overtake, and a large request is not starved by small ones.

use std::{sync::Arc, time::Duration};

use tenure::Kind;
use tenure_tests::{Result, ensure, eventually};
use tokio::sync::Mutex;

use super::support::{SOON, World, got, look, on_both, waiting};

async fn grants_follow_the_order_of_asking(world: World) -> Result {
    let client = world.client().await?;
    let object = world.object(Kind::Lock, "x")?;
    let gate = client.lock("x")?.acquire().await?;
    let order: Arc<Mutex<Vec<u64>>> = Arc::default();
    let mut waits = Vec::new();
    for i in 0..10 {
        let (lock, order) = (world.client().await?.lock("x")?, order.clone());
        waits.push(tokio::spawn(async move {
            let lease = lock.acquire().await?;
            order.lock().await.push(i);
            lease.release().await
        }));
        waiting(&client, &object, i + 1).await?;
    }
    gate.release().await?;
    for wait in waits {
        wait.await??;
    }
    assert_eq!(*order.lock().await, (0..10).collect::<Vec<_>>());
    Ok(())
}

async fn trying_does_not_overtake_and_small_requests_do_not_starve_a_large_one(world: World) -> Result {
    let client = world.client().await?;
    let object = world.declare_semaphore(&client, "x", 3).await?;
    let semaphore = client.semaphore("x")?;
    let (one, two) = (semaphore.acquire().await?, semaphore.acquire().await?);
    let large = semaphore.clone();
    let large = tokio::spawn(async move { large.acquire_many(3).await });
    waiting(&client, &object, 1).await?;
    // One permit is free, but it is not for those who come later.
    assert!(
        semaphore.try_acquire().await?.is_none(),
        "a try overtook the queue"
    );
    let small = semaphore.clone();
    let small = tokio::spawn(async move { small.acquire().await });
    waiting(&client, &object, 2).await?;
    one.release().await?;
    assert_eq!(
        look(&client, &object).await?.waiting,
        2,
        "two of three free are not enough for the large one"
    );
    two.release().await?;
    let large = large.await??;
    assert_eq!(look(&client, &object).await?.held, 3);
    assert!(!small.is_finished());
    large.release().await?;
    small.await??.release().await?;
    Ok(())
}

async fn more_than_there_is_fails_at_once_and_a_semaphore_of_zero_waits(world: World) -> Result {
    let client = world.client().await?;
    let object = world.declare_semaphore(&client, "x", 2).await?;
    let semaphore = client.semaphore("x")?;
    let error = semaphore.acquire_many(3).await.unwrap_err();
    assert!(error.to_string().contains("has 2: ask for at most 2"), "{error}");
    // Scaled to zero is a pause, not an error.
    world.declare_semaphore(&client, "x", 0).await?;
    let paused = semaphore.clone();
    let paused = tokio::spawn(async move { paused.acquire().await });
    waiting(&client, &object, 1).await?;
    world.declare_semaphore(&client, "x", 1).await?;
    paused.await??.release().await?;
    Ok(())
}

async fn a_timeout_leaves_the_queue_at_once(world: World) -> Result {
    let client = world.client().await?;
    let object = world.object(Kind::Lock, "x")?;
    let lease = client.lock("x")?.acquire().await?;
    let late = world.client().await?.lock("x")?;
    assert!(late.acquire_timeout(Duration::from_millis(50)).await?.is_none());
    assert_eq!(look(&client, &object).await?.waiting, 0);
    assert!(
        late.acquire_timeout(Duration::ZERO).await?.is_none(),
        "zero is one attempt"
    );
    lease.release().await?;
    got(late.acquire_timeout(Duration::ZERO).await?)?
        .release()
        .await?;
    Ok(())
}

async fn a_pool_grants_the_least_recently_used_and_drains_removed_resources(world: World) -> Result {
    let client = world.client().await?;
    let object = world.declare_pool(&client, "x", &["a", "b", "c"]).await?;
    let pool = client.lock_pool("x")?;
    let mut names = Vec::new();
    for _ in 0..6 {
        let seat = pool.acquire().await?;
        assert_eq!(seat.properties()["host"], format!("{} host", seat.resource()));
        names.push(seat.resource().to_owned());
        seat.release().await?;
    }
    assert_eq!(names[..3], names[3..], "each in its turn");
    let held = pool.acquire().await?;
    let others: Vec<&str> = ["a", "b", "c"]
        .into_iter()
        .filter(|name| *name != held.resource())
        .collect();
    world.declare_pool(&client, "x", &others).await?;
    let snapshot = look(&client, &object).await?;
    assert_eq!(
        (snapshot.limit, snapshot.held, snapshot.free, snapshot.draining()),
        (2, 1, 2, 1)
    );
    held.check()?;
    let drained = held.resource().to_owned();
    held.release().await?;
    for _ in 0..4 {
        let seat = pool.acquire().await?;
        ensure!(
            seat.resource() != drained,
            "{drained} was granted after it was taken away"
        );
        seat.release().await?;
    }
    assert_eq!(look(&client, &object).await?.draining(), 0);
    Ok(())
}

async fn a_generated_pool_of_a_million_shrinks_and_grows(world: World) -> Result {
    use tenure::control::{Capacity, Order};
    let client = world.client().await?;
    let object = world.object(Kind::Pool, "x")?;
    let declare = async |count| {
        let capacity = Capacity::Generated {
            order: Order::LeastRecentlyUsed,
            prefix: "seat-".into(),
            count,
        };
        client
            .control()
            .declare(&object, &super::support::declaration(capacity))
            .await
    };
    declare(1_000_000).await?;
    let pool = client.lock_pool("x")?;
    let seats = [
        pool.acquire().await?,
        pool.acquire().await?,
        pool.acquire().await?,
    ];
    assert_eq!(
        seats.each_ref().map(tenure::PoolLease::resource),
        ["seat-0", "seat-1", "seat-2"]
    );
    assert_eq!(look(&client, &object).await?.free, 999_997);
    declare(2).await?;
    let snapshot = look(&client, &object).await?;
    assert_eq!((snapshot.free, snapshot.held, snapshot.draining()), (0, 3, 1));
    assert!(pool.try_acquire().await?.is_none());
    declare(4).await?;
    let fourth = pool.acquire().await?;
    assert_eq!(fourth.resource(), "seat-3", "seat-2 is still held");
    assert!(pool.try_acquire().await?.is_none());
    drop(seats);
    eventually("three seats to be free", SOON, async || {
        let free = look(&client, &object).await?.free;
        ensure!(free == 3, "{free} are free");
        Ok(())
    })
    .await?;
    let again = [
        pool.acquire().await?,
        pool.acquire().await?,
        pool.acquire().await?,
    ];
    let mut names = again.each_ref().map(tenure::PoolLease::resource);
    names.sort_unstable();
    assert_eq!(names, ["seat-0", "seat-1", "seat-2"]);
    assert!(pool.try_acquire().await?.is_none());
    Ok(())
}

on_both! {
    grants_follow_the_order_of_asking,
    trying_does_not_overtake_and_small_requests_do_not_starve_a_large_one,
    more_than_there_is_fails_at_once_and_a_semaphore_of_zero_waits,
    a_timeout_leaves_the_queue_at_once,
    a_pool_grants_the_least_recently_used_and_drains_removed_resources,
    a_generated_pool_of_a_million_shrinks_and_grows,
}
