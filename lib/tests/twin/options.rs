//! Each option, in each way to acquire.

use std::{pin::Pin, time::Duration};

use tenure::{Client, Error, Kind, Lease, Memory, ObjectRef, Options};
use tokio::time::Instant;

use super::{Result, client, declare_semaphore, object, pool, settle};

const LEASE: Duration = Duration::from_secs(2);

type Taken = Pin<Box<dyn Future<Output = std::result::Result<Lease, Error>> + Send>>;

fn some<T>(got: std::result::Result<Option<T>, Error>) -> std::result::Result<T, Error> {
    got?.ok_or(Error::Unreachable {
        reason: "busy".to_owned(),
    })
}

const WAYS: [&str; 15] = [
    "acquire",
    "acquire_timeout",
    "try_acquire",
    "by push",
    "take_over",
    "adopt",
    "condition, notified",
    "condition, time over",
    "keyed",
    "several",
    "read",
    "write, downgraded",
    "semaphore",
    "pool",
    "pool, by push",
];

/// Acquires a lease in this way, and returns its object.
#[allow(clippy::too_many_lines)] // one arm for each way
async fn take(way: &str, a: &Client, b: &Client, options: Options) -> Result<(ObjectRef, Taken)> {
    let lock = a.lock("x")?.with(options.clone());
    let x = object(Kind::Lock, "x")?;
    let minute = Duration::from_secs(60);
    Ok(match way {
        "acquire" => (x, Box::pin(async move { lock.acquire().await })),
        "acquire_timeout" => (
            x,
            Box::pin(async move { some(lock.acquire_timeout(minute).await) }),
        ),
        "try_acquire" => (x, Box::pin(async move { some(lock.try_acquire().await) })),
        "take_over" => {
            std::mem::forget(b.lock("x")?.acquire().await?);
            (x, Box::pin(async move { some(lock.take_over("urgent").await) }))
        }
        "adopt" => {
            let secret = b.lock("x")?.with(options.replicas(0)).acquire().await?.detach();
            (x, Box::pin(async move { some(lock.adopt(&secret).await) }))
        }
        "by push" => {
            let gate = b.lock("x")?.acquire().await?;
            (
                x,
                Box::pin(async move {
                    let wait = tokio::spawn(async move { lock.acquire().await });
                    settle().await;
                    drop(gate);
                    wait.await.unwrap()
                }),
            )
        }
        "condition, notified" | "condition, time over" => {
            // The queue entry has none of the options.
            let held = a.lock("x")?.acquire().await?;
            let condition = lock.condvar("ready")?;
            let other = b.lock("x")?;
            let notify = way == "condition, notified";
            (
                x,
                Box::pin(async move {
                    let wait = tokio::spawn(async move { condition.wait_timeout(held, LEASE).await });
                    settle().await;
                    let gate = other.acquire().await?;
                    if notify {
                        other.condvar("ready")?.notify(&gate, 1).await?;
                    } else {
                        tokio::time::sleep(LEASE).await;
                    }
                    drop(gate);
                    Ok(wait.await.unwrap()?.0)
                }),
            )
        }
        "keyed" => {
            let keyed = a.keyed_lock("k", [("id", 1)])?.with(options);
            let of = keyed.object().clone();
            (
                of,
                Box::pin(async move { Ok(keyed.acquire().await?.into_lease()) }),
            )
        }
        "several" => {
            let of = a.keyed_lock("k", [("id", 1)])?.object().clone();
            let many = a.lock_set([("k", [("id", 1)])])?.with(options);
            (
                of,
                Box::pin(async move { Ok(many.acquire().await?.into_leases().remove(0).into_lease()) }),
            )
        }
        "read" | "write, downgraded" => {
            let (rw, read) = (a.rw_lock("r")?.with(options), way == "read");
            (
                object(Kind::RwLock, "r")?,
                Box::pin(async move {
                    if read {
                        rw.read().await
                    } else {
                        rw.write().await?.downgrade().await
                    }
                }),
            )
        }
        "semaphore" => {
            let semaphore = a.semaphore("s")?.with(options);
            (
                object(Kind::Semaphore, "s")?,
                Box::pin(async move { semaphore.acquire().await }),
            )
        }
        "pool" => {
            let seats = a.lock_pool("p")?.with(options);
            (
                object(Kind::Pool, "p")?,
                Box::pin(async move { Ok(seats.acquire().await?.into_lease()) }),
            )
        }
        _ => {
            let gate = b.lock_pool("p")?.acquire().await?;
            let seats = a.lock_pool("p")?.with(options);
            (
                object(Kind::Pool, "p")?,
                Box::pin(async move {
                    let wait = tokio::spawn(async move { seats.acquire().await });
                    settle().await;
                    drop(gate);
                    Ok(wait.await.unwrap()?.into_lease())
                }),
            )
        }
    })
}

