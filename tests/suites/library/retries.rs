//! Promise 7: retries are safe. Whatever is sent twice is done once.

use std::{sync::Arc, time::Duration};

use tenure::{
    Kind, LeaseState, Options,
    control::{Capacity, Declaration},
};
use tenure_tests::{Context, Redis, Result, Strict, ensure, eventually};
use tokio::sync::Mutex;

use super::support::{SOON, World, gone, got, look, waiting};

/// docs/protocol.md#call-1: after `NOSCRIPT`.
#[tokio::test]
async fn scripts_are_loaded_again_when_the_server_has_forgotten_them() -> Result {
    let redis = Redis::start().await?;
    let world = World::on(&redis, "script-flush");
    let client = world.client().await?;
    let options = Options::new().lease(Duration::from_millis(900));
    for _ in 0..5 {
        let lease = client.lock("x")?.with(options.clone()).acquire().await?;
        redis.cli(&["SCRIPT", "FLUSH"]).await?;
        let deadline = lease.deadline();
        tenure_tests::eventually("a renewal", SOON, async || {
            ensure!(lease.deadline() > deadline, "not yet");
            Ok(())
        })
        .await?;
        redis.cli(&["SCRIPT", "FLUSH"]).await?;
        lease.release().await?;
        redis.cli(&["SCRIPT", "FLUSH"]).await?;
    }
    gone(&client, &world.object(Kind::Lock, "x")?).await
}

/// Connections are cut at random while clients acquire and release: replies get lost after their scripts have run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_connections_neither_double_nor_lose_a_lease() -> Result {
    let redis = Arc::new(Redis::start().await?);
    let world = World::on(&redis, "cuts");
    let newest = Arc::new(Mutex::new(0));
    let mut tasks = Vec::new();
    for _ in 0..4 {
        let (lock, newest) = (world.client().await?.lock("x")?, newest.clone());
        tasks.push(tokio::spawn(async move {
            for _ in 0..50 {
                let lease = got(lock.acquire_timeout(SOON).await?)?;
                let mut newest = newest.try_lock()?; // fails when somebody else is in here
                ensure!(
                    lease.fencing_token() > *newest,
                    "{} after {newest}",
                    lease.fencing_token()
                );
                *newest = lease.fencing_token();
                drop(newest);
                lease.release().await?;
            }
            Ok(())
        }));
    }
    let cutter = {
        let redis = redis.clone();
        tokio::spawn(async move {
            let mut pause = tokio::time::interval(Duration::from_millis(110));
            while redis
                .cli(&["CLIENT", "KILL", "TYPE", "pubsub", "SKIPME", "yes"])
                .await
                .is_ok()
            {
                pause.tick().await;
            }
        })
    };
    for task in tasks {
        task.await??;
    }
    cutter.abort();
    gone(&world.client().await?, &world.object(Kind::Lock, "x")?).await
}

/// Number of the next script calls that lose their reply, one after the other: the first may be answered that the server
/// does not know the script, and is then called again.
const LOSSES: u64 = 3;

#[tokio::test]
async fn an_acquisition_whose_reply_is_lost_is_granted_once() -> Result {
    let redis = Redis::start().await?;
    let world = World::on(&redis, "lost-acquire");
    let (proxy, far) = world.behind_proxy(&redis).await?;
    let (client, beside) = (far.client().await?, world.client().await?);
    for nth in 1..=LOSSES {
        proxy.lose_reply(nth);
        let lease = got(client.lock("x")?.try_acquire().await?)?;
        let seen = look(&beside, lease.object()).await?;
        assert_eq!((seen.held, seen.last_fence), (1, lease.fencing_token()), "{nth}");
        // Later losses hit the release.
        lease.release().await?;
        gone(&beside, &world.object(Kind::Lock, "x")?).await?;
        ensure!(proxy.lost_replies() >= 1, "{nth}: no reply was lost");
    }
    Ok(())
}

#[tokio::test]
async fn a_place_in_the_queue_whose_reply_is_lost_is_taken_once() -> Result {
    let redis = Redis::start().await?;
    let world = World::on(&redis, "lost-queue");
    let (proxy, far) = world.behind_proxy(&redis).await?;
    let (client, beside) = (far.client().await?, world.client().await?);
    let object = world.object(Kind::Lock, "x")?;
    client.lock("warm-up")?.acquire().await?.release().await?;
    let gate = beside.lock("x")?.acquire().await?;
    proxy.lose_reply(1);
    let lock = client.lock("x")?;
    let waiter = tokio::spawn(async move { lock.acquire().await });
    eventually("the reply to be lost and a new connection", SOON, async || {
        ensure!(proxy.lost_replies() == 1 && proxy.connections() == 2, "not yet");
        Ok(())
    })
    .await?;
    waiting(&beside, &object, 1).await?;
    gate.release().await?;
    let lease = tokio::time::timeout(SOON, waiter).await???;
    let seen = look(&beside, &object).await?;
    assert_eq!(
        (seen.held, seen.waiting, seen.last_fence),
        (1, 0, lease.fencing_token())
    );
    lease.release().await?;
    gone(&beside, &object).await
}

