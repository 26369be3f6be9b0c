//! Conditions: waiting gives the lock back in one step, waking up is the handoff, and no notification gets lost.

use std::{sync::Arc, time::Duration};

use tenure::{Client, Condvar, Error, Kind, Lock, Options};
use tenure_tests::{Redis, Result, ensure, eventually};
use tokio::{sync::Mutex, task::JoinHandle};

use super::support::{Doomed, SOON, World, gone, on_both};

fn pair(client: &Client) -> Result<(Lock, Condvar)> {
    let lock = client.lock("x")?;
    let condition = lock.condvar("changed")?;
    Ok((lock, condition))
}

/// A client of its own that waits once, and gives the lock back at once. Returns when it does wait.
async fn waiter(world: &World, woken: &Arc<Mutex<Vec<usize>>>, id: usize) -> Result<JoinHandle<Result>> {
    let (lock, condition) = pair(&world.client().await?)?;
    let lease = lock.acquire().await?;
    let woken = woken.clone();
    let task = tokio::spawn(async move {
        let lease = condition.wait(lease).await?;
        woken.lock().await.push(id);
        lease.release().await?;
        Ok(())
    });
    // It has released the lock when another client can take it, and then it waits.
    lock.acquire().await?.release().await?;
    Ok(task)
}

async fn notify_wakes_the_returned_number_longest_first(world: World) -> Result {
    let (lock, condition) = pair(&world.client().await?)?;
    let woken = Arc::default();
    let mut tasks = Vec::new();
    for id in 0..6 {
        tasks.push(waiter(&world, &woken, id).await?);
    }
    let lease = lock.acquire().await?;
    assert_eq!(condition.notify(&lease, 4).await?, 4);
    assert!(
        woken.lock().await.is_empty(),
        "they wake up when the lock is theirs"
    );
    lease.release().await?;
    for task in tasks.drain(..4) {
        task.await??;
    }
    assert_eq!(*woken.lock().await, [0, 1, 2, 3]);
    let lease = lock.acquire().await?;
    assert_eq!(condition.notify_all(&lease).await?, 2);
    lease.release().await?;
    for task in tasks {
        task.await??;
    }
    // C9, C10: there is no waiter, and nothing is kept.
    let lease = lock.acquire().await?;
    assert_eq!(condition.notify(&lease, 5).await?, 0);
    let (lease, notified) = condition.wait_timeout(lease, Duration::from_millis(50)).await?;
    assert!(!notified, "woken by a notification from before");
    lease.release().await?;
    gone(&world.client().await?, &world.object(Kind::Lock, "x")?).await
}

async fn only_the_holder_of_the_lock_may_notify(world: World) -> Result {
    let client = world.client().await?;
    let (lock, condition) = pair(&client)?;
    let lease = lock.acquire().await?;
    let snapshot = super::support::look(&client, lease.object()).await?;
    client
        .control()
        .reclaim(
            lease.object(),
            &[snapshot.holders[0].token.clone()],
            "for the test",
        )
        .await?;
    let _other = lock.acquire().await?;
    assert!(matches!(
        condition.notify(&lease, 1).await,
        Err(Error::Lost { .. })
    ));
    let other_lock = client.lock("y")?.acquire().await?;
    let error = condition.notify(&other_lock, 1).await.unwrap_err();
    assert!(
        matches!(error, Error::InvalidInput { field: "lease", .. }),
        "{error}"
    );
    let error = condition.wait(lease).await.unwrap_err();
    assert!(matches!(error, Error::Lost { .. }), "{error}");
    assert!(lock.condvar("not a name").is_err());
    Ok(())
}

async fn the_lock_is_held_again_after_a_timeout_too(world: World) -> Result {
    let client = world.client().await?;
    let (lock, condition) = pair(&client)?;
    let lease = lock.acquire().await?;
    let waiting = tokio::spawn(async move { condition.wait_timeout(lease, Duration::from_millis(50)).await });
    // Another client holds when the timeout passes: it has to wait for its turn.
    let other = world.client().await?.lock("x")?.acquire().await?;
    super::support::waiting(&client, &world.object(Kind::Lock, "x")?, 1).await?;
    assert!(!waiting.is_finished());
    other.release().await?;
    let (lease, notified) = waiting.await??;
    assert!(!notified);
    lease.check()?;
    assert!(lock.try_acquire().await?.is_none());
    lease.release().await?;
    Ok(())
}

