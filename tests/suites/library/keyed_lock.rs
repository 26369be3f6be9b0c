//! Keyed locks, one and many. K1 to K12 are what Superset's lock does; the module's head in `lib/src/keyed_lock.rs`
//! describes Tenure's behaviour. The keys themselves are tested in `lib/src/params.rs`.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tenure::{Client, Error, Kind, Options, Params};
use tenure_tests::{Redis, Result, ensure, eventually};

use super::support::{Doomed, SOON, World, gone, got, look, on_both, scripts_called, waiting};

fn superset() -> Params {
    Params::superset().with("user_id", 42).with("database_id", 3)
}

const SUPERSET_KEY: &str = "f20b6c99-39e6-592a-a977-a51b6da602b4";

async fn k1_the_guard_shows_the_key_and_the_lock_can_be_read(world: World) -> Result {
    let client = world.client().await?;
    let lock = client
        .keyed_lock("refresh_oauth2_token", superset())?
        .with(Options::new().reason("token"));
    let lease = lock.acquire().await?;
    assert_eq!(lease.key().to_string(), SUPERSET_KEY);
    assert_eq!(lock.key(), lease.key());
    // Superset 6.1's name of its entry, without the prefix.
    let name = format!("refresh_oauth2_token:{SUPERSET_KEY}");
    assert_eq!(lease.object(), &world.object(Kind::Lock, &name)?);
    let snapshot = look(&client, lock.object()).await?;
    assert_eq!(snapshot.holders[0].reason, "token");
    assert_eq!(snapshot.holders[0].fence, lease.fencing_token());
    // It is the lock of that name, and no other.
    assert!(client.lock(&name)?.try_acquire().await?.is_none());
    lease.release().await?;
    lock.as_lock().acquire().await?.release().await?;
    Ok(())
}

async fn k7_of_many_that_try_at_once_one_gets_it(world: World) -> Result {
    let mut tries = Vec::new();
    for _ in 0..10 {
        let lock = world.client().await?.keyed_lock("report", [("year", 2024)])?;
        tries.push(tokio::spawn(async move { lock.try_acquire().await }));
    }
    let mut leases = Vec::new();
    for tried in tries {
        leases.extend(tried.await??);
    }
    assert_eq!(leases.len(), 1);
    Ok(())
}

async fn k8_a_taken_lock_is_reported_at_once_or_waited_for(world: World) -> Result {
    let (one, other) = (world.client().await?, world.client().await?);
    let lease = one.keyed_lock("report", [("year", 2024)])?.acquire().await?;
    let lock = other.keyed_lock("report", [("year", 2024)])?;
    assert!(lock.try_acquire().await?.is_none());
    assert!(lock.acquire_timeout(Duration::from_millis(30)).await?.is_none());
    let object = lock.object().clone();
    let waiter = tokio::spawn(async move { lock.acquire().await });
    waiting(&one, &object, 1).await?;
    let before = lease.fencing_token();
    lease.release().await?;
    let lease = waiter.await??;
    assert!(lease.fencing_token() > before);
    lease.release().await?;
    gone(&one, &object).await
}

async fn k9_a_lease_is_thirty_seconds_and_renewed_and_a_dead_holders_ends(world: World) -> Result {
    let client = world.client().await?;
    let lease = client.keyed_lock("report", [("year", 2024)])?.acquire().await?;
    let left = lease
        .deadline()
        .saturating_duration_since(tokio::time::Instant::now());
    assert!(
        left > Duration::from_secs(25) && left <= Duration::from_secs(30),
        "{left:?}"
    );
    let short = Options::new().lease(Duration::from_secs(1));
    let renewed = client
        .keyed_lock("report", [("year", 2025)])?
        .with(short.clone())
        .acquire()
        .await?;
    let first = renewed.deadline();
    eventually("renewals beyond the first lease", SOON, async || {
        ensure!(renewed.deadline() > first + Duration::from_secs(1), "not yet");
        Ok(())
    })
    .await?;
    renewed.check()?;

    let mut doomed = Doomed::start(&world).await?;
    let theirs = doomed
        .client()?
        .keyed_lock("report", [("year", 2026)])?
        .with(short);
    let dead = doomed.spawn(async move { theirs.acquire().await })?.await??;
    doomed.crash_with(dead.into_lease());
    let mine = client.keyed_lock("report", [("year", 2026)])?;
    got(mine.acquire_timeout(SOON).await?)?.release().await?;
    Ok(())
}

