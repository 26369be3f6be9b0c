//! A declared semaphore whose spec changes again and again, which loses its data, and whose custom resource is deleted and
//! applied again, or restored from a backup without its status: its fencing tokens grow nevertheless.

use std::{sync::Arc, time::Duration};

use tenure::{Error, control::Withdrawal};
use tokio::time::sleep;

use super::{
    keeper::Keeper,
    process::{self, Worker, ms},
    world::World,
};
use crate::Result;

const ROUNDS: usize = 12;
const LEASE: Duration = Duration::from_secs(1);

pub(super) async fn run(world: &Arc<World>) -> Result {
    let mut keeper = Keeper::new(1, LEASE)?;
    keeper.declare(world, Duration::ZERO).await?;
    let mut changing = tokio::spawn(change(world.clone(), keeper));
    process::run(world, 2, 2, work).await?;
    changing.abort();
    if let Ok(ended) = (&mut changing).await {
        ended?;
    }
    Ok(())
}

async fn change(world: Arc<World>, mut keeper: Keeper) -> Result {
    let mut random = world.random();
    loop {
        sleep(ms(random.u64(..2500))).await;
        if random.u8(..4) == 0 {
            keeper.crash();
        }
        match random.u8(..8) {
            0 => world.memory.flush_all(),
            1 => world.memory.restart(false),
            2 => world.memory.restart(true),
            3 => {
                // It may go while what was planned is on its way.
                let memory = world.memory.clone();
                let after = ms(random.u64(..1500));
                keeper.change();
                tokio::spawn(async move {
                    sleep(after).await;
                    memory.restart(false);
                });
                keeper.declare(&world, ms(1500)).await?;
            }
            4 => keeper.withdraw(&world, Withdrawal::Delete).await?,
            5 => {
                let keep = Duration::from_secs(60);
                keeper.withdraw(&world, Withdrawal::Retain { keep }).await?;
            }
            6 => keeper.forget(),
            _ => {
                for _ in 0..random.u8(1..40) {
                    keeper.change();
                    keeper.declare(&world, Duration::ZERO).await?;
                }
            }
        }
        keeper.declare(&world, ms(random.u64(..50))).await?;
    }
}

async fn work(mut worker: Worker) -> Result {
    let semaphore = worker.client.semaphore("s")?;
    for _ in 0..ROUNDS {
        sleep(ms(worker.random.u64(..500))).await;
        let got = semaphore.acquire_timeout(ms(3000)).await;
        let (world, process) = (&worker.world, &worker.process);
        match got {
            Ok(Some(got)) => {
                world.log(|| format!("{process} has {got:?}"));
                world.check(|invariants| invariants.grew("s", got.fencing_token()));
                sleep(ms(worker.random.u64(..500))).await;
                let _ = got.release().await;
            }
            Ok(None) | Err(Error::Unreachable { .. } | Error::NotDeclared { .. }) => {}
            Err(error) => world.violation(format!("{process}: {error}")),
        }
    }
    Ok(())
}
