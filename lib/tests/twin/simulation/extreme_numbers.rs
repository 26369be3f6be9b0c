//! Requests with the smallest and the largest numbers that there are: each is granted, refused by an error that names the
//! value, or ends with its timeout. Limits hold, no request waits forever, and nothing is left.

use std::{sync::Arc, time::Duration};

use tenure::{
    Error, Kind, Options,
    control::{Capacity, Declaration, Order},
};
use tokio::time::sleep;

use super::{
    mixed_primitives::{self, Got},
    process::{self, Worker, ms},
    world::World,
};
use crate::{Result, object};

const ROUNDS: usize = 6;
/// More than the object has is among them, and more than anything may have.
const COUNTS: [u32; 6] = [0, 1, 2, 10_000, 10_001, u32::MAX];
const SPANS: [Duration; 8] = [
    Duration::ZERO,
    Duration::from_nanos(1),
    Duration::from_millis(1),
    Duration::from_millis(5),
    Duration::from_secs(1),
    Duration::from_secs(86_400),
    Duration::from_secs(30 * 86_400),
    Duration::MAX,
];
/// An hour of grace would keep all others waiting for that long, by right.
const GRACES: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(1),
    Duration::from_secs(10),
    Duration::from_secs(86_400),
    Duration::MAX,
];

pub(super) async fn run(world: &Arc<World>) -> Result {
    let mut random = world.random();
    let most = [1, 2, u64::from(u32::MAX), 1_000_000, (1 << 53) - 1];
    let mut declared = declare(world, Kind::Semaphore, "s", most[random.usize(..most.len())]).await;
    if let Err(Error::InvalidInput { .. }) = declared {
        declared = declare(world, Kind::Semaphore, "s", 1).await;
    }
    let permits = declared?;
    let mut declared = declare(world, Kind::Pool, "p", most[random.usize(..most.len())]).await;
    if let Err(Error::InvalidInput { .. }) = declared {
        declared = declare(world, Kind::Pool, "p", 20_000).await;
    }
    let resources = declared?;
    process::run(world, 3, 3, move |worker| work(worker, permits, resources)).await?;
    mixed_primitives::nothing_is_left(world).await;
    for (kind, name, limit) in [(Kind::Semaphore, "s", permits), (Kind::Pool, "p", resources)] {
        let seen = world.observer.control().look(&object(kind, name)?, 0).await?;
        if seen
            .as_ref()
            .is_none_or(|seen| seen.held + seen.waiting > 0 || seen.free != limit)
        {
            world.violation(format!("left in the end: {seen:?}"));
        }
    }
    Ok(())
}

async fn declare(world: &World, kind: Kind, name: &str, count: u64) -> std::result::Result<u64, Error> {
    let declaration = Declaration {
        floor: 1 << 50,
        recovery: None,
        lease: Duration::from_secs(86_400),
        max_hold: None,
        capacity: match kind {
            Kind::Pool => Capacity::Generated {
                order: Order::LeastRecentlyUsed,
                prefix: "seat-".to_owned(),
                count,
            },
            _ => Capacity::Permits(count),
        },
    };
    let at = tenure::ObjectRef::new(kind, "test", name)?;
    world.observer.control().declare(&at, &declaration).await?;
    Ok(count)
}

async fn work(mut worker: Worker, permits: u64, resources: u64) -> Result {
    for _ in 0..ROUNDS {
        let random = &mut worker.random;
        sleep(ms(random.u64(..200))).await;
        let span = |random: &mut fastrand::Rng| SPANS[random.usize(..SPANS.len())];
        let mut options = Options::new();
        if random.u8(..4) > 0 {
            options = options.lease(span(random));
        }
        if random.u8(..4) == 0 {
            options = options.max_hold(span(random));
        }
        if random.u8(..4) == 0 {
            options = options.grace(GRACES[random.usize(..GRACES.len())]);
        }
        options = options.priority([i8::MIN, 0, 0, i8::MAX][random.usize(..4)]);
        let count = COUNTS[random.usize(..COUNTS.len())];
        let patience = span(random);
        let client = &worker.client;
        let (name, limit, asked, got) = match random.u8(..4) {
            0 => {
                let got = client.lock("x")?.with(options).acquire_timeout(patience).await;
                ("x", 1, 1, got.map(|got| got.map(Got::Lease)))
            }
            1 | 2 => {
                let semaphore = client.semaphore("s")?.with(options);
                let got = semaphore.acquire_many_timeout(count, patience).await;
                ("s", permits, count, got.map(|got| got.map(Got::Lease)))
            }
            _ => {
                let pool = client.lock_pool("p")?.with(options).many(count);
                let got = pool.acquire_timeout(patience).await;
                ("p", resources, count, got.map(|got| got.map(Got::Seat)))
            }
        };
        let (world, process) = (&worker.world, &worker.process);
        world.log(|| format!("{process} {asked}x {name} within {patience:?}: {got:?}"));
        let got = match got {
            Ok(Some(got)) => Arc::new(got),
            Ok(None) | Err(Error::Unreachable { .. } | Error::Lost { .. } | Error::InvalidInput { .. }) => {
                continue;
            }
            Err(Error::TooLarge { .. }) if u64::from(asked) > limit => continue,
            Err(error) => {
                world.violation(format!("{process}: {asked}x {name}: {error}"));
                continue;
            }
        };
        if got.permits() != u64::from(asked) {
            world.violation(format!(
                "{process} asked for {asked}x {name} and got {}",
                got.permits()
            ));
        }
        world.check(|invariants| invariants.granted(name, process, asked.into(), limit, &got));
        sleep(ms(worker.random.u64(..500))).await;
    }
    Ok(())
}
