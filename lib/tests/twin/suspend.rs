//! The machine of the clients is suspended while the server's clock keeps running.

use std::time::Duration;

use tenure::{LeaseState, Memory, Options};
use tokio::time::Instant;

use super::{Result, client, settle};

const LEASE: Duration = Duration::from_secs(30);

/// Every accessor of a lease counts the suspend, at once.
#[tokio::test(start_paused = true)]
async fn a_suspend_that_outlasts_the_lease_loses_it_at_once() -> Result {
    let memory = Memory::seeded(70);
    let (a, b) = (client(&memory, "a").await?, client(&memory, "b").await?);
    let lease = a.lock("x")?.acquire().await?;
    tokio::time::sleep(LEASE).await;
    memory.suspend(LEASE);
    assert!(lease.check().is_err());
    assert!(lease.deadline() <= Instant::now());
    assert!(matches!(lease.state(), LeaseState::Lost { .. }));
    let next = b.lock("x")?.try_acquire().await?.ok_or("busy")?;
    assert!(next.fencing_token() > lease.fencing_token());
    assert!(lease.renew().await.is_err());
    Ok(())
}

/// A task that waits for a loss is notified soon, and a longer lease is renewed at once, though no timer has counted the
/// suspend.
#[tokio::test(start_paused = true)]
async fn a_suspend_is_noticed_within_a_second_of_the_wake_up() -> Result {
    let memory = Memory::seeded(71);
    let (a, b) = (client(&memory, "a").await?, client(&memory, "b").await?);
    let short = a.lock("short")?.acquire().await?;
    let long = a
        .lock("long")?
        .with(Options::new().lease(LEASE * 3))
        .acquire()
        .await?;
    let gate = b
        .lock("gate")?
        .with(Options::new().lease(LEASE * 3))
        .acquire()
        .await?;
    let waiting = a.lock("gate")?;
    let wait = tokio::spawn(async move { waiting.acquire().await });
    settle().await;
    let lost = tokio::spawn(async move { (short.lost().await, Instant::now()) });
    settle().await;
    memory.suspend(LEASE + LEASE / 2);
    let woken = Instant::now();
    let (cause, at) = lost.await?;
    assert!(
        at - woken <= Duration::from_millis(1001),
        "{cause} after {:?}",
        at - woken
    );
    settle().await;
    // Both are longer than the suspend, and have been renewed since.
    assert_eq!((long.state(), gate.state()), (LeaseState::Held, LeaseState::Held));
    assert!(long.deadline() > Instant::now() + LEASE * 2);
    // Its queue entry has expired in the suspend: it has another one.
    gate.release().await?;
    assert_eq!(wait.await??.state(), LeaseState::Held);
    Ok(())
}

/// A grant is on its way while the machine is suspended: what arrives has run out.
#[tokio::test(start_paused = true)]
async fn a_grant_that_was_on_its_way_in_a_suspend_is_asked_for_again() -> Result {
    let memory = Memory::seeded(72);
    let (a, b) = (client(&memory, "a").await?, client(&memory, "b").await?);
    let gate = b.lock("x")?.acquire().await?;
    let lock = a.lock("x")?;
    let mut wait = std::pin::pin!(lock.acquire());
    assert!(
        tokio::time::timeout(Duration::from_secs(1), &mut wait)
            .await
            .is_err()
    );
    gate.release().await?;
    memory.suspend(LEASE);
    let lease = wait.await?;
    assert_eq!(lease.state(), LeaseState::Held);
    lease.renew().await?;
    Ok(())
}
