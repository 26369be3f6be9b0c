//! A lock and a semaphore for which requests of several priorities wait: the invariant checker verifies that a larger one never
//! stands behind a smaller one, nor one behind its equal that came later. Their priority is in their reason.

use std::sync::Arc;

use tenure::{Error, Kind, Options};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    invariants::held,
    mixed_primitives::{self, Got, observe},
    process::{self, Worker, ms},
    world::{FaultProfile, World},
};
use crate::{Result, declare_semaphore, object};

const ROUNDS: usize = 4;
const PERMITS: u32 = 3;

pub(super) async fn run(world: &Arc<World>) -> Result {
    let semaphore = declare_semaphore(&world.observer, "s", PERMITS.into()).await?;
    let mut background = JoinSet::new();
    background.spawn(observe(world.clone(), vec![object(Kind::Lock, "x")?, semaphore]));
    process::run(world, 4, 3, work).await?;
    background.shutdown().await;
    mixed_primitives::nothing_is_left(world).await;
    Ok(())
}

async fn work(mut worker: Worker) -> Result {
    for _ in 0..ROUNDS {
        let random = &mut worker.random;
        sleep(ms(random.u64(..1500))).await;
        let priority = random.i8(-2..=2);
        let options = Options::new()
            .lease(ms(random.u64(400..4000)))
            .priority(priority)
            .reason(priority.to_string());
        let patience = ms(random.u64(20..10_000));
        let (name, permits, limit) = if random.bool() {
            ("x", 1, 1)
        } else {
            ("s", random.u32(1..=PERMITS), PERMITS)
        };
        let got = if limit == 1 {
            let lock = worker.client.lock(name)?.with(options);
            match random.u8(..4) {
                0 => lock.acquire_timeout(patience).await,
                1 => timeout(patience, lock.acquire()).await.ok().transpose(),
                _ => lock.acquire().await.map(Some),
            }
        } else {
            let semaphore = worker.client.semaphore(name)?.with(options);
            match random.u8(..4) {
                0 => semaphore.acquire_many_timeout(permits, patience).await,
                1 => timeout(patience, semaphore.acquire_many(permits))
                    .await
                    .ok()
                    .transpose(),
                _ => semaphore.acquire_many(permits).await.map(Some),
            }
        };
        let (world, process) = (&worker.world, &worker.process);
        let reliable = world.profile == FaultProfile::None;
        let got = match got {
            Ok(Some(got)) => Arc::new(Got::Lease(got)),
            // Also where its time is over while a request is on its way.
            Ok(None) | Err(Error::Unreachable { .. }) => continue,
            Err(error) => {
                world.violation(format!("{process}: {name}: {error}"));
                continue;
            }
        };
        world.log(|| format!("{process} has {permits}x {name} at {priority}: {:?}", **got));
        world.check(|invariants| invariants.granted(name, process, permits.into(), limit.into(), &got));
        sleep(ms(worker.random.u64(50..600))).await;
        if reliable && !held(&got) {
            world.violation(format!("{process}: lost for no reason: {:?}", **got));
        }
    }
    Ok(())
}
