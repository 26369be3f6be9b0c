//! `tenure once`: one of many runs the command.

use std::{fs, time::Duration};

use rustix::process::Signal;
use tenure_tests::{Process, Result, ensure, eventually};

use super::{Bench, SOON, code, output, parent, printed, signal, text};

const RUN: &str = "echo run >> runs; while ! [ -e end ]; do sleep 0.01; done";

fn runs(bench: &Bench) -> usize {
    fs::read_to_string(bench.folder.join("runs")).map_or(0, |text| text.lines().count())
}

fn twenty(bench: &Bench, args: &str, script: &str) -> Result<Vec<Process>> {
    let one = |number| bench.start(&format!("once-{number}"), &bench.script(args, script)?);
    (0..20).map(one).collect()
}

/// Waits until all others are in the queue.
async fn in_the_queue(bench: &Bench, number: u64) -> Result {
    bench.waiting("once:migrate", number).await
}

#[tokio::test]
async fn one_of_twenty_runs_the_command_and_the_others_succeed_with_it() -> Result {
    let bench = Bench::shared().await?;
    let mut all = twenty(&bench, "once migrate", RUN)?;
    in_the_queue(&bench, 19).await?;
    ensure!(runs(&bench) == 1, "{}", runs(&bench));
    fs::write(bench.folder.join("end"), "")?;
    for process in &mut all {
        let status = process.wait(SOON).await?;
        ensure!(status.success(), "{status}: {}", process.tail());
    }
    ensure!(runs(&bench) == 1, "{} runs", runs(&bench));
    let later = output(bench.script("once migrate", RUN)?).await?;
    ensure!(
        code(&later)? == 0 && text(&later.stderr).contains("has succeeded before"),
        "{later:?}"
    );
    ensure!(runs(&bench) == 1, "{} runs", runs(&bench));
    Ok(())
}

#[tokio::test]
async fn when_the_one_that_runs_is_killed_another_runs() -> Result {
    let bench = Bench::shared().await?;
    let script = format!("echo $PPID > guardian; {RUN}");
    let mut all = twenty(&bench, "once migrate --ttl 2s", &script)?;
    in_the_queue(&bench, 19).await?;
    signal(&parent(&bench.pid("guardian")?)?, Signal::KILL)?;
    eventually("the next run", SOON, async || {
        ensure!(runs(&bench) == 2, "{} runs", runs(&bench));
        Ok(())
    })
    .await?;
    fs::write(bench.folder.join("end"), "")?;
    let mut killed = 0;
    for process in &mut all {
        let status = process.wait(SOON).await?;
        ensure!(
            status.success() || status.code().is_none(),
            "{status}: {}",
            process.tail()
        );
        killed += u32::from(!status.success());
    }
    ensure!(
        killed == 1 && runs(&bench) == 2,
        "{killed} killed, {} runs",
        runs(&bench)
    );
    Ok(())
}

#[tokio::test]
async fn after_a_failure_the_next_one_tries() -> Result {
    let bench = Bench::shared().await?;
    // The first one fails.
    let script = "echo run >> runs; [ $(wc -l < runs) -gt 1 ] || exit 9";
    let first = output(bench.script("once migrate", script)?).await?;
    let second = output(bench.script("once migrate", script)?).await?;
    let third = output(bench.script("once migrate", script)?).await?;
    let codes = [code(&first)?, code(&second)?, code(&third)?];
    ensure!(
        codes == [9, 0, 0] && runs(&bench) == 2,
        "{codes:?}: {} runs",
        runs(&bench)
    );
    Ok(())
}

#[tokio::test]
async fn on_failure_stop_returns_the_failure_to_all() -> Result {
    let bench = Bench::shared().await?;
    let script = "echo run >> runs; exit 9";
    let args = "once migrate --on-failure stop";
    let mut codes = Vec::new();
    for args in [args, args, &format!("{args} --retry-failed")] {
        codes.push(code(&output(bench.script(args, script)?).await?)?);
    }
    ensure!(
        codes == [9, 78, 9] && runs(&bench) == 2,
        "{codes:?}: {} runs",
        runs(&bench)
    );
    Ok(())
}

#[tokio::test]
async fn each_version_runs_once_and_a_reset_forgets() -> Result {
    let bench = Bench::shared().await?;
    let run = async |args: &str| code(&output(bench.script(args, "echo run >> runs")?).await?);
    for (args, expected) in [
        ("once migrate --version v1", 1),
        ("once migrate --version v2", 2),
        // Pods of the former version restart during a rollout.
        ("once migrate --version v1", 2),
        ("once other --version v1", 3),
    ] {
        ensure!(
            run(args).await? == 0 && runs(&bench) == expected,
            "{args}: {} runs",
            runs(&bench)
        );
    }
    ensure!(
        code(&output(bench.tenure("once migrate --version v1 --reset")?).await?)? == 0,
        "reset"
    );
    ensure!(
        run("once migrate --version v1").await? == 0 && runs(&bench) == 4,
        "{} runs",
        runs(&bench)
    );
    ensure!(run("once a@b").await? == 77, "a name with @");
    Ok(())
}

#[tokio::test]
async fn a_timeout_ends_the_wait_for_the_run() -> Result {
    let bench = Bench::shared().await?;
    let mut first = bench.start(
        "first",
        &bench.script("once migrate", &format!("echo ready; {RUN}"))?,
    )?;
    printed(&mut first, "ready").await?;
    let second = output(bench.script("once migrate --timeout 200ms", RUN)?).await?;
    ensure!(code(&second)? == 72, "{second:?}");
    fs::write(bench.folder.join("end"), "")?;
    ensure!(
        first.wait(Duration::from_secs(60)).await?.success(),
        "{}",
        first.tail()
    );
    Ok(())
}

#[tokio::test]
async fn a_run_that_a_signal_interrupts_is_not_remembered() -> Result {
    let bench = Bench::shared().await?;
    // It ends with success, half-way.
    let script = "trap 'exit 0' TERM; echo run >> runs; echo ready; while ! [ -e end ]; do sleep 0.01; done";
    for on_failure in ["retry", "stop"] {
        let args = format!("once migrate --on-failure {on_failure}");
        let mut process = bench.start(on_failure, &bench.script(&args, script)?)?;
        printed(&mut process, "ready").await?;
        process.signal(Signal::TERM)?;
        let status = process.wait(SOON).await?;
        ensure!(status.code() == Some(0), "{status}: {}", process.tail());
    }
    ensure!(runs(&bench) == 2, "{} runs", runs(&bench));
    Ok(())
}
