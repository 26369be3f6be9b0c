//! First users (`or_permits`) of an object that is declared: after a loss of data they do not make it anew beside a holder that
//! will be readmitted.

use std::time::Duration;

use tenure::{Client, Error, LeaseState, Memory, Semaphore, control::Declaration};
use tokio::time::sleep;

use super::{Result, client, declare_semaphore, semaphore as declared, settle};

/// Longer than the time in which each lease and queue entry is renewed.
const RENEWED: Duration = Duration::from_secs(15);

async fn world() -> Result<(Memory, Client, Semaphore)> {
    let memory = Memory::seeded(70);
    let holder = client(&memory, "holder").await?;
    let first_user = client(&memory, "first-user").await?;
    let semaphore = first_user.semaphore("x")?.or_permits(1)?;
    Ok((memory, holder, semaphore))
}

async fn makes_nothing(semaphore: &Semaphore) {
    let made = semaphore.try_acquire().await;
    assert!(matches!(made, Err(Error::NotDeclared { .. })), "{made:?}");
}

#[tokio::test(start_paused = true)]
async fn one_that_has_found_a_declared_object_busy_makes_none() -> Result {
    let (memory, holder, semaphore) = world().await?;
    declare_semaphore(&holder, "x", 1).await?;
    let _lease = holder.semaphore("x")?.acquire().await?;
    assert!(semaphore.try_acquire().await?.is_none());
    memory.flush_all();
    makes_nothing(&semaphore).await;
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn one_that_waits_for_a_declared_object_makes_none() -> Result {
    let (memory, holder, semaphore) = world().await?;
    let object = declare_semaphore(&holder, "x", 1).await?;
    let lease = holder.semaphore("x")?.acquire().await?;
    let wait = tokio::spawn(async move { semaphore.acquire().await });
    settle().await;
    memory.restart(false);
    sleep(Duration::from_secs(1)).await;
    let again = Declaration {
        floor: 1_000_000,
        recovery: Some(Duration::from_secs(30)),
        ..declared(1)
    };
    holder.control().declare(&object, &again).await?;
    sleep(RENEWED).await;
    assert_eq!(lease.state(), LeaseState::Held);
    assert!(!wait.is_finished(), "{:?}", wait.await);
    let fence = lease.fencing_token();
    lease.release().await?;
    assert!(wait.await??.fencing_token() > fence);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn one_whose_object_is_declared_while_it_holds_makes_none() -> Result {
    let (memory, controller, semaphore) = world().await?;
    let lease = semaphore.acquire().await?;
    declare_semaphore(&controller, "x", 1).await?;
    sleep(RENEWED).await;
    assert_eq!(lease.state(), LeaseState::Held);
    memory.flush_all();
    makes_nothing(&semaphore).await;
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn one_whose_object_is_declared_while_it_waits_makes_none() -> Result {
    let (memory, controller, semaphore) = world().await?;
    let lease = controller.semaphore("x")?.or_permits(1)?.acquire().await?;
    let waiter = semaphore.clone();
    let wait = tokio::spawn(async move { waiter.acquire().await });
    settle().await;
    declare_semaphore(&controller, "x", 1).await?;
    sleep(RENEWED).await;
    assert_eq!(lease.state(), LeaseState::Held);
    assert!(!wait.is_finished());
    memory.flush_all();
    makes_nothing(&semaphore).await;
    let made = wait.await?;
    assert!(matches!(made, Err(Error::NotDeclared { .. })), "{made:?}");
    Ok(())
}
