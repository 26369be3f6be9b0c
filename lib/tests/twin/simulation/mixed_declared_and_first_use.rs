//! A declared semaphore that its clients would also make as first users, on a server that loses its data. A client that
//! knows that it is declared does not make it: leases are exclusive. If clients without knowledge of the declaration make
//! it before it is declared again, the next fencing tokens are larger nevertheless, and leases are soon exclusive again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tenure::{Error, Options, Semaphore};
use tokio::time::{Instant, sleep};

use super::{
    keeper::{Keeper, look_now_and_then},
    mixed_primitives::Got,
    process::{self, Worker, ms},
    world::World,
};
use crate::Result;

const ROUNDS: usize = 4;
const LEASE: Duration = Duration::from_secs(2);
const NOT_YET: u64 = u64::MAX;

pub(super) async fn run(world: &Arc<World>) -> Result {
    let mut keeper = Keeper::new(1, LEASE)?;
    keeper.declare(world, Duration::ZERO).await?;
    let know = world.random().bool();
    // Since when it is declared after the last loss, in milliseconds of this world; `NOT_YET`: it is not.
    let declared = Arc::new(AtomicU64::new(0));
    let mut losing = tokio::spawn(lose(world.clone(), keeper, declared.clone()));
    let start = Instant::now();
    let checks = tokio::spawn(check(world.clone(), declared, start));
    process::run(world, 3, 1, move |worker| work(worker, know)).await?;
    checks.abort();
    losing.abort();
    if let Ok(ended) = (&mut losing).await {
        ended?;
    }
    Ok(())
}

async fn lose(world: Arc<World>, mut keeper: Keeper, declared: Arc<AtomicU64>) -> Result {
    let (mut random, start) = (world.random(), Instant::now());
    // First, who is to know it gets to know it.
    sleep(ms(20_000)).await;
    loop {
        look_now_and_then(&world, &mut keeper, ms(random.u64(500..12_000))).await?;
        world.log(|| "the server loses its data".to_owned());
        declared.store(NOT_YET, Ordering::Relaxed);
        if random.bool() {
            world.memory.flush_all();
        } else {
            world.memory.restart(false);
        }
        sleep(ms(random.u64(..1500))).await;
        keeper.declare(&world, ms(random.u64(..100))).await?;
        let now = start.elapsed().as_millis();
        declared.store(u64::try_from(now)?, Ordering::Relaxed);
    }
}

/// Two leases after the object was declared again, there are no two holders.
async fn check(world: Arc<World>, declared: Arc<AtomicU64>, start: Instant) {
    loop {
        sleep(ms(300)).await;
        let since = declared.load(Ordering::Relaxed);
        let believed = world.check(|invariants| invariants.believed("s"));
        if believed > 1 && since != NOT_YET && (start + ms(since)).elapsed() > 2 * LEASE {
            world.violation(format!("{believed} of 1 held, long after the loss"));
        }
    }
}

async fn work(mut worker: Worker, know: bool) -> Result {
    let options = Options::new().lease(LEASE);
    let mine = worker.client.semaphore("s")?.or_permits(1)?.with(options.clone());
    if know {
        hold(&mut worker, &mine, true, ms(30_000)).await?;
        sleep(ms(10_000)).await;
    }
    for _ in 0..ROUNDS {
        sleep(ms(worker.random.u64(..1500))).await;
        let semaphore = if know {
            mine.clone()
        } else {
            worker.client.semaphore("s")?.or_permits(1)?.with(options.clone())
        };
        let patience = ms(worker.random.u64(20..9000));
        hold(&mut worker, &semaphore, know, patience).await?;
    }
    Ok(())
}

async fn hold(worker: &mut Worker, semaphore: &Semaphore, know: bool, patience: Duration) -> Result {
    let got = semaphore.acquire_timeout(patience).await;
    let (world, process) = (&worker.world, &worker.process);
    let got = match got {
        Ok(Some(got)) => Arc::new(Got::Lease(got)),
        Ok(None) | Err(Error::Unreachable { .. } | Error::NotDeclared { .. }) => return Ok(()),
        Err(error) => {
            world.violation(format!("{process}: {error}"));
            return Ok(());
        }
    };
    world.log(|| format!("{process} has {:?}", **got));
    let limit = if know { 1 } else { u64::MAX };
    world.check(|invariants| {
        invariants.believes("s", process, 1, limit, &got);
        invariants.grew("s", got.fencing_token());
    });
    let longest = if know { 6000 } else { 15_000 };
    sleep(ms(worker.random.u64(..longest))).await;
    if let Some(got) = Arc::into_inner(got) {
        // It may be lost by now.
        let _ = got.release().await;
    }
    Ok(())
}
