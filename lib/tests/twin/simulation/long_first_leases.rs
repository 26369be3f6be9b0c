//! A semaphore whose first users have leases that are longer than those of the custom resource which then declares it, or
//! which `Retain` left; and then the server loses its data. Leases are exclusive.

use std::{sync::Arc, time::Duration};

use tenure::{Error, Options, control::Withdrawal};
use tokio::time::sleep;

use super::{
    keeper::{Keeper, look_now_and_then},
    mixed_primitives::Got,
    process::{self, Worker, ms},
    world::World,
};
use crate::Result;

const LONG: Duration = Duration::from_secs(20);

pub(super) async fn run(world: &Arc<World>) -> Result {
    let mut declaring = tokio::spawn(declare(world.clone()));
    process::run(world, 3, 1, work).await?;
    declaring.abort();
    if let Ok(ended) = (&mut declaring).await {
        ended?;
    }
    Ok(())
}

async fn declare(world: Arc<World>) -> Result {
    let mut random = world.random();
    let retained = random.bool();
    let mut keeper = Keeper::new(1, if retained { LONG } else { ms(1000) })?;
    sleep(ms(random.u64(..4000))).await;
    keeper.declare(&world, ms(random.u64(..50))).await?;
    if retained {
        sleep(ms(random.u64(..4000))).await;
        let keep = Duration::from_secs(60);
        keeper.withdraw(&world, Withdrawal::Retain { keep }).await?;
        keeper.lease = ms(1000);
        keeper.change();
        keeper.declare(&world, Duration::ZERO).await?;
    }
    loop {
        look_now_and_then(&world, &mut keeper, ms(random.u64(300..20_000))).await?;
        match random.u8(..3) {
            0 => world.memory.restart(random.bool()),
            // No client is notified.
            _ => world.memory.flush_all(),
        }
        keeper.declare(&world, ms(random.u64(..50))).await?;
    }
}

async fn work(mut worker: Worker) -> Result {
    for _ in 0..3 {
        sleep(ms(worker.random.u64(..1000))).await;
        // Made anew where it is new; else it is not made, also not after a loss.
        let semaphore = worker.client.semaphore("s")?;
        let first = worker.number == 0 && worker.process.starts_with("process-0");
        let semaphore = if first && worker.world.check(|invariants| invariants.grants()) == 0 {
            semaphore.or_permits(1)?
        } else {
            semaphore
        };
        let got = semaphore
            .with(Options::new().lease(LONG))
            .acquire_timeout(ms(worker.random.u64(..60_000)))
            .await;
        let (world, process) = (&worker.world, &worker.process);
        match got {
            Ok(Some(got)) => {
                let got = Arc::new(Got::Lease(got));
                world.log(|| format!("{process} has {:?}", **got));
                world.check(|invariants| invariants.granted("s", process, 1, 1, &got));
                sleep(ms(worker.random.u64(..30_000))).await;
                if let Some(got) = Arc::into_inner(got) {
                    let _ = got.release().await;
                }
            }
            Ok(None) | Err(Error::Unreachable { .. } | Error::NotDeclared { .. }) => {}
            Err(error) => world.violation(format!("{process}: {error}")),
        }
    }
    Ok(())
}
