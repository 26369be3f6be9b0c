//! A hundred thousand leases of one client for minutes, while it waits for as many. Only on demand: it takes six minutes.

use std::{fs, time::Duration};

use tenure::{Kind, Lease, Options};
use tenure_tests::{Context, Redis, Result, ensure, eventually};
use tokio::time::{Instant, sleep};

use crate::{
    connect,
    many::take,
    object,
    report::{Goal, Report, each},
};

/// Number of held locks, and of locks that are waited for.
const LOCKS: usize = 100_000;
const SPAN: Duration = Duration::from_secs(300);

/// The locks that are waited for are held with leases that need no renewal before the end.
pub(crate) async fn held_and_waited_for(report: &mut Report) -> Result {
    let redis = Redis::start().await?;
    let holder = connect(&redis).await?;
    let start = Instant::now();
    let long = Options::new().lease(10 * SPAN);
    let others = take(&holder, "waited", LOCKS, &long).await?;
    let client = connect(&redis).await?;
    let held = take(&client, "held", LOCKS, &Options::new()).await?;
    println!("all are held after {:.1} s", start.elapsed().as_secs_f64());
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { take(&client, "waited", LOCKS, &Options::new()).await }
    });
    let last = object(Kind::Lock, &format!("waited{}", LOCKS - 1))?;
    eventually("the last lock to be waited for", SPAN, async || {
        let seen = holder.control().look(&last, 0).await?.context("no lock")?;
        ensure!(seen.waiting == 1, "no client waits for {last}");
        Ok(())
    })
    .await?;
    println!("all are waited for after {:.1} s", start.elapsed().as_secs_f64());
    let server = redis.info("process_id").await?;
    let (begin, own_before, server_before) = (Instant::now(), cpu("self")?, cpu(&server)?);
    sleep(SPAN).await;
    let took = begin.elapsed().as_secs_f64();
    let share = |before: f64, after: f64| (after - before) / took;
    let (own, server) = (
        share(own_before, cpu("self")?),
        share(server_before, cpu(&server)?),
    );
    report.figure(
        "lost_of_100000_held_and_waited_for",
        lost(held.iter().chain(&others)),
        Goal::Exactly(0.0),
        &format!("leases of 30 s, for {SPAN:?}, while the client waits for {LOCKS} more"),
    );
    report.figure(
        "client_cpu_of_a_core",
        own,
        Goal::AtMost(0.2),
        "of the process, meanwhile",
    );
    report.figure(
        "server_cpu_of_a_core",
        server,
        Goal::None,
        "of the server, meanwhile",
    );
    // All that is waited for is granted in the end.
    drop(others);
    holder.close().await;
    let granted = waiting.await??;
    ensure!(
        granted.len() == LOCKS,
        "{} of {LOCKS} were granted",
        granted.len()
    );
    report.figure(
        "lost_when_100000_are_granted",
        lost(held.iter().chain(&granted)),
        Goal::Exactly(0.0),
        "when the holder of all that is waited for closes",
    );
    Ok(())
}

fn lost<'a>(leases: impl Iterator<Item = &'a Lease>) -> f64 {
    each(leases.filter(|lease| lease.check().is_err()).count() as u64, 1)
}

/// The processor time that a process has used, in user mode and in the kernel, in seconds.
fn cpu(pid: &str) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).context("no /proc")?;
    let (_, fields) = stat.rsplit_once(')').context("no name in stat")?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    // Fields 14 and 15, in hundredths of a second on every Linux that we know.
    Ok(each(fields[11].parse::<u64>()? + fields[12].parse::<u64>()?, 100))
}
