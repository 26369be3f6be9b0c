//! A pool whose requests wait for certain resources, more different ones than one call looks at: no resource has two holders,
//! each request gets what it asks for, and none waits for longer than all before it can take.

use std::{sync::Arc, time::Duration};

use tenure::{
    Error, Kind, Options, PoolLease,
    control::{Capacity, Declaration, Order, Resource},
};
use tokio::time::sleep;

use super::{
    invariants::held,
    mixed_primitives::{self, Got},
    process::{self, Worker, ms},
    world::{FaultProfile, World},
};
use crate::{Result, client, object};

const ROUNDS: usize = 1;
const RESOURCES: usize = 40;
const ZONES: usize = 10;
const LEASE: Duration = Duration::from_secs(2);
/// Time for all requests before it, one by one, with some that crash.
const PATIENCE: Duration = Duration::from_secs(120);

fn name(number: usize) -> String {
    format!("r{number}")
}

pub(super) async fn run(world: &Arc<World>) -> Result {
    let resource = |number: usize| {
        Resource::new(name(number))
            .property("host", format!("h{number}"))
            .property("zone", format!("z{}", number % ZONES))
    };
    let declaration = Declaration {
        floor: 0,
        recovery: None,
        lease: LEASE,
        max_hold: None,
        capacity: Capacity::Resources {
            order: Order::LeastRecentlyUsed,
            resources: (0..RESOURCES).map(resource).collect(),
        },
    };
    let object = object(Kind::Pool, "p")?;
    world.observer.control().declare(&object, &declaration).await?;
    // All are held until all wait, and then come free at once.
    let all = u32::try_from(RESOURCES)?;
    let held = world.observer.lock_pool("p")?.many(all).acquire().await?;
    let frees = async {
        sleep(ms(300)).await;
        held.release().await
    };
    let (lived, released) = tokio::join!(process::run(world, 2, 24, work), frees);
    lived?;
    released?;
    world.stop_faults();
    let last = client(&world.memory, "last").await?;
    if last
        .lock_pool("p")?
        .many(all)
        .acquire_timeout(PATIENCE)
        .await?
        .is_none()
    {
        world.violation("not all could be had in the end");
    }
    last.close().await;
    mixed_primitives::nothing_is_left(world).await;
    Ok(())
}

async fn work(mut worker: Worker) -> Result {
    for _ in 0..ROUNDS {
        let random = &mut worker.random;
        sleep(ms(random.u64(..200))).await;
        let (world, process) = (&worker.world, &worker.process);
        let reliable = world.profile == FaultProfile::None;
        let number = random.usize(..RESOURCES);
        let other = (number + 1) % RESOURCES;
        let pool = worker.client.lock_pool("p")?.with(Options::new().lease(LEASE));
        let how = random.u8(..5);
        let pool = match how {
            0 => pool.named([name(number)])?,
            1 => pool.named([name(number), name(other)])?,
            2 => pool.matching([("host", format!("h{number}"))])?,
            3 => pool.matching([("zone", format!("z{}", number % ZONES))])?,
            _ => pool,
        };
        let got = match pool.acquire_timeout(PATIENCE).await {
            Ok(Some(seat)) => seat,
            Ok(None) => {
                world.violation(format!("{process}: {how} {number}: not served"));
                continue;
            }
            Err(Error::Unreachable { .. }) if !reliable => continue,
            Err(error) => {
                world.violation(format!("{process}: {error}"));
                continue;
            }
        };
        if !as_asked(how, number, &got) {
            world.violation(format!("{process}: {how} {number} gave {got:?}"));
        }
        let names: Vec<String> = got.resources().iter().map(|(name, _)| name.clone()).collect();
        let got = Arc::new(Got::Seat(got));
        world.check(|invariants| {
            for name in names.iter().filter(|_| held(&got)) {
                invariants.believes(name, process, 1, 1, &got);
            }
        });
        sleep(ms(worker.random.u64(..500))).await;
        if let (true, Some(got)) = (worker.random.bool(), Arc::into_inner(got)) {
            match got.release().await {
                Ok(()) => {}
                Err(Error::Unreachable { .. } | Error::Lost { .. }) if !reliable => {}
                Err(error) => world.violation(format!("{process}: the release says {error}")),
            }
        }
    }
    Ok(())
}

fn as_asked(how: u8, number: usize, seat: &PoolLease) -> bool {
    let properties = seat.properties();
    match how {
        0 => seat.resource() == name(number),
        1 => seat.resources().len() == 2,
        2 => properties["host"] == format!("h{number}"),
        3 => properties["zone"] == format!("z{}", number % ZONES),
        _ => seat.resources().len() == 1,
    }
}