async fn k10_not_reentrant_and_others_are_independent(world: World) -> Result {
    let client = world.client().await?;
    let _held = client
        .keyed_lock("report", Params::new().with("a", 1).with("b", 2))?
        .acquire()
        .await?;
    let same = client.keyed_lock("report", Params::new().with("b", 2).with("a", 1))?;
    assert!(same.try_acquire().await?.is_none());
    for (namespace, params) in [
        ("report", Params::new().with("a", 1)),
        ("report", Params::new().with("a", 1).with("b", "2")),
        ("report", Params::superset().with("b", 2).with("a", 1)),
        ("reports", Params::new().with("a", 1).with("b", 2)),
        ("report", Params::new()),
    ] {
        let lock = client.keyed_lock(namespace, params)?;
        got(lock.try_acquire().await?)?.release().await?;
    }
    assert_eq!(
        client.keyed_lock("cache", Params::new())?.key().to_string(),
        "b61a4184-2283-5f3c-99bd-45142d664e47"
    );
    // In another Kubernetes namespace it is another lock under the same key.
    let elsewhere = World::shared("k10-elsewhere").await?.client().await?;
    let lock = elsewhere.keyed_lock("report", Params::new().with("a", 1).with("b", 2))?;
    assert_eq!(lock.key(), same.key());
    got(lock.try_acquire().await?)?.release().await?;
    Ok(())
}

async fn k11_releasing_a_lost_lease_is_an_error_and_does_not_affect_the_next_holder(world: World) -> Result {
    let (one, other) = (world.client().await?, world.client().await?);
    let lock = one.keyed_lock("report", [("year", 2024)])?;
    let lease = lock.acquire().await?;
    let token = look(&other, lock.object()).await?.holders[0].token.clone();
    other
        .control()
        .reclaim(lock.object(), &[token], "a test takes it")
        .await?;
    let next = got(other
        .keyed_lock("report", [("year", 2024)])?
        .try_acquire()
        .await?)?;
    let error = lease.release().await.unwrap_err();
    assert!(matches!(error, Error::Lost { .. }), "{error}");
    next.check()?;
    assert_eq!(
        look(&other, lock.object()).await?.holders[0].fence,
        next.fencing_token()
    );
    Ok(())
}

#[tokio::test]
async fn k12_an_outage_does_not_look_like_a_lock_that_is_taken() -> Result {
    let mut redis = Redis::start().await?;
    let world = World::on(&redis, "k12");
    let client = Client::builder(world.url()?)
        .response_timeout(Duration::from_millis(300))
        .connect()
        .await?;
    let lock = client.keyed_lock("report", [("year", 2024)])?;
    let many = client.lock_set([("a", [("n", 1)]), ("a", [("n", 2)])])?;
    redis.kill9()?;
    let short = Duration::from_millis(200);
    for error in [
        lock.try_acquire().await.unwrap_err(),
        lock.acquire_timeout(short).await.unwrap_err(),
        many.try_acquire().await.unwrap_err(),
        many.acquire_timeout(short).await.unwrap_err(),
    ] {
        assert!(error.is_unreachable(), "{error}");
    }
    // A waiting request also waits for Redis.
    let waiter = tokio::spawn(async move { many.acquire().await });
    redis.start_again().await?;
    waiter.await??.release().await?;
    Ok(())
}

