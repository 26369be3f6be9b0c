//! The program `tenure`: its start, the time from one `exec` to the next, and its size.

use std::{
    fs::{self, File},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use tenure::Kind;
use tenure_tests::{Context, Redis, Result, binaries, ensure, eventually, process::folder};

use crate::{
    NAMESPACE, connect, object,
    report::{Goal, Report, median, ratio},
};

/// The time for all to come into the queue, on a machine with other work.
const LIMIT: Duration = Duration::from_secs(120);

fn tenure(redis: &Redis, args: &[&str]) -> Result<Command> {
    let mut command = Command::new(binaries::find("tenure")?);
    command
        .args(args)
        .env("TENURE_REDIS_URL", redis.url())
        .env("TENURE_NAMESPACE", NAMESPACE)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    Ok(command)
}

/// The time from the start of a program to its end.
fn run(mut command: Command) -> Result<Duration> {
    let started = Instant::now();
    let status = command.status()?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(started.elapsed())
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// The start, in turns with that of `true`.
pub(crate) async fn start(report: &mut Report) -> Result {
    const ROUNDS: usize = 200;
    let redis = Redis::start().await?;
    let (mut bare, mut version, mut exec) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        bare.push(run(Command::new("true"))?);
        version.push(run(tenure(&redis, &["--version"])?)?);
        exec.push(run(tenure(&redis, &["exec", "lock/start", "--", "true"])?)?);
    }
    let (bare, version, exec) = (median(bare), median(version), median(exec));
    for (name, time) in [("cli_start", version), ("cli_exec", exec)] {
        let made_of = format!("p50 {time:.1?} beside {bare:.1?} of `true`, {ROUNDS} of each in turns");
        report.figure(
            &format!("{name}_ms"),
            milliseconds(time),
            Goal::AtMost(30.0),
            &made_of,
        );
        report.figure(
            &format!("{name}_over_true"),
            ratio(time, bare),
            Goal::None,
            &made_of,
        );
    }
    Ok(())
}

/// The time between the commands of two processes, of which one waits for the other; beside the same commands without a lock.
pub(crate) async fn handoff(report: &mut Report) -> Result {
    const WAITERS: usize = 200;
    let redis = Redis::start().await?;
    let client = connect(&redis).await?;
    let held = client.lock("handoff")?.acquire().await?;
    let folder = folder("handoff")?;
    let output = |number: usize| folder.join(number.to_string());
    let mut waiters = Vec::new();
    for number in 0..WAITERS {
        let mut command = tenure(&redis, &["exec", "lock/handoff", "--", "date", "+%s%N"])?;
        waiters.push(
            command
                .stdout(File::create(output(number))?)
                .stderr(Stdio::null())
                .spawn()?,
        );
    }
    let lock = object(Kind::Lock, "handoff")?;
    eventually("all to wait", LIMIT, async || {
        let seen = client.control().look(&lock, 1).await?.context("no lock")?;
        ensure!(seen.waiting == WAITERS as u64, "{} wait", seen.waiting);
        Ok(())
    })
    .await?;
    held.release().await?;
    for waiter in &mut waiters {
        eventually("its end", LIMIT, async || waiter.try_wait()?.context("it runs")).await?;
    }
    let mut times = Vec::new();
    for number in 0..WAITERS {
        times.push(fs::read_to_string(output(number))?.trim().parse::<u64>()?);
    }
    let ours = gaps(times);
    let mut times = Vec::new();
    for _ in 0..WAITERS {
        let shown = Command::new("date").arg("+%s%N").output()?.stdout;
        times.push(String::from_utf8(shown)?.trim().parse::<u64>()?);
    }
    let bare = median(gaps(times));
    let (p50, p99) = (median(ours.clone()), ours[ours.len() * 99 / 100]);
    let made_of = format!(
        "p50 {p50:.1?}, p99 {p99:.1?} from one `date` to the next, {WAITERS} wait; {bare:.1?} without a lock"
    );
    report.figure(
        "cli_handoff_p99_ms",
        milliseconds(p99.saturating_sub(bare)),
        Goal::AtMost(20.0),
        &made_of,
    );
    report.figure(
        "cli_handoff_p50_over_none",
        ratio(p50, bare),
        Goal::None,
        &made_of,
    );
    Ok(())
}

/// The times between each two, from the shortest to the longest.
fn gaps(mut times: Vec<u64>) -> Vec<Duration> {
    times.sort_unstable();
    let mut gaps: Vec<_> = times
        .windows(2)
        .map(|pair| Duration::from_nanos(pair[1] - pair[0]))
        .collect();
    gaps.sort_unstable();
    gaps
}

/// The size of the program without symbols: an image has nothing else.
pub(crate) fn size(report: &mut Report) -> Result {
    let stripped = folder("size")?.join("tenure");
    let program = binaries::find("tenure")?;
    let status = Command::new("strip")
        .arg("-o")
        .arg(&stripped)
        .arg(&program)
        .status()?;
    ensure!(status.success(), "strip: {status}");
    #[allow(clippy::cast_precision_loss)] // far below 2^52
    let mebibytes = fs::metadata(&stripped)?.len() as f64 / 1024.0 / 1024.0;
    report.figure(
        "cli_size_mib",
        mebibytes,
        Goal::AtMost(15.0),
        "the program of this build, stripped",
    );
    Ok(())
}
