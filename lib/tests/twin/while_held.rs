//! Work that runs while a lease is held: it is dropped when the lease is lost, and the lease is released at its end.

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tenure::{Error, Memory, Options, control::Order};
use tokio::{sync::oneshot, time::Instant};

use super::{Result, client, generated, settle};

/// Notes that it was dropped.
struct Dropped(Arc<AtomicBool>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_released_after_its_work() -> Result {
    let memory = Memory::new();
    let (a, b) = (client(&memory, "a").await?, client(&memory, "b").await?);
    let lease = a.lock("x")?.acquire().await?;
    let other = b.lock("x")?;
    // The future can be sent to another task.
    let work = tokio::spawn(async move {
        lease
            .while_held(async |lease| {
                assert!(other.try_acquire().await?.is_none(), "not held meanwhile");
                lease.check()?;
                Ok::<_, Error>(lease.fencing_token())
            })
            .await
    });
    let token = work.await???;
    assert!(token > 0);
    assert!(b.lock("x")?.try_acquire().await?.is_some(), "not released");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn the_work_is_dropped_when_the_lease_is_lost() -> Result {
    let memory = Memory::new();
    let (a, b) = (client(&memory, "a").await?, client(&memory, "b").await?);
    let lease = a.lock("x")?.acquire().await?;
    let (is_dropped, (begun, begins)) = (Arc::new(AtomicBool::default()), oneshot::channel());
    let guard = Dropped(is_dropped.clone());
    let work = tokio::spawn(lease.while_held(async move |_| {
        let _guard = guard;
        let _ = begun.send(());
        pending::<()>().await;
    }));
    begins.await?;
    let taken = b.lock("x")?.take_over("the holder hangs").await?;
    let error = work.await?.unwrap_err();
    assert!(
        matches!(&error, Error::Lost { cause, .. } if cause.contains("the holder hangs")),
        "{error}"
    );
    assert!(is_dropped.load(Ordering::Relaxed), "the work goes on");
    drop(taken);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_release_without_an_answer_is_no_error_of_the_work() -> Result {
    let memory = Memory::new();
    let a = client(&memory, "a").await?;
    let long = Options::new().lease(Duration::from_secs(3600));
    let lease = a.lock("x")?.with(long).acquire().await?;
    let server = memory.clone();
    let started = Instant::now();
    let outcome = lease
        .while_held(async move |_| {
            server.stop();
            7
        })
        .await;
    assert_eq!(outcome, Ok(7));
    // One response timeout, and not the rest of the lease.
    assert!(
        started.elapsed() < Duration::from_secs(4),
        "{:?}",
        started.elapsed()
    );
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_pool_s_work_knows_its_resource_and_a_dropped_one_gives_it_back() -> Result {
    let memory = Memory::new();
    let a = client(&memory, "a").await?;
    let one = generated(Order::LeastRecentlyUsed, "seat-", 1);
    let seats = a.lock_pool("x")?;
    a.control().declare(seats.object(), &one).await?;
    let name = seats
        .acquire()
        .await?
        .while_held(async |seat| seat.resource().to_owned())
        .await?;
    assert_eq!(name, "seat-0");
    let held = seats.acquire().await?;
    let work = tokio::time::timeout(
        Duration::from_secs(1),
        held.while_held(async |_| pending::<()>().await),
    );
    assert!(work.await.is_err());
    settle().await;
    assert!(seats.try_acquire().await?.is_some(), "not given back");
    Ok(())
}
