//! A declared semaphore and a pool that programs keep only become smaller while requests of all sizes, and for resources by
//! their names, wait without a timeout. Each is granted or gets the error that a new request would get: none waits forever,
//! and none keeps the others waiting.

use std::{sync::Arc, time::Duration};

use tenure::{
    Error, Kind, Options,
    control::{Capacity, Declaration, Resource},
};
use tokio::time::{sleep, timeout};

use super::{
    invariants::held,
    mixed_primitives::Got,
    process::{self, Worker, ms},
    world::{FaultProfile, World},
};
use crate::{Result, object};

const ROUNDS: usize = 4;
const MOST: usize = 5;
const NAMES: [&str; MOST] = ["a", "b", "c", "d", "e"];
/// Longer than all holds together, and longer than the renewal period of a queue entry.
const PATIENCE: Duration = Duration::from_secs(120);

pub(super) async fn run(world: &Arc<World>) -> Result {
    declare(world, MOST).await?;
    world
        .observer
        .lock_pool("p")?
        .assign(NAMES.map(Resource::new))
        .await?;
    let mut shrinking = tokio::spawn(shrink(world.clone()));
    process::run(world, 3, 3, work).await?;
    shrinking.abort();
    if let Ok(ended) = (&mut shrinking).await {
        ended?;
    }
    let control = world.observer.control();
    for object in [object(Kind::Semaphore, "s")?, object(Kind::Pool, "p")?] {
        sleep(Duration::from_secs(30)).await;
        let seen = control.look(&object, 10).await?;
        if seen.as_ref().is_some_and(|s| s.held + s.waiting > 0) {
            world.violation(format!("left in the end: {seen:?}"));
        }
    }
    Ok(())
}

async fn declare(world: &World, permits: usize) -> Result {
    let semaphore = object(Kind::Semaphore, "s")?;
    let declaration = Declaration {
        floor: 0,
        recovery: (permits < MOST).then_some(ms(2000)),
        lease: ms(2000),
        max_hold: None,
        capacity: Capacity::Permits(permits as u64),
    };
    world.observer.control().declare(&semaphore, &declaration).await?;
    Ok(())
}

async fn shrink(world: Arc<World>) -> Result {
    let mut random = world.random();
    let pool = world.observer.lock_pool("p")?;
    for left in (1..MOST).rev() {
        sleep(ms(random.u64(..2500))).await;
        world.log(|| format!("{left} are left"));
        declare(&world, left).await?;
        pool.shrink([NAMES[left]]).await?;
    }
    Ok(())
}

async fn work(mut worker: Worker) -> Result {
    for _ in 0..ROUNDS {
        let random = &mut worker.random;
        sleep(ms(random.u64(..500))).await;
        let options = Options::new().lease(ms(random.u64(400..4000)));
        let many = random.u32(1..=5);
        let name = NAMES[random.usize(..MOST)];
        let how = random.u8(..4);
        let (what, got) = match how {
            0 | 1 => {
                let semaphore = worker.client.semaphore("s")?.with(options);
                let got = timeout(PATIENCE, semaphore.acquire_many(many)).await;
                (format!("{many}x s"), got.map(|got| got.map(Got::Lease)))
            }
            2 => {
                let pool = worker.client.lock_pool("p")?.with(options).many(many);
                let got = timeout(PATIENCE, pool.acquire()).await;
                (format!("{many}x p"), got.map(|got| got.map(Got::Seat)))
            }
            _ => {
                let pool = worker.client.lock_pool("p")?.with(options).named([name])?;
                let got = timeout(PATIENCE, pool.acquire()).await;
                (format!("p {name}"), got.map(|got| got.map(Got::Seat)))
            }
        };
        let (world, process) = (&worker.world, &worker.process);
        let reliable = world.profile == FaultProfile::None;
        world.log(|| format!("{process} {what}: {got:?}"));
        let got = match got {
            Ok(Ok(got)) => got,
            Ok(Err(Error::TooLarge { asked, limit, .. })) if asked > limit => continue,
            Ok(Err(Error::NoSuchResource { .. })) if how == 3 => continue,
            Ok(Err(Error::Unreachable { .. })) if !reliable => continue,
            Ok(Err(error)) => {
                world.violation(format!("{process}: {what}: {error}"));
                continue;
            }
            Err(_) => {
                world.violation(format!("{process} waits for {what} for ever"));
                return Ok(());
            }
        };
        sleep(ms(random.u64(..1500))).await;
        if reliable && !held(&got) {
            world.violation(format!("{process}: lost for no reason: {what}"));
        }
        if let Err(error) = got.release().await
            && (reliable || !matches!(error, Error::Unreachable { .. } | Error::Lost { .. }))
        {
            world.violation(format!("{process}: the release of {what} says {error}"));
        }
    }
    Ok(())
}
