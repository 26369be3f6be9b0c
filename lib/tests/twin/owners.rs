//! A reentrant lock whose owner has several tasks: they act as one, whatever becomes of the one that asks.

use std::time::Duration;

use futures_util::FutureExt;
use tenure::{
    Client, Error, LeaseState, Memory, Options, ReentrantLock,
    memory::{Fault, Message},
};
use tokio::{
    task::{JoinHandle, yield_now},
    time::{Instant, sleep},
};

use super::{Result, client, silence};

/// A reply takes this long.
const SLOW: Duration = Duration::from_secs(1);

fn slow_replies(memory: &Memory, of: &'static str) {
    memory.set_faults(move |process, message| match message {
        Message::Reply { .. } if process == of => Fault::Delay(SLOW),
        _ => Fault::Deliver,
    });
}

type Entered = std::result::Result<tenure::ReentrantLease, Error>;

/// Another task of the owner, on its way.
async fn enters(owner: &ReentrantLock) -> JoinHandle<Entered> {
    let owner = owner.clone();
    let entering = tokio::spawn(async move { owner.acquire().await });
    yield_now().await;
    sleep(Duration::from_millis(1)).await;
    entering
}

async fn two() -> Result<(Memory, Client, Client)> {
    let memory = Memory::seeded(1);
    let (a, b) = (client(&memory, "a").await?, client(&memory, "b").await?);
    Ok((memory, a, b))
}

