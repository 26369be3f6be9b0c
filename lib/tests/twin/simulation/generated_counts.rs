//! A pool of generated resources whose count and prefix change while they are held: no resource has two holders, none is
//! granted that is out of service, and in the end all of them can be had.

use std::{sync::Arc, time::Duration};

use tenure::{
    Error, Kind, Options, PoolLease,
    control::{Declaration, Order},
};
use tokio::time::{sleep, timeout};

use super::{
    invariants::held,
    mixed_primitives::{self, Got},
    process::{self, Worker, ms},
    world::{FaultProfile, World},
};
use crate::{Result, client, generated, object};

const ROUNDS: usize = 4;
/// More than one call takes out of service.
const MOST: u64 = 700;
const PREFIXES: [&str; 4] = ["a", "a", "a", "b"];

pub(super) async fn run(world: &Arc<World>) -> Result {
    let mut random = world.random();
    let orders = [Order::LeastRecentlyUsed, Order::MostRecentlyUsed, Order::Random];
    let order = orders[random.usize(..orders.len())];
    declare(world, order, PREFIXES[0], MOST).await?;
    let mut changing = tokio::spawn(change(world.clone(), order));
    process::run(world, 3, 3, work).await?;
    changing.abort();
    if let Ok(ended) = (&mut changing).await {
        ended?;
    }
    world.stop_faults();
    let prefix = PREFIXES[random.usize(..PREFIXES.len())];
    let count = 10 + random.u64(..MOST);
    declare(world, order, prefix, count).await?;
    let last = client(&world.memory, "last").await?;
    let mut leases = Vec::new();
    for from in (0..count).step_by(100) {
        let some = u32::try_from(100.min(count - from))?;
        let some = last.lock_pool("p")?.many(some);
        match some.acquire_timeout(Duration::from_secs(120)).await? {
            Some(some) => leases.push(some),
            None => world.violation(format!("only {from} of {count} could be had in the end")),
        }
    }
    let all = leases.iter().flat_map(PoolLease::resources);
    let mut all: Vec<_> = all.map(|(name, _)| name.as_str()).collect();
    in_service(world, "last", all.iter().copied(), prefix, count);
    let had = all.len();
    all.sort_unstable();
    all.dedup();
    if had != all.len() {
        world.violation("a resource was had twice in the end");
    }
    drop(leases);
    last.close().await;
    mixed_primitives::nothing_is_left(world).await;
    let seen = world
        .observer
        .control()
        .look(&object(Kind::Pool, "p")?, 0)
        .await?;
    if seen.as_ref().is_none_or(|seen| seen.free != count) {
        world.violation(format!("{count} are not free in the end: {seen:?}"));
    }
    Ok(())
}

async fn declare(world: &World, order: Order, prefix: &str, count: u64) -> Result {
    let declaration = Declaration {
        floor: 0,
        lease: ms(4000),
        ..generated(order, prefix, count)
    };
    let pool = object(Kind::Pool, "p")?;
    world.observer.control().declare(&pool, &declaration).await?;
    Ok(())
}

/// Changes the declaration again and again, and checks what is granted after each change.
async fn change(world: Arc<World>, order: Order) -> Result {
    let mut random = world.random();
    let pool = object(Kind::Pool, "p")?;
    loop {
        let prefix = PREFIXES[random.usize(..PREFIXES.len())];
        let count = match random.u8(..3) {
            0 => 0,
            1 => random.u64(..20),
            _ => random.u64(..=MOST),
        };
        declare(&world, order, prefix, count).await?;
        let mut newest = None;
        for _ in 0..random.usize(1..20) {
            let seen = world.observer.control().look(&pool, 100).await?;
            let seen = seen.ok_or("the pool is gone")?;
            world.log(|| format!("{prefix}{count}: {} free", seen.free));
            let newest = *newest.get_or_insert(seen.last_fence);
            if seen.free > count {
                world.violation(format!("{} are free of {count}", seen.free));
            }
            for holder in seen.holders.iter().filter(|holder| holder.fence > newest) {
                in_service(
                    &world,
                    "a holder",
                    holder.resources.iter().map(String::as_str),
                    prefix,
                    count,
                );
            }
            sleep(ms(random.u64(..200))).await;
        }
    }
}

fn in_service<'a>(
    world: &World,
    who: &str,
    names: impl IntoIterator<Item = &'a str>,
    prefix: &str,
    count: u64,
) {
    for name in names {
        let index = name.strip_prefix(prefix).and_then(|index| index.parse().ok());
        if index.is_none_or(|index: u64| index >= count) {
            world.violation(format!(
                "{who} got {name} while {prefix}0 to {count} are in service"
            ));
        }
    }
}

async fn work(mut worker: Worker) -> Result {
    for _ in 0..ROUNDS {
        let random = &mut worker.random;
        sleep(ms(random.u64(..800))).await;
        let pool = worker.client.lock_pool("p")?;
        let pool = pool.with(Options::new().lease(ms(random.u64(400..4000))));
        let name = format!("a{}", random.u64(..30));
        let pool = match random.u8(..7) {
            0 => pool.named([&name])?,
            // Marks of resources that were never handed out.
            4 => {
                let first = random.u64(..MOST / 2);
                pool.named((first..first + random.u64(20..60)).map(|index| format!("a{index}")))?
            }
            1 => pool.preferring(&name)?,
            2 => pool.many(random.u32(2..5)),
            3 => pool.many(random.u32(30..90)),
            _ => pool,
        };
        let patience = ms(random.u64(20..6000));
        let got = match random.u8(..4) {
            0 => pool.try_acquire().await,
            1 => pool.acquire_timeout(patience).await,
            _ => timeout(patience, pool.acquire()).await.ok().transpose(),
        };
        let (world, process) = (&worker.world, &worker.process);
        let reliable = world.profile == FaultProfile::None;
        let seat = match got {
            Ok(Some(seat)) => seat,
            Ok(None)
            | Err(Error::TooLarge { .. } | Error::NoSuchResource { .. } | Error::Unreachable { .. }) => {
                continue;
            }
            Err(error) => {
                world.violation(format!("{process}: {error}"));
                continue;
            }
        };
        let names: Vec<String> = seat.resources().iter().map(|(name, _)| name.clone()).collect();
        world.log(|| format!("{process} has {names:?}"));
        let got = Arc::new(Got::Seat(seat));
        world.check(|invariants| {
            for name in names.iter().filter(|_| held(&got)) {
                invariants.believes(name, process, 1, 1, &got);
            }
        });
        sleep(ms(worker.random.u64(..2000))).await;
        if reliable && !held(&got) {
            world.violation(format!("{process}: lost for no reason: {:?}", **got));
        }
        if let (true, Some(got)) = (worker.random.bool(), Arc::into_inner(got))
            && let Err(error) = got.release().await
            && (reliable || !matches!(error, Error::Unreachable { .. } | Error::Lost { .. }))
        {
            world.violation(format!("{process}: the release says {error}"));
        }
    }
    Ok(())
}