fn accounts(ids: &[u32]) -> Vec<(&'static str, [(&'static str, u32); 1])> {
    ids.iter().map(|id| ("account", [("id", *id)])).collect()
}

async fn many_are_all_or_nothing(world: World) -> Result {
    let (one, other) = (world.client().await?, world.client().await?);
    let many = one.lock_set(accounts(&[1, 2, 3, 4, 2, 1]))?;
    assert_eq!(many.keys().count(), 4);
    assert!(many.keys().zip(many.keys().skip(1)).all(|(a, b)| a < b));
    let leases = many.acquire().await?;
    assert_eq!(leases.len(), 4);
    leases.check()?;
    for id in 1..=4 {
        let lock = other.keyed_lock("account", [("id", id)])?;
        assert_eq!(
            leases
                .get(lock.key())
                .map(|lease| lease.object().clone())
                .as_ref(),
            Some(lock.object())
        );
        assert!(lock.try_acquire().await?.is_none());
    }
    leases.release().await?;

    // Whichever is taken, the others are free again at once.
    for taken in 1..=4 {
        let lease = other.keyed_lock("account", [("id", taken)])?.acquire().await?;
        assert!(many.try_acquire().await?.is_none());
        assert!(many.acquire_timeout(Duration::from_millis(20)).await?.is_none());
        for free in (1..=4).filter(|id| *id != taken) {
            let lock = other.keyed_lock("account", [("id", free)])?;
            got(lock.try_acquire().await?)?.release().await?;
        }
        lease.release().await?;
    }
    Ok(())
}

async fn many_need_at_least_one_key_and_good_options(world: World) -> Result {
    let client = world.client().await?;
    let error = client.lock_set(accounts(&[])).unwrap_err().to_string();
    assert!(error.starts_with("keys "), "{error}");
    let bad = client
        .lock_set(accounts(&[1, 2]))?
        .with(Options::new().lease(Duration::ZERO));
    let error = bad.acquire().await.unwrap_err().to_string();
    assert!(error.starts_with("lease "), "{error}");
    Ok(())
}

/// Each waits for what the other has, were it not for the order.
async fn many_in_any_order_never_wait_for_one_another(world: World) -> Result {
    let inside: Arc<HashMap<u32, AtomicBool>> =
        Arc::new((0..6).map(|id| (id, AtomicBool::default())).collect());
    let mut tasks = Vec::new();
    for task in 0_u32..6 {
        let (client, inside) = (world.client().await?, inside.clone());
        tasks.push(tokio::spawn(async move {
            for round in 0..25 {
                // Three of six, shifted and turned around.
                let mut ids: Vec<u32> = (0..3).map(|i| (task + round + i * (1 + round % 2)) % 6).collect();
                if task % 2 == 0 {
                    ids.reverse();
                }
                let leases = got(client.lock_set(accounts(&ids))?.acquire_timeout(SOON).await?)?;
                for id in &ids {
                    ensure!(!inside[id].swap(true, Ordering::SeqCst), "two hold {id}");
                }
                tokio::task::yield_now().await;
                leases.check()?;
                for id in &ids {
                    inside[id].store(false, Ordering::SeqCst);
                }
                leases.release().await?;
            }
            Ok(())
        }));
    }
    for task in tasks {
        task.await??;
    }
    Ok(())
}

