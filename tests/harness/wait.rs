//! Waiting for a condition with a deadline.

use std::time::Duration;

use anyhow::anyhow;
use tokio::time::{Instant, sleep, timeout_at};

use crate::Result;

/// Calls `probe` until it succeeds and returns what it returned; fails when `deadline` has passed, with the probe's last
/// error, which should contain the observed value.
///
/// ```
/// # use tenure_tests::{Result, ensure, eventually};
/// # use std::time::Duration;
/// # async fn held() -> Result<u32> { Ok(1) }
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result {
/// eventually("one permit to be held", Duration::from_secs(5), async || {
///     let held = held().await?;
///     ensure!(held == 1, "held is {held}");
///     Ok(())
/// })
/// .await
/// # }
/// ```
pub async fn eventually<T>(
    what: &str,
    deadline: Duration,
    mut probe: impl AsyncFnMut() -> Result<T>,
) -> Result<T> {
    let end = Instant::now() + deadline;
    let mut last = anyhow!("the first attempt did not return");
    let mut pause = Duration::from_millis(5);
    loop {
        match timeout_at(end, probe()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => last = error,
            Err(_) => return Err(last.context(format!("waited {deadline:?} for {what}"))),
        }
        if Instant::now() + pause >= end {
            return Err(last.context(format!("waited {deadline:?} for {what}")));
        }
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}
