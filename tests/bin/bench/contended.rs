//! Contention: many clients acquire one lock.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tenure::{Client, Kind, Lock};
use tenure_tests::{
    Context, Redis, Result, ensure, eventually,
    sent::{Counter, total},
};
use tokio::task::JoinSet;

use crate::{
    connect, object,
    raw::Raw,
    report::{Goal, Report, each, median, on_worker, ratio, timed},
};

const HOLD: Duration = Duration::from_millis(2);

/// Result of waiters that take a lock in turns.
struct Run {
    commands: u64,
    /// Times from each call of release to the next holder's return from acquire.
    handoffs: Vec<Duration>,
    /// Holders in their order.
    holders: Vec<usize>,
}

#[derive(Default)]
struct Log {
    released: Option<Instant>,
    handoffs: Vec<Duration>,
    holders: Vec<usize>,
}

/// Queues all clients before the first is granted; then each acquires the lock `rounds` times.
/// With a counter, the commands are counted, and the server answers later.
async fn run(
    mut counter: Option<Counter<'_>>,
    gate: &Client,
    waiters: Vec<Lock>,
    rounds: usize,
    hold: Duration,
) -> Result<Run> {
    let object = object(Kind::Lock, "x")?;
    let count = waiters.len() as u64;
    let closed = gate
        .lock("x")?
        .try_acquire()
        .await?
        .context("the lock is taken")?;
    let log: Arc<Mutex<Log>> = Arc::default();
    let mut tasks = JoinSet::new();
    for (id, lock) in waiters.into_iter().enumerate() {
        let log = log.clone();
        tasks.spawn(async move {
            let note = |what: &mut dyn FnMut(&mut Log)| {
                what(&mut log.lock().unwrap_or_else(PoisonError::into_inner));
            };
            for _ in 0..rounds {
                let lease = lock.acquire().await?;
                let now = Instant::now();
                note(&mut |log| {
                    log.handoffs.extend(log.released.map(|at| now - at));
                    log.holders.push(id);
                });
                tokio::time::sleep(hold).await;
                note(&mut |log| log.released = Some(Instant::now()));
                lease.release().await?;
            }
            Result::Ok(())
        });
    }
    eventually("all of them to wait", Duration::from_secs(60), async || {
        let seen = gate.control().look(&object, 0).await?.context("no lock")?;
        ensure!(seen.waiting == count, "{} wait", seen.waiting);
        Ok(())
    })
    .await?;
    // The looks at the queue until now, and the gate's release, are the bench's own.
    if let Some(counter) = &mut counter {
        counter.take().await?;
    }
    closed.release().await?;
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    let commands = match &mut counter {
        Some(counter) => total(&counter.take().await?) + count - 1,
        None => 0,
    };
    let log = std::mem::take(&mut *log.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(Run {
        commands,
        handoffs: log.handoffs,
        holders: log.holders,
    })
}

/// Loads the scripts, which is not counted.
async fn warmed_up(redis: &Redis) -> Result<Client> {
    let client = connect(redis).await?;
    client.lock("warm-up")?.acquire().await?.release().await?;
    client.control().look(&object(Kind::Lock, "warm-up")?, 0).await?;
    Ok(client)
}

/// Twenty clients take one lock twenty-five times each.
pub(crate) async fn twenty(report: &mut Report) -> Result {
    const CLIENTS: usize = 20;
    const ROUNDS: usize = 25;
    const RUNS: usize = 5;
    let redis = Redis::start().await?;
    let (gate, raw) = (warmed_up(&redis).await?, Raw::connect(&redis).await?);
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(connect(&redis).await?);
    }
    let (mut handoffs, mut bare) = (Vec::new(), Vec::new());
    let (mut least, mut most) = (u64::MAX, 0);
    let locks = || -> Result<Vec<Lock>> {
        let locks = clients.iter().map(|client| Ok(client.lock("x")?));
        locks.collect()
    };
    for _ in 0..RUNS {
        bare.extend(on_worker(round_trips(raw.clone())).await?);
        let run = run(None, &gate, locks()?, ROUNDS, HOLD).await?;
        handoffs.extend(run.handoffs);
        let mut shares = [0; CLIENTS];
        for id in &run.holders[..CLIENTS * ROUNDS / 2] {
            shares[*id] += 1;
        }
        least = shares.into_iter().fold(least, u64::min);
        most = shares.into_iter().fold(most, u64::max);
    }
    let counter = Counter::start(&redis).await?;
    let commands = run(Some(counter), &gate, locks()?, ROUNDS, HOLD).await?.commands;
    report.figure(
        "contended20_commands_per_acquisition",
        each(commands, (CLIENTS * ROUNDS) as u64),
        Goal::AtMost(2.5),
        &format!("{CLIENTS} clients x {ROUNDS}, hold {HOLD:?}"),
    );
    let (handoff, bare) = (median(handoffs), median(bare));
    report.figure(
        "contended20_handoff_over_rtt",
        ratio(handoff, bare),
        Goal::AtMost(2.2),
        &format!("p50 from release call to next holder {handoff:.1?} over one bare round trip {bare:.1?}"),
    );
    let shares = format!("acquisitions of a client among the first half, of {RUNS} runs");
    report.figure("first_half_min", each(least, 1), Goal::AtLeast(12.0), &shares);
    report.figure("first_half_max", each(most, 1), Goal::AtMost(13.0), &shares);
    Ok(())
}

/// At the pace of a contended lock, because an idle machine answers later than a busy one.
async fn round_trips(raw: Raw) -> Result<Vec<Duration>> {
    let mut times = Vec::new();
    for _ in 0..500 {
        tokio::time::sleep(HOLD).await;
        times.push(timed(raw.round_trip()).await?);
    }
    Ok(times)
}

/// The same number of acquisitions by ten and by a thousand that wait, each with a connection of its own and a hold of 20 ms: so
/// the entries of a thousand come due for renewal while they wait.
pub(crate) async fn queues(report: &mut Report) -> Result {
    const ACQUISITIONS: usize = 1000;
    let mut commands = [0; 2];
    for (commands, waiters) in commands.iter_mut().zip([10, 1000]) {
        let redis = Redis::start().await?;
        let gate = warmed_up(&redis).await?;
        let mut locks = Vec::new();
        for _ in 0..waiters {
            locks.push(connect(&redis).await?.lock("x")?);
        }
        *commands = run(
            Some(Counter::start(&redis).await?),
            &gate,
            locks,
            ACQUISITIONS / waiters,
            Duration::from_millis(20),
        )
        .await?
        .commands;
    }
    let [ten, thousand] = commands;
    for (name, commands) in [
        ("commands_per_acquisition_10_waiters", ten),
        ("commands_per_acquisition_1000_waiters", thousand),
    ] {
        let made_of = format!("{commands} for {ACQUISITIONS} acquisitions, hold 20 ms");
        report.figure(
            name,
            each(commands, ACQUISITIONS as u64),
            Goal::AtMost(2.1),
            &made_of,
        );
    }
    Ok(())
}