async fn world() -> Result<(Client, Client)> {
    let memory = Memory::seeded(90);
    let (a, b) = (client(&memory, "a").await?, client(&memory, "b").await?);
    declare_semaphore(&b, "s", 1).await?;
    b.control()
        .declare(&object(Kind::Pool, "p")?, &pool(&["one"]))
        .await?;
    Ok((a, b))
}

#[tokio::test(start_paused = true)]
async fn reason_longest_hold_and_grace_count_in_each_way_to_acquire() -> Result {
    let (max_hold, grace) = (LEASE * 3, LEASE * 5);
    let options = Options::new()
        .lease(LEASE)
        .max_hold(max_hold)
        .grace(grace)
        .reason("why");
    for way in WAYS {
        let (a, b) = world().await?;
        let (object, taken) = take(way, &a, &b, options.clone()).await?;
        let lease = taken.await.map_err(|error| format!("{way}: {error}"))?;
        let granted = Instant::now();
        let seen = b.control().look(&object, 2).await?.ok_or("not there")?;
        assert_eq!(seen.holders[0].reason, "why", "{way}");
        lease.lost().await;
        let held = granted.elapsed();
        assert!(held <= max_hold && held > LEASE, "{way}: {held:?}");
        // Given back by its owner, it would have none.
        tokio::time::sleep(LEASE).await;
        let seen = b.control().look(&object, 2).await?;
        drop(lease);
        let kept = seen.is_some_and(|seen| seen.holders.iter().any(|h| h.token.starts_with("grace-")));
        assert!(kept, "{way}: no grace");
    }
    Ok(())
}

/// The twin has no replicas.
#[tokio::test(start_paused = true)]
async fn replicas_count_in_each_way_to_acquire() -> Result {
    for way in WAYS {
        let (a, b) = world().await?;
        let (object, taken) = take(way, &a, &b, Options::new().replicas(1)).await?;
        let outcome = taken.await;
        assert!(
            matches!(outcome, Err(Error::NotReplicated { .. })),
            "{way}: {outcome:?}"
        );
        settle().await;
        let seen = b.control().look(&object, 2).await?;
        assert!(seen.is_none_or(|seen| seen.held == 0), "{way}: it is held");
    }
    Ok(())
}

/// A waiter that is notified, or whose timeout has passed, enters the lock's queue at its priority.
#[tokio::test(start_paused = true)]
async fn priority_counts_after_a_wait_for_a_condition() -> Result {
    for notified in [true, false] {
        let (a, b) = world().await?;
        let lock = a.lock("x")?.with(Options::new().priority(7));
        let condition = lock.condvar("ready")?;
        let held = lock.acquire().await?;
        let woken = tokio::spawn(async move { condition.wait_timeout(held, LEASE).await });
        settle().await;
        let gate = b.lock("x")?.acquire().await?;
        let other = b.lock("x")?.with(Options::new().priority(6));
        let earlier = tokio::spawn(async move { other.acquire().await });
        settle().await;
        if notified {
            b.lock("x")?.condvar("ready")?.notify(&gate, 1).await?;
        } else {
            tokio::time::sleep(LEASE).await;
        }
        settle().await;
        gate.release().await?;
        let (lease, heard) = woken.await??;
        assert_eq!((heard, earlier.is_finished()), (notified, false));
        lease.release().await?;
        earlier.await??.release().await?;
    }
    Ok(())
}