#[tokio::test]
async fn a_release_whose_reply_is_lost_is_a_release_and_does_not_touch_the_next_holder() -> Result {
    let redis = Redis::start().await?;
    let world = World::on(&redis, "lost-release");
    let (proxy, far) = world.behind_proxy(&redis).await?;
    let (client, beside) = (far.client().await?, world.client().await?);
    let object = world.object(Kind::Lock, "x")?;
    client.lock("x")?.acquire().await?.release().await?;
    let lease = client.lock("x")?.acquire().await?;
    let lock = beside.lock("x")?;
    let next = tokio::spawn(async move { lock.acquire().await });
    waiting(&beside, &object, 1).await?;
    proxy.lose_reply(1);
    lease.release().await?;
    assert_eq!(proxy.lost_replies(), 1);
    let next = tokio::time::timeout(SOON, next).await???;
    let seen = look(&beside, &object).await?;
    assert_eq!((seen.held, seen.holders[0].fence), (1, next.fencing_token()));
    next.renew().await?;
    next.release().await?;
    gone(&beside, &object).await
}

#[tokio::test]
async fn a_renewal_whose_reply_is_lost_keeps_the_lease() -> Result {
    let redis = Redis::start().await?;
    let world = World::on(&redis, "lost-renewal");
    let (proxy, far) = world.behind_proxy(&redis).await?;
    let client = far.client().await?;
    let lease = client.lock("x")?.acquire().await?;
    lease.renew().await?;
    let before = lease.deadline();
    proxy.lose_reply(1);
    lease.renew().await?;
    assert_eq!((proxy.lost_replies(), lease.state()), (1, LeaseState::Held));
    ensure!(lease.deadline() > before, "it was not renewed");
    lease.release().await?;
    Ok(())
}

#[tokio::test]
async fn a_notification_whose_reply_is_lost_wakes_no_other_waiter() -> Result {
    let redis = Redis::start().await?;
    let world = World::on(&redis, "lost-notify");
    let (proxy, far) = world.behind_proxy(&redis).await?;
    let client = far.client().await?;
    let lock = client.lock("x")?;
    let changed = lock.condvar("changed")?;
    let mut waits = Vec::new();
    for _ in 0..3 {
        let beside = world.client().await?.lock("x")?;
        let (condition, lease) = (beside.condvar("changed")?, beside.acquire().await?);
        waits.push(tokio::spawn(async move {
            condition.wait(lease).await?.release().await
        }));
        // It waits when another client can take the lock.
        lock.acquire().await?.release().await?;
    }
    let lease = lock.acquire().await?;
    assert_eq!(changed.notify(&lease, 1).await?, 1);
    proxy.lose_reply(1);
    assert_eq!(changed.notify(&lease, 1).await?, 1, "as it was the first time");
    assert_eq!(proxy.lost_replies(), 1);
    lease.release().await?;
    // The third is still there to be woken.
    let lease = lock.acquire().await?;
    assert_eq!(changed.notify(&lease, 5).await?, 1);
    lease.release().await?;
    for wait in waits {
        tokio::time::timeout(SOON, wait).await???;
    }
    gone(&client, &world.object(Kind::Lock, "x")?).await
}

#[tokio::test]
async fn a_wait_whose_reply_is_lost_waits_once() -> Result {
    let redis = Redis::start().await?;
    let world = World::on(&redis, "lost-wait");
    let (proxy, far) = world.behind_proxy(&redis).await?;
    let (client, beside) = (far.client().await?, world.client().await?);
    let notifier = beside.lock("x")?;
    for nth in 1..=LOSSES {
        let lock = client.lock("x")?;
        let (condition, lease) = (lock.condvar("changed")?, lock.acquire().await?);
        proxy.lose_reply(nth);
        let wait = tokio::spawn(async move { condition.wait(lease).await });
        let lease = notifier.acquire().await?;
        assert_eq!(notifier.condvar("changed")?.notify(&lease, 5).await?, 1, "{nth}");
        lease.release().await?;
        let lease = tokio::time::timeout(SOON, wait).await???;
        let seen = look(&beside, lease.object()).await?;
        assert_eq!(
            (seen.held, seen.holders[0].fence),
            (1, lease.fencing_token()),
            "{nth}"
        );
        lease.release().await?;
        gone(&beside, &world.object(Kind::Lock, "x")?).await?;
    }
    ensure!(proxy.lost_replies() >= 1, "no reply was lost");
    Ok(())
}