#[tokio::test(start_paused = true)]
async fn an_attempt_while_the_owners_request_is_on_its_way_comes_in_with_it() -> Result {
    let (memory, a, _) = two().await?;
    let owner = a.reentrant_lock("x")?;
    slow_replies(&memory, "a");
    let first = enters(&owner).await;
    assert_eq!(owner.depth(), 0);
    let second = owner.try_acquire().await?.ok_or("busy, for its own owner")?;
    assert_eq!(second.fencing_token(), first.await??.fencing_token());
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn an_attempt_while_the_owner_comes_in_again_comes_in_too() -> Result {
    let (memory, a, _) = two().await?;
    let owner = a.reentrant_lock("x")?;
    let outer = owner.acquire().await?;
    slow_replies(&memory, "a");
    let again = enters(&owner).await;
    assert!(owner.depth() >= 1);
    assert!(owner.try_acquire().await?.is_some());
    drop(again.await??);
    assert_eq!(owner.depth(), 1);
    drop(outer);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn an_attempt_while_the_owner_is_queued_returns_at_once() -> Result {
    let (_memory, a, b) = two().await?;
    let owner = a.reentrant_lock("x")?;
    let other = b.lock("x")?.acquire().await?;
    let first = enters(&owner).await;
    let started = Instant::now();
    assert_eq!(owner.depth(), 0);
    assert!(owner.try_acquire().await?.is_none());
    assert!(owner.acquire_timeout(Duration::ZERO).await?.is_none());
    assert!(
        started.elapsed() < Duration::from_millis(10),
        "{:?}",
        started.elapsed()
    );
    other.release().await?;
    let first = first.await??;
    assert_eq!(owner.depth(), 1);
    assert!(owner.try_acquire().await?.is_some());
    drop(first);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn when_the_one_that_asks_is_dropped_the_next_one_asks() -> Result {
    let (_memory, a, b) = two().await?;
    let owner = a.reentrant_lock("x")?;
    let other = b.lock("x")?.acquire().await?;
    let first = enters(&owner).await;
    let second = enters(&owner).await;
    first.abort();
    sleep(Duration::from_secs(1)).await;
    assert!(owner.try_acquire().await?.is_none());
    other.release().await?;
    let second = second.await??;
    assert_eq!(second.state(), LeaseState::Held);
    // And when none is on its way, the attempt sends a request of its own.
    second.release().await?;
    assert!(owner.try_acquire().await?.is_some());
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_timeout_counts_the_wait_for_the_owners_other_task() -> Result {
    let (_memory, a, b) = two().await?;
    let owner = a.reentrant_lock("x")?;
    let _other = b.lock("x")?.acquire().await?;
    let _first = enters(&owner).await;
    let timeout = Duration::from_millis(300);
    let started = Instant::now();
    assert!(owner.acquire_timeout(timeout).await?.is_none());
    assert!(
        started.elapsed() <= timeout + Duration::from_millis(10),
        "{:?}",
        started.elapsed()
    );
    assert!(owner.acquire_timeout(Duration::MAX).now_or_never().is_none());
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn no_attempt_outlasts_a_response_that_does_not_come() -> Result {
    let (memory, a, _) = two().await?;
    let owner = a.reentrant_lock("x")?;
    silence(&memory, "a");
    let _first = enters(&owner).await;
    let started = Instant::now();
    let error = owner.try_acquire().await.err().ok_or("an answer")?;
    assert!(error.is_unreachable(), "{error}");
    assert!(
        started.elapsed() <= Duration::from_secs(4),
        "{:?}",
        started.elapsed()
    );
    assert_eq!(owner.depth(), 0);
    Ok(())
}

/// Up to its deadline the lease is held, with or without another reply of Redis.
#[tokio::test(start_paused = true)]
async fn a_held_lock_is_reentered_while_redis_does_not_answer() -> Result {
    let (memory, a, _) = two().await?;
    let owner = a.reentrant_lock("x")?;
    let outer = owner.acquire().await?;
    silence(&memory, "a");
    let inner = owner.acquire().await?;
    assert!(owner.try_acquire().await?.is_some());
    let timeout = Duration::from_millis(300);
    let started = Instant::now();
    assert!(owner.acquire_timeout(timeout).await?.is_some());
    assert!(started.elapsed() <= timeout, "{:?}", started.elapsed());
    outer.lost().await;
    assert!(matches!(owner.acquire().await, Err(Error::Lost { .. })));
    drop((outer, inner));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_lost_lease_is_not_taken_again_until_its_owner_has_let_go() -> Result {
    let (_memory, a, b) = two().await?;
    let options = Options::new().max_hold(Duration::from_secs(40));
    let owner = a.reentrant_lock("x")?.with(options);
    let outer = owner.acquire().await?;
    outer.lost().await;
    let other = b.lock("x")?.acquire().await?;
    for _ in 0..2 {
        let outcome = owner.try_acquire().await;
        assert!(matches!(outcome, Err(Error::Lost { .. })), "{outcome:?}");
    }
    assert_eq!(owner.depth(), 1);
    drop(outer);
    assert_eq!(owner.depth(), 0);
    assert!(owner.try_acquire().await?.is_none());
    other.release().await?;
    assert!(owner.try_acquire().await?.is_some());
    Ok(())
}

/// A second entry of the owner does not wait: it does not stand behind a task that waits for its reply.
#[tokio::test(start_paused = true)]
async fn tasks_come_in_again_beside_one_another() -> Result {
    let (memory, a, _) = two().await?;
    let owner = a.reentrant_lock("x")?;
    let _outer = owner.acquire().await?;
    slow_replies(&memory, "a");
    let started = Instant::now();
    let all = [(); 10].map(|()| owner.acquire());
    for entered in futures_util::future::join_all(all).await {
        drop(entered?);
    }
    assert!(started.elapsed() < SLOW * 3, "{:?}", started.elapsed());
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_timeout_that_leaves_no_time_for_an_answer_finds_the_lock_busy() -> Result {
    let (memory, a, b) = two().await?;
    let _held = b.lock("x")?.acquire().await?;
    memory.set_faults(|_, message| match message {
        Message::Call { .. } | Message::Reply { .. } => Fault::Delay(Duration::from_millis(1)),
        _ => Fault::Deliver,
    });
    let owner = a.reentrant_lock("x")?;
    let first = owner.clone();
    let first = tokio::spawn(async move { first.acquire_timeout(Duration::from_millis(100)).await });
    yield_now().await;
    let second = owner.acquire_timeout(Duration::from_millis(103)).await;
    assert!(matches!(second, Ok(None)), "{second:?}");
    assert!(first.await??.is_none());
    Ok(())
}
