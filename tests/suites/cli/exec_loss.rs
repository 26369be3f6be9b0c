//! `tenure exec`: the reasons for which the command is ended.

use std::{
    fs,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use tenure::Kind;
use tenure_tests::{Context, Redis, Result, ensure, redis::Persistence};

use super::{Bench, SOON, code, gone, output, printed, runs, stopped_until_the_next_holds};

/// Writes its process id, and what happens to it.
const WORK: &str = "trap 'echo asked; exit 5' TERM; echo $$ > pid; echo ready; while :; do sleep 0.01; done";
/// The same, deaf to SIGTERM.
const DEAF: &str = "trap '' TERM; echo $$ > pid; echo ready; while :; do sleep 0.01; done";

#[tokio::test]
async fn a_lease_that_is_taken_back_ends_the_command() -> Result {
    let bench = Bench::shared().await?;
    let mut process = bench.start("work", &bench.script("exec lock/x", WORK)?)?;
    printed(&mut process, "ready").await?;
    bench.reclaim("x").await?;
    let status = process.wait(SOON).await?;
    ensure!(status.code() == Some(73), "{status}: {}", process.tail());
    ensure!(process.output()?.contains("asked"), "{}", process.tail());
    // Once.
    ensure!(
        process.log()?.matches("reclaimed by the test").count() == 1,
        "{}",
        process.tail()
    );
    Ok(())
}

#[tokio::test]
async fn a_command_that_ignores_sigterm_is_killed() -> Result {
    let bench = Bench::shared().await?;
    let mut process = bench.start("deaf", &bench.script("exec lock/x --kill-after 300ms", DEAF)?)?;
    printed(&mut process, "ready").await?;
    let since = Instant::now();
    bench.reclaim("x").await?;
    let status = process.wait(SOON).await?;
    ensure!(status.code() == Some(73), "{status}: {}", process.tail());
    ensure!(
        since.elapsed() >= Duration::from_millis(300),
        "{:?}",
        since.elapsed()
    );
    ensure!(
        !runs(&fs::read_to_string(bench.folder.join("pid"))?),
        "it was left running"
    );
    Ok(())
}

#[tokio::test]
async fn a_lease_that_is_renewed_outlives_its_first_end_however_short_the_grace() -> Result {
    let bench = Bench::shared().await?;
    for args in ["--on-loss kill", "--kill-after 0", "--kill-after 100ms"] {
        // Three leases.
        let ended = output(bench.script(&format!("exec lock/x --ttl 1s {args}"), "sleep 3")?).await?;
        ensure!(code(&ended)? == 0, "{args}: {ended:?}");
    }
    Ok(())
}

#[tokio::test]
async fn on_loss_kill_does_not_ask() -> Result {
    let bench = Bench::shared().await?;
    let mut process = bench.start("work", &bench.script("exec lock/x --on-loss kill", WORK)?)?;
    printed(&mut process, "ready").await?;
    bench.reclaim("x").await?;
    let status = process.wait(SOON).await?;
    ensure!(status.code() == Some(73), "{status}: {}", process.tail());
    ensure!(!process.output()?.contains("asked"), "{}", process.tail());
    Ok(())
}

#[tokio::test]
async fn on_loss_keep_goes_on_and_returns_the_code_of_the_command() -> Result {
    let bench = Bench::shared().await?;
    let mut process = bench.start("work", &bench.script("exec lock/x --keep-on-loss", WORK)?)?;
    printed(&mut process, "ready").await?;
    bench.reclaim("x").await?;
    tenure_tests::eventually("the notice", SOON, async || {
        let log = process.log()?;
        ensure!(log.contains("goes on without it"), "{log}");
        Ok(())
    })
    .await?;
    ensure!(process.exited()?.is_none(), "it was ended");
    process.signal(Signal::TERM)?;
    let status = process.wait(SOON).await?;
    ensure!(status.code() == Some(5), "{status}: {}", process.tail());
    Ok(())
}

/// Another may be granted the lock at the deadline, and the command has ended by then.
#[tokio::test]
async fn an_outage_longer_than_the_lease_ends_the_command_before_the_deadline() -> Result {
    const TTL: Duration = Duration::from_secs(3);
    for script in [WORK, DEAF] {
        let mut redis = Redis::start().await?;
        let bench = Bench::on(&redis).await?;
        let mut process = bench.start("outage", &bench.script("exec lock/x --ttl 3s", script)?)?;
        printed(&mut process, "ready").await?;
        let pid = fs::read_to_string(bench.folder.join("pid"))?;
        redis.kill9()?;
        let since = Instant::now();
        gone(&pid).await?;
        let took = since.elapsed();
        ensure!(
            took < TTL,
            "it ran for {took:?} after the last renewal at the latest"
        );
        let status = process.wait(SOON).await?;
        ensure!(status.code() == Some(73), "{status}: {}", process.tail());
        ensure!(
            process.log()?.contains("was not renewed in time"),
            "{}",
            process.tail()
        );
        ensure!(
            process.output()?.contains("asked") == (script == WORK),
            "{}",
            process.tail()
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_restart_of_redis_within_the_lease_is_not_noticed() -> Result {
    let mut redis = Redis::builder().persistence(Persistence::Aof).start().await?;
    let bench = Bench::on(&redis).await?;
    let script = "trap 'echo asked' TERM; echo ready; while ! [ -e end ]; do sleep 0.01; done; exit 7";
    let mut process = bench.start("restart", &bench.script("exec lock/x --ttl 30s", script)?)?;
    printed(&mut process, "ready").await?;
    let before = bench.look(Kind::Lock, "x").await?.context("no lock")?.holders[0].expires;
    redis.kill9()?;
    redis.start_again().await?;
    // Renewed by the same process: it has found Redis again.
    tenure_tests::eventually("a renewal", SOON, async || {
        let seen = bench.look(Kind::Lock, "x").await?.context("no lock")?;
        ensure!(seen.holders[0].expires > before, "{seen:?}");
        Ok(())
    })
    .await?;
    fs::write(bench.folder.join("end"), "")?;
    let status = process.wait(SOON).await?;
    ensure!(status.code() == Some(7), "{status}: {}", process.tail());
    ensure!(!process.output()?.contains("asked"), "{}", process.tail());
    Ok(())
}

/// A stopped process renews nothing and ends nothing: the process beside it does.
#[tokio::test]
async fn a_stopped_tenure_does_not_let_the_command_run_beyond_the_deadline() -> Result {
    let bench = Bench::shared().await?;
    let mut process = bench.start("stopped", &bench.script("exec lock/x --ttl 2s", WORK)?)?;
    printed(&mut process, "ready").await?;
    let pid = fs::read_to_string(bench.folder.join("pid"))?;
    stopped_until_the_next_holds(&bench, &mut process, "x", || {
        ensure!(!runs(&pid), "the command runs while another has the lock");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_longest_hold_ends_the_command_before_it() -> Result {
    let bench = Bench::shared().await?;
    let mut process = bench.start("hung", &bench.script("exec lock/x --ttl 1s --max-hold 2s", WORK)?)?;
    printed(&mut process, "ready").await?;
    let status = process.wait(SOON).await?;
    ensure!(status.code() == Some(73), "{status}: {}", process.tail());
    ensure!(process.log()?.contains("longest hold"), "{}", process.tail());
    ensure!(process.output()?.contains("asked"), "{}", process.tail());
    Ok(())
}
