//! A server clock that jumps ahead, and pushes that are as late as the jump is long: a jump ends leases early, which their
//! holders cannot know; but what is granted after a jump is held by one alone until the next.

use std::{
    sync::{Arc, Mutex, Weak},
    time::SystemTime,
};

use tenure::Options;
use tokio::{task::JoinSet, time::sleep};

use super::{
    invariants::held,
    mixed_primitives::{self, Got},
    process::{self, Worker, ms},
    world::World,
};
use crate::{Result, lock};

const ROUNDS: usize = 6;

/// Leases granted since the last jump.
struct Era {
    /// Time of the jump by the server's clock.
    began: SystemTime,
    leases: Vec<(String, Weak<Got>)>,
}

type Shared = Arc<Mutex<Era>>;

pub(super) async fn run(world: &Arc<World>) -> Result {
    let era: Shared = Arc::new(Mutex::new(Era {
        began: SystemTime::UNIX_EPOCH,
        leases: Vec::new(),
    }));
    world.delay_pushes(1500);
    let mut background = JoinSet::new();
    background.spawn(jump(world.clone(), era.clone()));
    process::run(world, 4, 1, move |worker| work(worker, era.clone())).await?;
    background.shutdown().await;
    world.stop_faults();
    mixed_primitives::nothing_is_left(world).await;
    Ok(())
}

async fn jump(world: Arc<World>, era: Shared) {
    let mut random = world.random();
    loop {
        sleep(ms(random.u64(..2000))).await;
        let by = ms(random.u64(500..3000));
        world.log(|| format!("the clock jumps ahead by {by:?}"));
        world.memory.set_clock(world.memory.clock() + by);
        *lock(&era) = Era {
            began: world.memory.clock(),
            leases: Vec::new(),
        };
    }
}

async fn work(mut worker: Worker, era: Shared) -> Result {
    for _ in 0..ROUNDS {
        let random = &mut worker.random;
        sleep(ms(random.u64(..100))).await;
        let options = Options::new().lease(ms(random.u64(300..1500)));
        let locked = worker.client.lock("x")?.with(options);
        let (world, process) = (&worker.world, &worker.process);
        let got = match locked.acquire_timeout(ms(random.u64(..6000))).await {
            Ok(Some(got)) => Arc::new(Got::Lease(got)),
            Ok(None) => continue,
            Err(error) if error.is_unreachable() => continue,
            Err(error) => {
                world.violation(format!("{process}: {error}"));
                continue;
            }
        };
        world.log(|| format!("{process} has {got:?}"));
        noted(world, &era, process, &got);
        sleep(ms(worker.random.u64(..1500))).await;
        if worker.random.bool()
            && let Some(got) = Arc::into_inner(got)
        {
            // It may be lost by now.
            let _ = got.release().await;
        }
    }
    Ok(())
}

/// Notes a new lease; no other lease that was granted since the last jump may be held.
fn noted(world: &World, era: &Shared, process: &str, got: &Arc<Got>) {
    let mut era = lock(era);
    if got.acquired_at() < era.began {
        return;
    }
    for (other, old) in &era.leases {
        if let Some(old) = old.upgrade()
            && held(&old)
            && held(got)
        {
            world.violation(format!("{other} holds {old:?} beside {process}, {got:?}"));
        }
    }
    era.leases.push((process.to_owned(), Arc::downgrade(got)));
}
