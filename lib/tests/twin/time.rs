//! Deadlines to the millisecond, in no time.

use std::time::Duration;

use tenure::{LeaseState, Memory, Options};
use tokio::time::Instant;

use super::{Result, client};

#[tokio::test(start_paused = true)]
async fn first() -> Result {
    let memory = Memory::seeded(1);
    let (a, b) = (client(&memory, "a").await?, client(&memory, "b").await?);
    let lease = a.lock("x")?.acquire().await?;
    assert!(b.lock("x")?.try_acquire().await?.is_none());
    let before = Instant::now();
    assert!(
        b.lock("x")?
            .acquire_timeout(Duration::from_secs(100))
            .await?
            .is_none()
    );
    assert_eq!(before.elapsed().as_secs(), 100);
    assert_eq!(lease.state(), LeaseState::Held);
    lease.release().await?;
    assert_eq!(memory.keys(), Vec::<String>::new());
    let _ = Options::new();
    Ok(())
}
