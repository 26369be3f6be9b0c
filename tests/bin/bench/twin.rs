//! The in-memory twin, which runs the same scripts in this process.

use tenure::Memory;
use tenure_tests::Result;

use crate::report::{Goal, Report, each, median, on_worker, timed};

/// Acquire and release, one after the other.
pub(crate) async fn pairs(report: &mut Report) -> Result {
    const PAIRS: u64 = 2000;
    const RUNS: usize = 5;
    let lock = Memory::new().client().connect().await?.lock("x")?;
    let took = on_worker(async move {
        let mut runs = Vec::new();
        for _ in 0..RUNS {
            let run = async {
                for _ in 0..PAIRS {
                    lock.acquire().await?.release().await?;
                }
                Result::Ok(())
            };
            runs.push(timed(run).await?);
        }
        Ok(median(runs))
    })
    .await?;
    report.figure(
        "twin_pairs_per_second",
        (each(PAIRS, 1) / took.as_secs_f64()).round(),
        Goal::None,
        &format!("{PAIRS} pairs in {took:.1?}, the median of {RUNS} runs"),
    );
    Ok(())
}
