//! Ten thousand locks of one client.

use std::time::Duration;

use tenure::{Client, Kind, Lease, Options};
use tenure_tests::{
    Context, Redis, Result, ensure, eventually,
    sent::{Counter, total},
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};

use crate::{
    connect, object,
    report::{Goal, Report, each},
};

const LOCKS: usize = 10_000;
const LEASE: Duration = Duration::from_secs(30);
/// Leases are renewed when a third of them has passed.
const PERIOD: Duration = Duration::from_secs(10);

/// Ten thousand leases, taken over a whole period, so that they come due over a whole one: the worst case for a renewal
/// in batches.
pub(crate) async fn renewed(report: &mut Report) -> Result {
    const PERIODS: u32 = 3;
    let redis = Redis::start().await?;
    let client = connect(&redis).await?;
    let start = Instant::now();
    let mut leases = Vec::with_capacity(LOCKS);
    for i in 0..LOCKS {
        let pace = PERIOD.mul_f64(each(i as u64, LOCKS as u64));
        sleep_until(start + pace).await;
        let lock = client.lock(format!("x{i}"))?.with(Options::new().lease(LEASE));
        leases.push(lock.acquire().await?);
    }
    sleep_until(start + 2 * PERIOD).await;
    let mut counter = Counter::start(&redis).await?;
    let deadlines: Vec<Instant> = leases.iter().map(Lease::deadline).collect();
    sleep_until(Instant::now() + PERIODS * PERIOD).await;
    let commands = total(&counter.take().await?);
    for (lease, deadline) in leases.iter().zip(deadlines) {
        lease.check()?;
        ensure!(
            lease.deadline() > deadline + LEASE / 2,
            "{lease:?} is not renewed"
        );
    }
    report.figure(
        "renew_10000_commands",
        each(commands, u64::from(PERIODS)),
        Goal::AtMost(100.0),
        &format!("{commands} in {PERIODS} periods of {PERIOD:?}, leases of {LEASE:?} taken over one period"),
    );
    Ok(())
}

/// One client waits for ten thousand locks at once.
pub(crate) async fn waited_for(report: &mut Report) -> Result {
    let redis = Redis::start().await?;
    let holder = connect(&redis).await?;
    let held = take_all(&holder).await?;
    let before = connections(&redis).await?;
    let client = connect(&redis).await?;
    let waits = tokio::spawn(async move { take_all(&client).await });
    eventually(
        "the last lock to be waited for",
        Duration::from_secs(60),
        async || {
            for i in (0..LOCKS).rev() {
                let lock = object(Kind::Lock, &format!("x{i}"))?;
                let seen = holder.control().look(&lock, 0).await?.context("no lock")?;
                ensure!(seen.waiting == 1, "no client waits for {lock}");
            }
            Ok(())
        },
    )
    .await?;
    let connections = connections(&redis).await? - before;
    report.figure(
        "connections_for_10000_locks",
        each(connections, 1),
        Goal::Exactly(1.0),
        "of a client that waits for 10000 locks at once",
    );
    drop(held);
    ensure!(waits.await??.len() == LOCKS, "not all of them were granted");
    Ok(())
}

async fn take_all(client: &Client) -> Result<Vec<Lease>> {
    take(client, "x", LOCKS, &Options::new()).await
}

/// Takes so many locks, all at once, whose names begin with `prefix`.
pub(crate) async fn take(
    client: &Client,
    prefix: &str,
    count: usize,
    options: &Options,
) -> Result<Vec<Lease>> {
    let mut tasks = JoinSet::new();
    for i in 0..count {
        let lock = client.lock(format!("{prefix}{i}"))?.with(options.clone());
        tasks.spawn(async move { lock.acquire().await });
    }
    let mut leases = Vec::with_capacity(count);
    while let Some(done) = tasks.join_next().await {
        leases.push(done??);
    }
    Ok(leases)
}

async fn connections(redis: &Redis) -> Result<u64> {
    let clients = redis.cli(&["INFO", "clients"]).await?;
    let line = clients
        .lines()
        .find_map(|line| line.strip_prefix("connected_clients:"))
        .context("no count of clients")?;
    Ok(line.trim().parse()?)
}
