//! Owners of a reentrant lock with several tasks each, which enter, reenter, try, give up and are dropped side by
//! side: an owner that holds can always enter again, and two owners never hold at once.

use std::{sync::Arc, time::Duration};

use fastrand::Rng;
use futures_util::future::join_all;
use tenure::{Error, Options, ReentrantLease, ReentrantLock};
use tokio::time::{Instant, sleep, timeout};

use super::{
    invariants::held,
    mixed_primitives::{self, Got},
    process::{self, Worker, ms},
    world::{FaultProfile, World},
};
use crate::{Result, client};

const TASKS: usize = 3;
const ROUNDS: usize = 4;
const LOCK: &str = "n";

pub(super) async fn run(world: &Arc<World>) -> Result {
    process::run(world, 3, 1, work).await?;
    world.stop_faults();
    let last = client(&world.memory, "last").await?;
    let patience = Duration::from_secs(60);
    if last.lock(LOCK)?.acquire_timeout(patience).await?.is_none() {
        world.violation("it could not be had in the end");
    }
    last.close().await;
    mixed_primitives::nothing_is_left(world).await;
    Ok(())
}

async fn work(mut worker: Worker) -> Result {
    let options = Options::new().lease(ms(worker.random.u64(1000..4000)));
    let owner = worker.client.reentrant_lock(LOCK)?.with(options);
    let tasks: Vec<_> = (0..TASKS).map(|_| worker.random.fork()).collect();
    let tasks = tasks
        .into_iter()
        .map(|random| task(&worker.world, &worker.process, &owner, random));
    join_all(tasks).await.into_iter().collect()
}

async fn task(world: &World, process: &str, owner: &ReentrantLock, mut random: Rng) -> Result {
    for _ in 0..ROUNDS {
        sleep(ms(random.u64(..600))).await;
        let patience = ms(random.u64(20..1500));
        let started = Instant::now();
        let got = match random.u8(..3) {
            0 => owner.try_acquire().await,
            1 => {
                let got = owner.acquire_timeout(patience).await;
                // Leaving the queue takes a round trip.
                if world.profile == FaultProfile::None && started.elapsed() > patience + ms(50) {
                    world.violation(format!("{process}: {patience:?} took {:?}", started.elapsed()));
                }
                got
            }
            // Dropped on the way.
            _ => match timeout(patience, owner.acquire()).await {
                Ok(got) => got.map(Some),
                Err(_) => Ok(None),
            },
        };
        let Some(lease) = judged(world, process, got) else {
            continue;
        };
        let first = owner.depth() == 1;
        let got = Arc::new(Got::Reentrant(lease));
        if first && held(&got) {
            world.check(|invariants| invariants.believes(LOCK, process, 1, 1, &got));
        }
        sleep(ms(random.u64(..300))).await;
        inside(world, process, owner, &got).await;
        let release = Arc::into_inner(got)
            .ok_or("another reference keeps the lease")?
            .release();
        if random.bool() {
            drop(judged(world, process, release.await.map(|()| None)));
        }
    }
    Ok(())
}

/// An owner can enter again, whatever its other tasks do.
async fn inside(world: &World, process: &str, owner: &ReentrantLock, outer: &Got) {
    if owner.depth() == 0 {
        world.violation(format!("{process}: in, and not deep"));
    }
    match owner.try_acquire().await {
        Ok(Some(inner)) if inner.fencing_token() != outer.fencing_token() && held(outer) => {
            world.violation(format!("{process}: {inner:?} within {:?}", **outer));
        }
        Ok(None) => world.violation(format!("{process}: busy, for its own owner")),
        other => drop(judged(world, process, other)),
    }
}

fn judged(
    world: &World,
    process: &str,
    outcome: std::result::Result<Option<ReentrantLease>, Error>,
) -> Option<ReentrantLease> {
    match outcome {
        Ok(lease) => lease,
        Err(Error::Unreachable { .. } | Error::Lost { .. }) if world.profile != FaultProfile::None => None,
        Err(error) => {
            world.violation(format!("{process}: {error}"));
            None
        }
    }
}