async fn a_lock_that_is_lost_while_many_wait_is_acquired_again(world: World) -> Result {
    let (one, other) = (world.client().await?, world.client().await?);
    let many = one.lock_set(accounts(&[1, 2, 3]))?;
    let final_key = many.keys().last();
    let mut locks: Vec<_> = (1..=3)
        .map(|id| other.keyed_lock("account", [("id", id)]))
        .collect::<std::result::Result<_, _>>()?;
    locks.sort_by_key(tenure::KeyedLock::key);
    assert_eq!(Some(locks[2].key()), final_key);
    let held = locks[2].acquire().await?;
    let waiter = tokio::spawn(async move { many.acquire().await });
    waiting(&other, locks[2].object(), 1).await?;
    let first = look(&other, locks[0].object()).await?.holders[0].clone();
    other
        .control()
        .reclaim(locks[0].object(), &[first.token], "a test takes it")
        .await?;
    held.release().await?;
    let leases = waiter.await??;
    leases.check()?;
    let again = look(&other, locks[0].object()).await?.holders[0].clone();
    assert!(again.fence > first.fence);

    // A loss while all are held is reported.
    let lost = tokio::spawn(async move { (leases.lost().await, leases.check()) });
    other
        .control()
        .reclaim(locks[0].object(), &[again.token], "a test takes it")
        .await?;
    let (cause, check) = lost.await?;
    assert_eq!(cause, "a test takes it");
    assert!(matches!(check, Err(Error::Lost { .. })), "{check:?}");
    Ok(())
}

#[tokio::test]
async fn many_cost_a_command_each_when_free_and_three_at_most() -> Result {
    let redis = Redis::start().await?;
    let world = World::on(&redis, "many-cost");
    let (one, other) = (world.client().await?, world.client().await?);
    let many = one.lock_set(accounts(&[1, 2, 3, 4, 5, 6, 7, 8]))?;
    many.acquire().await?.release().await?; // loads the scripts
    let before = scripts_called(&redis).await?;
    many.acquire().await?.release().await?;
    assert_eq!(scripts_called(&redis).await? - before, 16);

    // The worst: the first is taken, so all behind it are released and asked for again.
    let first = many.keys().next().unwrap();
    let lock = (1..=8)
        .map(|id| other.keyed_lock("account", [("id", id)]))
        .find(|lock| lock.as_ref().is_ok_and(|lock| lock.key() == first))
        .unwrap()?;
    let held = lock.acquire().await?;
    let before = scripts_called(&redis).await?;
    let waiter = tokio::spawn(async move { many.acquire().await });
    let mut looks = 0;
    eventually("it to wait", SOON, async || {
        looks += 1;
        ensure!(look(&other, lock.object()).await?.waiting == 1, "not yet");
        Ok(())
    })
    .await?;
    held.release().await?;
    let _leases = waiter.await??;
    let sent = scripts_called(&redis).await? - before - looks - 1;
    assert!(sent <= 3 * 8, "{sent}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_dropped_at_any_await_leave_nothing() -> Result {
    let redis = Redis::start().await?;
    let world = World::on(&redis, "many-drop");
    let (client, other) = (world.client().await?, world.client().await?);
    let many = client.lock_set(accounts(&[1, 2, 3, 4]))?;
    for patience_us in (0..6000).step_by(30) {
        let taken = 1 + u32::try_from(patience_us / 30 % 5)?; // the fifth: none
        let held = other.keyed_lock("account", [("id", taken)])?.acquire().await?;
        let acquire = tokio::time::timeout(Duration::from_micros(patience_us), many.acquire());
        drop(acquire.await);
        held.release().await?;
    }
    eventually("no key to be left", SOON, async || {
        let keys = redis.cli(&["DBSIZE"]).await?;
        ensure!(keys.trim() == "0", "{keys}");
        Ok(())
    })
    .await
}

on_both! {
    k1_the_guard_shows_the_key_and_the_lock_can_be_read,
    k7_of_many_that_try_at_once_one_gets_it,
    k8_a_taken_lock_is_reported_at_once_or_waited_for,
    k9_a_lease_is_thirty_seconds_and_renewed_and_a_dead_holders_ends,
    k10_not_reentrant_and_others_are_independent,
    k11_releasing_a_lost_lease_is_an_error_and_does_not_affect_the_next_holder,
    many_are_all_or_nothing,
    many_need_at_least_one_key_and_good_options,
    many_in_any_order_never_wait_for_one_another,
    a_lock_that_is_lost_while_many_wait_is_acquired_again,
}
