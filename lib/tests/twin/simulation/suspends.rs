//! The machine of all clients is suspended again and again, while the server's clock keeps running: no client continues with a
//! lease that the server has ended meanwhile.

use std::sync::Arc;

use tenure::{Kind, LeaseState, Options};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    mixed_primitives::{self, Got},
    process::{self, Worker, ms},
    world::World,
};
use crate::{Result, object};

const ROUNDS: usize = 6;

pub(super) async fn run(world: &Arc<World>) -> Result {
    let mut background = JoinSet::new();
    background.spawn(suspend(world.clone()));
    process::run(world, 3, 1, work).await?;
    background.shutdown().await;
    if world.check(|invariants| invariants.grants()) == 0 {
        world.violation("nothing was ever granted");
    }
    let snapshot = world
        .observer
        .control()
        .look(&object(Kind::Lock, "x")?, 10)
        .await?;
    if snapshot.is_some_and(|snapshot| snapshot.waiting > 0) {
        world.violation("a client still waits at the end");
    }
    mixed_primitives::nothing_is_left(world).await;
    Ok(())
}

async fn suspend(world: Arc<World>) {
    let mut random = world.random();
    loop {
        sleep(ms(random.u64(..3000))).await;
        let span = ms(random.u64(..5000));
        world.log(|| format!("the clients are suspended for {span:?}"));
        world.memory.suspend(span);
    }
}

async fn work(mut worker: Worker) -> Result {
    for _ in 0..ROUNDS {
        let random = &mut worker.random;
        sleep(ms(random.u64(..500))).await;
        let options = Options::new().lease(ms(random.u64(300..4000)));
        let locked = worker.client.lock("x")?.with(options);
        let (world, process) = (&worker.world, &worker.process);
        let got = match locked.acquire_timeout(ms(random.u64(..6000))).await {
            Ok(Some(got)) => Arc::new(Got::Lease(got)),
            Ok(None) => continue,
            // Suspended while the grant was on its way.
            Err(error) if error.is_unreachable() => continue,
            Err(error) => {
                world.violation(format!("{process}: {error}"));
                continue;
            }
        };
        world.log(|| format!("{process} has {got:?}"));
        world.check(|invariants| invariants.granted("x", process, 1, 1, &got));
        let work = ms(worker.random.u64(..2000));
        let told = timeout(work, got.lost()).await.is_ok();
        // The holder is notified within a second after the loss.
        if !told
            && matches!(got.state(), LeaseState::Lost { .. })
            && timeout(ms(1001), got.lost()).await.is_err()
        {
            world.violation(format!("{process}: lost, and not told: {got:?}"));
        }
        if worker.random.bool()
            && let Some(got) = Arc::into_inner(got)
        {
            // It may be lost by now.
            let _ = got.release().await;
        }
    }
    Ok(())
}
