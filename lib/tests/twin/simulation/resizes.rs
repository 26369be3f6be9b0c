//! A declared semaphore whose permits become more and fewer while they are held and waited for, on a server whose clock is
//! set back again and again: what is too much drains, and nothing is granted meanwhile; a clock that is set back frees no
//! held permit, and blocks no client forever.

use std::{sync::Arc, time::Duration};

use tenure::{
    Error, Kind, ObjectRef, Options,
    control::{Capacity, Declaration},
};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    invariants::held,
    mixed_primitives::{Got, observe},
    process::{self, Worker, ms},
    world::{FaultProfile, World},
};
use crate::{Result, client, object};

const ROUNDS: usize = 4;
const MOST: u64 = 5;
const LEASE: Duration = Duration::from_secs(2);

pub(super) async fn run(world: &Arc<World>) -> Result {
    let semaphore = object(Kind::Semaphore, "s")?;
    declare(world, &semaphore, 0, MOST).await?;
    let mut background = JoinSet::new();
    background.spawn(observe(world.clone(), vec![semaphore.clone()]));
    background.spawn(resize(world.clone(), semaphore.clone()));
    background.spawn(set_back(world.clone()));
    process::run(world, 4, 3, work).await?;
    background.shutdown().await;
    world.stop_faults();
    declare(world, &semaphore, u64::MAX, MOST).await?;
    let last = client(&world.memory, "last").await?;
    let patience = Duration::from_secs(60);
    let all = last.semaphore("s")?.acquire_many_timeout(5, patience).await?;
    if all.is_none() {
        world.violation("not all could be had in the end");
    }
    drop(all);
    last.close().await;
    let snapshot = world.observer.control().look(&semaphore, 10).await?;
    if !snapshot.as_ref().is_some_and(|s| s.held == 0 && s.waiting == 0) {
        world.violation(format!("left in the end: {snapshot:?}"));
    }
    Ok(())
}

async fn declare(world: &World, semaphore: &ObjectRef, version: u64, permits: u64) -> Result {
    let declaration = Declaration {
        floor: 0,
        recovery: (version > 0).then_some(LEASE),
        lease: LEASE,
        // Longer than any run: it distinguishes the declarations.
        max_hold: Some(Duration::from_secs(86_400 + version % 1000)),
        capacity: Capacity::Permits(permits),
    };
    world.log(|| format!("{permits} permits"));
    world.observer.control().declare(semaphore, &declaration).await?;
    Ok(())
}

async fn resize(world: Arc<World>, semaphore: ObjectRef) {
    let mut random = world.random();
    for version in 1.. {
        sleep(ms(random.u64(..2000))).await;
        if let Err(error) = declare(&world, &semaphore, version, random.u64(1..=MOST)).await {
            return world.violation(format!("it could not be declared: {error}"));
        }
    }
}

async fn set_back(world: Arc<World>) {
    let mut random = world.random();
    loop {
        sleep(ms(random.u64(..10_000))).await;
        let by = match random.u8(..3) {
            0 => ms(random.u64(..100)),
            1 => ms(random.u64(..5000)),
            _ => Duration::from_secs(random.u64(..7200)),
        };
        world.log(|| format!("the clock is set back by {by:?}"));
        world.memory.set_clock(world.memory.clock() - by);
    }
}

async fn work(mut worker: Worker) -> Result {
    for _ in 0..ROUNDS {
        let random = &mut worker.random;
        sleep(ms(random.u64(..800))).await;
        let options = Options::new().lease(ms(random.u64(200..4000)));
        let semaphore = worker.client.semaphore("s")?.with(options);
        let (permits, patience) = (random.u32(1..=3), ms(random.u64(..6000)));
        let got = match random.u8(..4) {
            0 => semaphore.try_acquire_many(permits).await,
            1 => semaphore.acquire_many_timeout(permits, patience).await,
            2 => match timeout(patience, semaphore.acquire_many(permits)).await {
                Ok(got) => got.map(Some),
                Err(_) => Ok(None),
            },
            // Fewer than all, but maybe more than there are now: a waiting request continues.
            _ => semaphore.acquire_many(permits).await.map(Some),
        };
        let (world, process) = (&worker.world, &worker.process);
        let reliable = world.profile == FaultProfile::None;
        let got = match got {
            Ok(Some(got)) => Arc::new(Got::Lease(got)),
            // Also where its time is over while a request is on its way.
            Ok(None) | Err(Error::TooLarge { .. } | Error::Unreachable { .. }) => continue,
            Err(error) => {
                world.violation(format!("{process}: {error}"));
                continue;
            }
        };
        world.log(|| format!("{process} has {permits}x {:?}", **got));
        world.check(|invariants| invariants.granted("s", process, permits.into(), MOST, &got));
        sleep(ms(random.u64(..2500))).await;
        if reliable && !held(&got) {
            world.violation(format!("{process}: lost for no reason: {:?}", **got));
        }
        if let (true, Some(got)) = (random.bool(), Arc::into_inner(got))
            && let Err(error) = got.release().await
            && (reliable || !matches!(error, Error::Unreachable { .. } | Error::Lost { .. }))
        {
            world.violation(format!("{process}: the release says {error}"));
        }
    }
    Ok(())
}
