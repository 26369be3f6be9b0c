//! Promise 8, at each await: a future is dropped after every number of polls up to its end, and nothing is left.

use std::{future::poll_fn, pin::pin, task::Poll, time::Duration};

use tenure::{
    Client, Memory,
    memory::{Fate, Passage},
};

use super::{Result, client, declare_semaphore, settle};

#[derive(Debug, Clone, Copy)]
enum Drop {
    /// Right after the poll.
    AtOnce,
    /// When it is woken again: what it waited for has come, and nobody looks at it.
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
fn on_the_way(memory: &Memory, lose: bool) {
    let mut random = fastrand::Rng::with_seed(1);
    memory.set_faults(move |_, passage| match passage {
        Passage::Reply { .. } | Passage::Call { .. } if lose && random.u8(..3) == 0 => Fate::Cut,
        _ => Fate::Delay(Duration::from_millis(1)),
    });
}

/// Tries `attempt` with every number of polls, in a world of its own each, until it comes to its end.
async fn at_every_await<F>(attempt: impl Fn(Client, bool) -> F) -> Result
where
    F: Future<Output = Result<()>>,
{
    for (lose, drop) in [
        (false, Drop::AtOnce),
        (false, Drop::WhenWoken),
        (true, Drop::AtOnce),
        (true, Drop::WhenWoken),
    ] {
        for held in [false, true] {
            let mut times = 0;
            loop {
                times += 1;
                assert!(times < 200, "it never ends");
                let memory = Memory::seeded(1);
                let (a, b) = (client(&memory, "a").await?, client(&memory, "b").await?);
                let gate = if held {
                    Some(b.lock("x")?.acquire().await?)
                } else {
                    None
                };
                on_the_way(&memory, lose);
                let release = async {
                    // Somewhere in the midst of the attempts.
                    tokio::time::sleep(Duration::from_millis(7)).await;
                    std::mem::drop(gate);
                };
                let attempt = polled(attempt(a.clone(), held), times, drop);
                let (ended, ()) = tokio::join!(attempt, release);
                memory.clear_faults();
                // Far sooner than any lease or place would have ended by itself.
                tokio::time::sleep(Duration::from_secs(1)).await;
                assert!(
                    memory.keys().is_empty(),
                    "after {times} polls, {drop:?}, losses {lose}, held {held}: {:?}",
                    memory.keys()
                );
                if let Some(ended) = ended {
                    ended?;
                    break;
                }
            }
        }
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn an_acquisition() -> Result {
    at_every_await(async |client, _| {
        drop(client.lock("x")?.acquire().await?);
        Ok(())
    })
    .await
}

#[tokio::test(start_paused = true)]
async fn an_acquisition_that_runs_out_of_time() -> Result {
    at_every_await(async |client, _| {
        drop(
            client
                .lock("x")?
                .acquire_timeout(Duration::from_millis(5))
                .await?,
        );
        Ok(())
    })
    .await
}

#[tokio::test(start_paused = true)]
async fn a_try() -> Result {
    at_every_await(async |client, held| {
        let lease = client.lock("x")?.try_acquire().await?;
        assert!(lease.is_none() || !held);
        Ok(())
    })
    .await
}

#[tokio::test(start_paused = true)]
async fn a_release() -> Result {
    at_every_await(async |client, _| Ok(client.lock("x")?.acquire().await?.release().await?)).await
}

#[tokio::test(start_paused = true)]
async fn an_acquisition_of_what_is_declared_late() -> Result {
    for drop in [Drop::AtOnce, Drop::WhenWoken] {
        for times in 1.. {
            let memory = Memory::seeded(1);
            let (a, b) = (client(&memory, "a").await?, client(&memory, "b").await?);
            on_the_way(&memory, false);
            let late = async {
                tokio::time::sleep(Duration::from_millis(250)).await;
                declare_semaphore(&b, "x", 1).await
            };
            let semaphore = a.semaphore("x")?;
            let (ended, object) = tokio::join!(polled(semaphore.acquire(), times, drop), late);
            let ended = ended.transpose()?;
            let snapshot = b.control().look(&object?, 1).await?.unwrap();
            let finished = ended.is_some();
            std::mem::drop(ended);
            settle().await;
            tokio::time::sleep(Duration::from_secs(1)).await;
            let after = b
                .control()
                .look(&super::object(tenure::Kind::Semaphore, "x")?, 1)
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