async fn a_notification_to_one_that_was_dropped_or_has_died_goes_to_the_next(world: World) -> Result {
    let client = world.client().await?;
    let (lock, condition) = pair(&client)?;
    let woken = Arc::default();
    // The first dies while it waits, the second is dropped, both before they are notified but in the queue.
    let mut doomed = Doomed::start(&world).await?;
    let (dead_lock, dead_condition) = pair(&doomed.client()?)?;
    let short = Options::new().lease(Duration::from_secs(1));
    let dead_lock = dead_lock.with(short.clone());
    let dead_condition = {
        drop(dead_condition);
        dead_lock.condvar("changed")?
    };
    let lease = {
        let lock = dead_lock.clone();
        doomed.spawn(async move { lock.acquire().await })?.await??
    };
    drop(doomed.spawn(async move { dead_condition.wait(lease).await.map(std::mem::forget) })?);
    lock.acquire().await?.release().await?;
    let dropped = waiter(&world, &woken, 1).await?;
    let next = waiter(&world, &woken, 2).await?;

    let lease = lock.acquire().await?;
    assert_eq!(condition.notify(&lease, 2).await?, 2);
    doomed.crash();
    dropped.abort();
    lease.release().await?;
    // One of the two notifications reaches the third; the other finds no waiter and ends.
    tokio::time::timeout(SOON, next).await???;
    assert_eq!(*woken.lock().await, [2]);
    gone(&client, &world.object(Kind::Lock, "x")?).await
}

#[tokio::test]
async fn a_wait_outlives_its_connection_and_its_place_is_renewed() -> Result {
    let redis = Redis::start().await?;
    let world = World::on(&redis, "wait-cut");
    let (lock, condition) = pair(&world.client().await?)?;
    let woken = Arc::default();
    let task = waiter(&world, &woken, 7).await?;
    redis
        .cli(&["CLIENT", "KILL", "TYPE", "pubsub", "SKIPME", "yes"])
        .await?;
    let lease = lock.acquire().await?;
    let notified = condition.notify_all(&lease).await?;
    redis
        .cli(&["CLIENT", "KILL", "TYPE", "pubsub", "SKIPME", "yes"])
        .await?;
    lease.release().await?;
    assert_eq!(notified, 1);
    tokio::time::timeout(SOON, task).await???;
    assert_eq!(*woken.lock().await, [7]);
    Ok(())
}

/// Producers and consumers over a queue of one: each item is taken once, and no client hangs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn producers_and_consumers_lose_and_double_nothing() -> Result {
    const ITEMS: usize = 60;
    let world = World::shared("producers").await?;
    let slot: Arc<std::sync::Mutex<Option<usize>>> = Arc::default();
    let taken: Arc<Mutex<Vec<usize>>> = Arc::default();
    let mut tasks = Vec::new();
    for part in 0..2 {
        let client = world.client().await?;
        let (slot, lock) = (slot.clone(), client.lock("x")?);
        tasks.push(tokio::spawn(async move {
            let (not_full, not_empty) = (lock.condvar("not-full")?, lock.condvar("not-empty")?);
            for item in (0..ITEMS).filter(|item| item % 2 == part) {
                let lease = lock.acquire().await?;
                let lease = not_full
                    .wait_while(lease, || std::future::ready(slot.lock().unwrap().is_some()))
                    .await?;
                *slot.lock().unwrap() = Some(item);
                not_empty.notify(&lease, 1).await?;
                lease.release().await?;
            }
            Ok::<(), tenure::Error>(())
        }));
    }
    for _ in 0..3 {
        let client = world.client().await?;
        let (slot, taken, lock) = (slot.clone(), taken.clone(), client.lock("x")?);
        tasks.push(tokio::spawn(async move {
            let (not_full, not_empty) = (lock.condvar("not-full")?, lock.condvar("not-empty")?);
            for _ in 0..ITEMS / 3 {
                let lease = lock.acquire().await?;
                let lease = not_empty
                    .wait_while(lease, || std::future::ready(slot.lock().unwrap().is_none()))
                    .await?;
                let item = slot.lock().unwrap().take();
                taken.lock().await.extend(item);
                not_full.notify(&lease, 1).await?;
                lease.release().await?;
            }
            Ok(())
        }));
    }
    for task in tasks {
        tokio::time::timeout(SOON * 2, task).await???;
    }
    let mut taken = taken.lock().await;
    taken.sort_unstable();
    assert_eq!(*taken, (0..ITEMS).collect::<Vec<_>>());
    eventually("no key to be left", SOON, async || {
        let left = world
            .client()
            .await?
            .control()
            .look(&world.object(Kind::Lock, "x")?, 1)
            .await?;
        ensure!(left.is_none(), "{left:?}");
        Ok(())
    })
    .await
}

on_both! {
    notify_wakes_the_returned_number_longest_first,
    only_the_holder_of_the_lock_may_notify,
    the_lock_is_held_again_after_a_timeout_too,
    a_notification_to_one_that_was_dropped_or_has_died_goes_to_the_next,
}
