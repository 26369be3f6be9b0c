//! Promise 8, at each await: a future is dropped after every number of polls up to its end, and nothing is left. The
//! dropped operations are listed in the table of [`operations`].

mod operations;

use std::{future::poll_fn, pin::pin, task::Poll, time::Duration};

use tenure::{
    Client, Kind, Memory,
    memory::{Fault, Message},
};

use super::{Result, client, declare_semaphore, object, settle};

#[derive(Debug, Clone, Copy)]
enum Drop {
    /// Right after the poll.
    AtOnce,
    /// When it is woken again: its result has arrived, and is not polled.
    WhenWoken,
}

/// Polls the future that many times at most. None: it was dropped before its end.
async fn polled<F: Future>(future: F, times: usize, drop: Drop) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut done = 0;
    poll_fn(|context| {
        if done == times {
            return Poll::Ready(None);
        }
        done += 1;
        match future.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if done == times && matches!(drop, Drop::AtOnce) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Calls and replies take a millisecond, and some get lost, so that there are awaits to be dropped at.
fn on_the_way(memory: &Memory, lose: Option<u64>) {
    let mut random = fastrand::Rng::with_seed(lose.unwrap_or_default());
    memory.set_faults(move |_, message| match message {
        Message::Reply { .. } | Message::Call { .. } if lose.is_some() && random.u8(..3) == 0 => Fault::Cut,
        _ => Fault::Delay(Duration::from_millis(1)),
    });
}

/// Tries `attempt` with every number of polls, in a world of its own each, until it comes to its end. Another client may
/// hold the object, and releases it during the attempt.
async fn at_every_await<F>(attempt: impl Fn(Client) -> F) -> Result
where
    F: Future<Output = Result>,
{
    // Each time, other calls and replies are lost.
    for lose in [None, Some(1)] {
        for (drop, held) in [
            (Drop::AtOnce, false),
            (Drop::AtOnce, true),
            (Drop::WhenWoken, false),
            (Drop::WhenWoken, true),
        ] {
            for times in 1.. {
                assert!(times < 500, "it never ends");
                let how = format!("after {times} polls, {drop:?}, losses {lose:?}, held {held}");
                let memory = Memory::seeded(1);
                let (a, b) = (client(&memory, "a").await?, client(&memory, "b").await?);
                let gate = if held { Some(take_all(&b).await?) } else { None };
                on_the_way(&memory, lose);
                let release = async {
                    tokio::time::sleep(Duration::from_millis(7)).await;
                    std::mem::drop(gate);
                };
                let (ended, ()) = tokio::join!(polled(attempt(a.clone()), times, drop), release);
                memory.clear_faults();
                nothing_is_left(&memory, &b, &how).await?;
                match ended {
                    None => {}
                    Some(Ok(())) => break,
                    // A call that does not wait does not wait for Redis either.
                    Some(Err(error)) if lose.is_some() && unreachable(&*error) => break,
                    Some(Err(error)) => return Err(format!("{how}: {error}").into()),
                }
            }
        }
    }
    Ok(())
}

fn unreachable(error: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    error
        .downcast_ref::<tenure::Error>()
        .is_some_and(tenure::Error::is_unreachable)
}

/// State that the attempts use.
async fn take_all(client: &Client) -> Result<impl Sized + use<>> {
    Ok((
        client.lock("x")?.acquire().await?,
        client.rw_lock("r")?.write().await?,
        operations::semaphore(client)?.acquire().await?,
        client.keyed_lock("k", [("id", 2)])?.acquire().await?,
    ))
}

/// Checks that no lease and no queue entry is left, far sooner than any would have expired. A pool that a program keeps and
/// a value stay until they are taken away.
async fn nothing_is_left(memory: &Memory, other: &Client, how: &str) -> Result {
    // A client that has lost one connection after the other waits for a second before the next.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut keys = memory.keys();
    keys.retain(|key| !key.contains("/pool/") && !key.contains("/register/"));
    assert!(keys.is_empty(), "{how}: {keys:?}");
    let pool = object(Kind::Pool, "p")?;
    if let Some(pool) = other.control().look(&pool, 1).await? {
        assert_eq!((pool.held, pool.waiting), (0, 0), "{how}");
        other.lock_pool("p")?.clear().await?;
    }
    other.register("v")?.delete().await?;
    // As long as requests, and pieces of an assignment, are remembered.
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(memory.keys(), Vec::<String>::new(), "{how}");
    Ok(())
}

/// The first waiter is dropped somewhere between asking and having: what it was notified of is for the second one.
#[tokio::test(start_paused = true)]
async fn a_notification_to_a_dropped_waiter_goes_to_the_next() -> Result {
    let pause = Duration::from_millis(50);
    for drop in [Drop::AtOnce, Drop::WhenWoken] {
        for times in 1.. {
            let memory = Memory::seeded(1);
            let (a, b, c) = (
                client(&memory, "a").await?,
                client(&memory, "b").await?,
                client(&memory, "c").await?,
            );
            on_the_way(&memory, None);
            let first = async {
                let lock = a.lock("x")?;
                let lease = lock.acquire().await?;
                Result::Ok(polled(lock.condvar("c")?.wait(lease), times, drop).await)
            };
            let second = async {
                tokio::time::sleep(pause).await;
                let lock = b.lock("x")?;
                let lease = lock.acquire().await?;
                Result::Ok(tokio::time::timeout(pause * 10, lock.condvar("c")?.wait(lease)).await)
            };
            let notify = async {
                tokio::time::sleep(pause * 2).await;
                let lock = c.lock("x")?;
                let lease = lock.acquire().await?;
                let notified = lock.condvar("c")?.notify(&lease, 1).await?;
                lease.release().await?;
                Result::Ok(notified)
            };
            let (first, second, notified) = tokio::join!(first, second, notify);
            let (first, second) = (first?.transpose()?, second?);
            assert_eq!(notified?, 1);
            assert_ne!(
                first.is_some(),
                second.is_ok(),
                "one of the two wakes up: after {times} polls, {drop:?}"
            );
            let ended = first.is_some();
            std::mem::drop((first, second));
            memory.clear_faults();
            nothing_is_left(&memory, &c, "notified").await?;
            if ended {
                break;
            }
        }
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn an_acquisition_of_an_object_that_is_declared_late() -> Result {
    for drop in [Drop::AtOnce, Drop::WhenWoken] {
        for times in 1.. {
            let memory = Memory::seeded(1);
            let (a, b) = (client(&memory, "a").await?, client(&memory, "b").await?);
            on_the_way(&memory, None);
            let late = async {
                tokio::time::sleep(Duration::from_millis(250)).await;
                declare_semaphore(&b, "x", 1).await
            };
            let semaphore = a.semaphore("x")?;
            let (ended, declared) = tokio::join!(polled(semaphore.acquire(), times, drop), late);
            let ended = ended.transpose()?;
            let snapshot = b.control().look(&declared?, 1).await?.unwrap();
            let finished = ended.is_some();
            std::mem::drop(ended);
            settle().await;
            tokio::time::sleep(Duration::from_secs(1)).await;
            let after = b
                .control()
                .look(&object(Kind::Semaphore, "x")?, 1)
                .await?
                .unwrap();
            assert_eq!(
                (after.held, after.waiting),
                (0, 0),
                "after {times} polls, {drop:?}"
            );
            if finished {
                assert_eq!(snapshot.held, 1);
                break;
            }
        }
    }
    Ok(())
}
