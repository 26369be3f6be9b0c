//! A declared semaphore of one permit on two servers: a failover leads all clients to a second server, which has the data
//! or not, and a failback to the first one, which has lived on under its run id and with its data. Clients are kept waiting
//! until the controller has looked. Leases are exclusive, no lease is lost, and the fencing tokens grow.

use std::{sync::Arc, time::Duration};

use tenure::{Error, Options};
use tokio::time::sleep;

use super::{
    invariants::held,
    keeper::{Keeper, look_now_and_then},
    mixed_primitives::Got,
    process::{self, Worker, ms},
    world::World,
};
use crate::Result;

const ROUNDS: usize = 5;
const LEASE: Duration = Duration::from_secs(3);

pub(super) async fn run(world: &Arc<World>) -> Result {
    let mut keeper = Keeper::new(1, LEASE)?;
    keeper.declare(world, Duration::ZERO).await?;
    let mut failing = tokio::spawn(fail_over_and_back(world.clone(), keeper));
    process::run(world, 3, 2, work).await?;
    failing.abort();
    if let Ok(ended) = (&mut failing).await {
        ended?;
    }
    if world.check(|invariants| invariants.grants()) == 0 {
        world.violation("nothing was ever granted");
    }
    Ok(())
}

async fn fail_over_and_back(world: Arc<World>, mut keeper: Keeper) -> Result {
    let mut random = world.random();
    loop {
        look_now_and_then(&world, &mut keeper, ms(random.u64(500..6000))).await?;
        let first = world.memory.save();
        world.refuse(Some("LOADING the data"));
        world.log(|| "a failover".to_owned());
        world.memory.restart(random.bool());
        keeper.declare(&world, ms(random.u64(..300))).await?;
        world.refuse(None);
        if random.bool() {
            world.log(|| "the controller dies".to_owned());
            keeper.crash();
        }
        look_now_and_then(&world, &mut keeper, ms(random.u64(500..9000))).await?;
        if random.bool() {
            keeper.crash();
        }
        world.refuse(Some("LOADING the data"));
        world.log(|| "a failback".to_owned());
        world.memory.restore(&first);
        if random.bool() {
            keeper.change();
        }
        keeper.declare(&world, ms(random.u64(..300))).await?;
        world.refuse(None);
    }
}

async fn work(mut worker: Worker) -> Result {
    for _ in 0..ROUNDS {
        let random = &mut worker.random;
        sleep(ms(random.u64(..800))).await;
        // A client notices within 0.7 s that a server serves again after 0.3 s. After a grant by push, a lease has at least a
        // quarter of its time left when a renewal is due.
        let options = Options::new().lease(ms(random.u64(2800..4000)));
        let semaphore = worker.client.semaphore("s")?.with(options);
        let got = if random.bool() {
            semaphore.try_acquire().await
        } else {
            semaphore.acquire_timeout(ms(random.u64(..8000))).await
        };
        let (world, process) = (&worker.world, &worker.process);
        let got = match got {
            Ok(Some(got)) => Arc::new(Got::Lease(got)),
            Ok(None) | Err(Error::Unreachable { .. } | Error::NotDeclared { .. }) => continue,
            Err(error) => {
                world.violation(format!("{process}: {error}"));
                continue;
            }
        };
        world.log(|| format!("{process} has {:?}", **got));
        world.check(|invariants| invariants.granted("s", process, 1, 1, &got));
        sleep(ms(random.u64(..6000))).await;
        if !held(&got) {
            world.violation(format!("{process}: lost for no reason: {:?}", **got));
        }
        if let Some(got) = Arc::into_inner(got) {
            // Any outcome is valid: the server may be on its way.
            let _ = got.release().await;
        }
    }
    Ok(())
}
