//! No other client requests the same object.

use std::{sync::Arc, time::Duration};

use tenure::{
    Client, Kind, Lock, LockPool,
    control::{Capacity, Declaration, Order},
};
use tenure_tests::{
    Redis, Result,
    sent::{Counter, total},
};
use tokio::task::JoinSet;

use crate::{
    connect, object,
    raw::Raw,
    report::{Goal, Report, each, median, on_worker, ratio, timed},
};

pub(crate) async fn pair(lock: &Lock) -> Result {
    Ok(lock.acquire().await?.release().await?)
}

/// Acquire and release, one after the other, in turns with two bare round trips.
pub(crate) async fn pairs(report: &mut Report) -> Result {
    const ROUNDS: usize = 10_000;
    let redis = Redis::start().await?;
    let (client, raw) = (connect(&redis).await?, Raw::connect(&redis).await?);
    let lock = client.lock("x")?;
    for _ in 0..1000 {
        pair(&lock).await?;
        raw.pair().await?;
    }
    let measured = lock.clone();
    let (ours, bare, by_hand, scripts) = on_worker(async move {
        let (mut ours, mut bare, mut by_hand, mut scripts) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            ours.push(timed(pair(&measured)).await?);
            bare.push(timed(raw.pair()).await?);
            by_hand.push(timed(raw.set_nx_pair("z")).await?);
            scripts.push(timed(raw.script_pair("y")).await?);
        }
        Ok((median(ours), median(bare), median(by_hand), median(scripts)))
    })
    .await?;
    report.figure(
        "uncontended_pair_over_return_1",
        ratio(ours, bare),
        Goal::AtMost(1.25),
        &format!("p50 {ours:.1?} over {bare:.1?}, {ROUNDS} of each in turns"),
    );
    report.figure(
        "uncontended_pair_over_set_nx",
        ratio(ours, by_hand),
        Goal::None,
        &format!("p50 {ours:.1?} over {by_hand:.1?}: SET NX, and a script that compares and deletes"),
    );
    report.figure(
        "uncontended_pair_over_bare_scripts",
        ratio(ours, scripts),
        Goal::AtMost(1.25),
        &format!("p50 {ours:.1?} over {scripts:.1?}: the cost of the library without the scripts"),
    );

    let mut counter = Counter::start(&redis).await?;
    for _ in 0..1000 {
        pair(&lock).await?;
    }
    let commands = total(&counter.take().await?);
    report.figure(
        "commands_per_uncontended_pair",
        each(commands, 1000),
        Goal::Exactly(2.0),
        "1000 pairs",
    );
    Ok(())
}

/// 64 at once over one connection, a lock each, in turns with 64 that call the raw scripts. Here the server is the
/// bottleneck, so the goal is a part of what the lock reaches that users write by hand: SET NX, and a script that compares and deletes.
pub(crate) async fn pipelined(report: &mut Report) -> Result {
    const AT_ONCE: usize = 64;
    const TURNS: usize = 15;
    let redis = Redis::start().await?;
    let (client, raw) = (connect(&redis).await?, Raw::connect(&redis).await?);
    let mut locks = Vec::new();
    for i in 0..AT_ONCE {
        locks.push(Arc::new(client.lock(format!("x{i}"))?));
    }
    let names: Vec<_> = (0..AT_ONCE)
        .map(|i| (Arc::new(format!("y{i}")), raw.clone()))
        .collect();
    let raws = vec![raw; AT_ONCE];
    let (mut ours, mut bare, mut plain, mut scripts) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for turn in 0..=TURNS {
        let pairs = timed(together(&locks, async |lock| pair(&lock).await)).await?;
        let nothing = timed(together(&raws, async |raw| raw.pair().await)).await?;
        let set_nx = timed(together(&names, async |(name, raw)| raw.set_nx_pair(&name).await)).await?;
        let by_hand = timed(together(&names, async |(name, raw)| raw.script_pair(&name).await)).await?;
        // The first turn warms up.
        if turn > 0 {
            ours.push(pairs);
            bare.push(nothing);
            plain.push(set_nx);
            scripts.push(by_hand);
        }
    }
    let (ours, bare, plain, scripts) = (median(ours), median(bare), median(plain), median(scripts));
    let a_second = |time: Duration| each(AT_ONCE as u64 * EACH, 1) / time.as_secs_f64();
    let over = |time| format!("{:.0} over {:.0} pairs a second", a_second(ours), a_second(time));
    report.figure(
        "pipelined_pairs_over_own_scripts",
        ratio(scripts, ours),
        Goal::AtLeast(0.6),
        &format!("{}: the same scripts, called by hand", over(scripts)),
    );
    report.figure(
        "pipelined_pairs_over_set_nx",
        ratio(plain, ours),
        Goal::AtLeast(0.5),
        &format!("{}: SET NX, and a script that compares and deletes", over(plain)),
    );
    report.figure(
        "pipelined_pairs_over_return_1",
        ratio(bare, ours),
        Goal::None,
        &format!(
            "{}: two calls of a script that does nothing, with nothing",
            over(bare)
        ),
    );
    Ok(())
}

/// Number of repeats of each concurrent task.
const EACH: u64 = 100;

/// A task for each of them.
async fn together<T: Clone + Send + 'static, F: Future<Output = Result> + Send>(
    those: &[T],
    work: impl Fn(T) -> F + Copy + Send + 'static,
) -> Result {
    let mut tasks = JoinSet::new();
    for one in those {
        let one = one.clone();
        tasks.spawn(async move {
            for _ in 0..EACH {
                work(one.clone()).await?;
            }
            Result::Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}

/// A pool's size should not matter: generated names, and names that all have been used before.
pub(crate) async fn pools(report: &mut Report) -> Result {
    const ROUNDS: usize = 3000;
    let redis = Redis::start().await?;
    let client = connect(&redis).await?;
    let small = generated(&client, "small", 1000).await?;
    let large = generated(&client, "large", 1_000_000).await?;
    let (small, large) = on_worker(async move {
        let (mut small_times, mut large_times) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            small_times.push(acquire_one(&small).await?);
            large_times.push(acquire_one(&large).await?);
        }
        Ok((median(small_times), median(large_times)))
    })
    .await?;
    report.figure(
        "pool_million_over_thousand",
        ratio(large, small),
        Goal::AtMost(1.5),
        &format!("p50 of acquire {large:.1?} over {small:.1?}, {ROUNDS} of each in turns"),
    );
    Ok(())
}

async fn acquire_one(pool: &LockPool) -> Result<Duration> {
    let start = std::time::Instant::now();
    let lease = pool.acquire().await?;
    let took = start.elapsed();
    lease.release().await?;
    Ok(took)
}

async fn generated(client: &Client, name: &str, count: u64) -> Result<LockPool> {
    let declaration = Declaration {
        floor: 0,
        recovery: None,
        lease: Duration::from_secs(30),
        max_hold: None,
        capacity: Capacity::Generated {
            order: Order::LeastRecentlyUsed,
            prefix: "seat-".to_owned(),
            count,
        },
    };
    client
        .control()
        .declare(&object(Kind::Pool, name)?, &declaration)
        .await?;
    Ok(client.lock_pool(name)?)
}