#[tokio::test]
async fn a_downgrade_whose_reply_is_lost_leaves_one_reader() -> Result {
    let redis = Redis::start().await?;
    let world = World::on(&redis, "lost-downgrade");
    let (proxy, far) = world.behind_proxy(&redis).await?;
    let (client, beside) = (far.client().await?, world.client().await?);
    for nth in 1..=LOSSES {
        let writing = client.rw_lock("x")?.write().await?;
        proxy.lose_reply(nth);
        let reading = writing.downgrade().await?;
        let other = got(beside.rw_lock("x")?.try_read().await?)?;
        assert_eq!(look(&beside, reading.object()).await?.held, 2, "{nth}");
        other.release().await?;
        reading.release().await?;
        gone(&beside, &world.object(Kind::RwLock, "x")?).await?;
    }
    ensure!(proxy.lost_replies() >= 1, "no reply was lost");
    Ok(())
}

#[tokio::test]
async fn a_readmission_whose_reply_is_lost_lets_the_holder_in_once() -> Result {
    let redis = Redis::start().await?;
    let world = World::on(&redis, "lost-readmission");
    let (proxy, far) = world.behind_proxy(&redis).await?;
    let (client, beside) = (far.client().await?, world.client().await?);
    let object = world.object(Kind::Semaphore, "x")?;
    let again = Declaration {
        floor: 0,
        recovery: Some(Duration::ZERO),
        lease: Duration::from_secs(3),
        max_hold: None,
        capacity: Capacity::Permits(3),
    };
    beside.control().declare(&object, &again).await?;
    let semaphore = client.semaphore("x")?;
    eventually("the first recovery to end", SOON, async || {
        got(semaphore.try_acquire().await?)
    })
    .await?
    .release()
    .await?;
    let lease = semaphore.acquire_many(2).await?;
    // The renewal that finds out, and the readmission, which the server may not know yet.
    for nth in 1..=4 {
        redis.cli(&["FLUSHDB"]).await?;
        beside.control().declare(&object, &again).await?;
        proxy.lose_reply(nth);
        lease.renew().await?;
        let seen = eventually("the holder to be let in again", SOON, async || {
            let seen = look(&beside, &object).await?;
            ensure!(seen.held == 2 && lease.state() == LeaseState::Held, "{seen:?}");
            Ok(seen)
        })
        .await?;
        assert_eq!(
            (seen.holders.len(), seen.holders[0].fence),
            (1, lease.fencing_token()),
            "{nth}"
        );
    }
    ensure!(
        proxy.lost_replies() >= 2,
        "{} replies were lost",
        proxy.lost_replies()
    );
    lease.release().await?;
    Ok(())
}

#[tokio::test]
async fn an_acquisition_that_arrives_after_its_own_release_takes_nothing() -> Result {
    let redis = Redis::start().await?;
    let world = World::on(&redis, "late-copy");
    // A service without `CLIENT KILL` does not keep this: see `managed`.
    let (proxy, far) = world.behind_strict_proxy(&redis, Strict::NOTHING).await?;
    let client = far.client_with_timeout(Duration::from_millis(500)).await?;
    let lock = client.lock("x")?;
    got(lock.try_acquire().await?)?.release().await?;
    let listed = redis.cli(&["CLIENT", "LIST", "TYPE", "PUBSUB"]).await?;
    let old = listed.split(' ').next().context("no connection")?;

    proxy.hold_back();
    // Sent once more over a new connection, as there is no answer.
    let lease = got(lock.acquire_timeout(SOON).await?)?;
    let object = lease.object().clone();
    lease.release().await?;
    proxy.pass_on();
    let beside = world.client().await?;
    eventually("the old connection to be read to its end", SOON, async || {
        let listed = redis.cli(&["CLIENT", "LIST"]).await?;
        ensure!(
            !listed.lines().any(|line| line.starts_with(&format!("{old} "))),
            "{listed}"
        );
        Ok(())
    })
    .await?;
    let left = beside.control().look(&object, 1).await?;
    ensure!(left.is_none(), "the late copy has taken it: {left:?}");
    Ok(())
}
