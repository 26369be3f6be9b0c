//! Keys and entries that are overwritten while they are held and waited for. An overwritten lease may be lost; its
//! neighbours, renewed by the same commands, may not, and no client holds beside a lease whose entry cannot be read.
//!
//! `d` loses whole keys, of `e` only entries of leases and queue entries, of the pool `r` only resources; the locks `n` nothing.

use std::{sync::Arc, time::Duration};

use fastrand::Rng;
use tenure::{
    Error, Kind, ObjectRef, Options,
    control::{Capacity, Declaration, Order, Resource},
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{
    invariants::held,
    mixed_primitives::{self, Got},
    process::{self, Worker, ms},
    world::{FaultProfile, World},
};
use crate::{Result, client, object};

const ROUNDS: usize = 4;
const LEASE: Duration = Duration::from_secs(2);
const PERMITS: u64 = 2;
const SEATS: [&str; 3] = ["a", "b", "c"];

fn declaration(object: &ObjectRef) -> Declaration {
    Declaration {
        floor: 0,
        recovery: None,
        lease: LEASE,
        max_hold: None,
        capacity: match object.kind() {
            Kind::Pool => Capacity::Resources {
                order: Order::LeastRecentlyUsed,
                resources: SEATS.map(|name| Resource::new(name).property("zone", "b")).into(),
            },
            _ => Capacity::Permits(PERMITS),
        },
    }
}

pub(super) async fn run(world: &Arc<World>) -> Result {
    let declared = [
        object(Kind::Semaphore, "d")?,
        object(Kind::Semaphore, "e")?,
        object(Kind::Pool, "r")?,
    ];
    let control = world.observer.control();
    for object in &declared {
        control.declare(object, &declaration(object)).await?;
    }
    let mut background = JoinSet::new();
    background.spawn(overwrite(world.clone()));
    process::run(world, 2, 2, work).await?;
    background.shutdown().await;
    world.stop_faults();
    mend(world)?;
    for object in &declared {
        control.declare(object, &declaration(object)).await?;
    }
    // Longer than any lease: then everything can be acquired again.
    sleep(LEASE * 3).await;
    let last = client(&world.memory, "last").await?;
    let patience = Duration::from_secs(60);
    let d = last.semaphore("d")?.acquire_many_timeout(2, patience).await?;
    let e = last.semaphore("e")?.acquire_many_timeout(2, patience).await?;
    let r = last.lock_pool("r")?.many(3).acquire_timeout(patience).await?;
    if d.is_none() || e.is_none() || r.is_none() {
        world.violation(format!("not all could be had in the end: {d:?} {e:?} {r:?}"));
    }
    drop((d, e, r));
    last.close().await;
    mixed_primitives::nothing_is_left(world).await;
    Ok(())
}

/// Overwrites something again and again, and mends what is damaged as a whole.
async fn overwrite(world: Arc<World>) {
    let mut random = world.random();
    loop {
        sleep(ms(random.u64(..1500))).await;
        if let Err(error) = damage(&world, &mut random) {
            return world.violation(format!("nothing could be overwritten: {error}"));
        }
        if random.u8(..3) == 0 {
            sleep(ms(random.u64(..2500))).await;
            let again = async {
                mend(&world)?;
                let d = object(Kind::Semaphore, "d")?;
                world.observer.control().declare(&d, &declaration(&d)).await?;
                Result::Ok(())
            };
            if let Err(error) = again.await {
                return world.violation(format!("it could not be mended: {error}"));
            }
        }
    }
}

fn damage(world: &World, random: &mut Rng) -> Result {
    let memory = &world.memory;
    let garbage = ["", "5", "garbage", "1{", "1 2 3 4", "nil"][random.usize(..6)];
    let what = match random.u8(..4) {
        0 => {
            let part = ["obj", "holders", "queue", "expiry"][random.usize(..4)];
            let key = format!("tenure:{{test/semaphore/d}}:{part}");
            if random.bool() {
                memory.command(&["SET", &key, garbage])?;
            } else {
                memory.command(&["UNLINK", &key])?;
            }
            key
        }
        1 => {
            // Fails where the whole key is overwritten.
            let _ = memory.command(&["HSET", "tenure:{test/semaphore/d}:obj", "state", garbage]);
            "state".to_owned()
        }
        2 => {
            let key = "tenure:{test/semaphore/e}:obj";
            let fields = memory.command(&["HKEYS", key])?;
            let entries: Vec<&String> = fields.iter().filter(|field| field.starts_with("t:")).collect();
            let Some(entry) = random.choice(&entries) else {
                return Ok(());
            };
            memory.command(&["HSET", key, entry, garbage])?;
            (*entry).clone()
        }
        _ => {
            // One stays readable: a pool of which none is refuses its requests.
            let name = SEATS[random.usize(..2)];
            let entry = [garbage, r#"1{"zone":"b"}"#][random.usize(..2)];
            memory.command(&["HSET", "tenure:{test/pool/r}:resources", name, entry])?;
            name.to_owned()
        }
    };
    world.log(|| format!("{what} becomes {garbage:?}"));
    Ok(())
}

/// Removes all keys of the object, as the error recommends.
fn mend(world: &World) -> Result {
    world.log(|| "d is mended".to_owned());
    for key in world
        .memory
        .keys()
        .iter()
        .filter(|key| key.contains("{test/semaphore/d}"))
    {
        world.memory.command(&["UNLINK", key])?;
    }
    Ok(())
}

async fn work(mut worker: Worker) -> Result {
    for _ in 0..ROUNDS {
        let random = &mut worker.random;
        sleep(ms(random.u64(..500))).await;
        let (world, process) = (&worker.world, &worker.process);
        let reliable = world.profile == FaultProfile::None;
        let patience = ms(random.u64(20..4000));
        let client = &worker.client;
        let own = format!("n{}", random.u8(..4));
        let neighbour = client.lock(&own)?.with(Options::new().lease(LEASE));
        let neighbour = match neighbour.acquire_timeout(patience).await {
            Ok(Some(lease)) => Arc::new(Got::Lease(lease)),
            // Also where its time is over while a request is on its way.
            Ok(None) | Err(Error::Unreachable { .. }) => continue,
            Err(error) => {
                world.violation(format!("{process}: a neighbour: {error}"));
                continue;
            }
        };
        world.check(|invariants| invariants.granted(&own, process, 1, 1, &neighbour));
        let which = ["d", "e", "r"][random.usize(..3)];
        let got = match which {
            "r" => {
                let pool = client.lock_pool("r")?;
                let pool = if random.bool() {
                    pool
                } else {
                    pool.matching([("zone", "b")])?
                };
                pool.acquire_timeout(patience)
                    .await
                    .map(|seat| seat.map(Got::Seat))
            }
            name => {
                let semaphore = client.semaphore(name)?;
                semaphore
                    .acquire_timeout(patience)
                    .await
                    .map(|lease| lease.map(Got::Lease))
            }
        };
        let got = match got {
            Ok(got) => got.map(Arc::new),
            // Also where its time is over while a request is on its way.
            Err(Error::Unreachable { .. }) => None,
            Err(Error::Damaged { .. } | Error::NotDeclared { .. }) if which == "d" => None,
            // Its own entry was overwritten on the way; or its resource, and the reply comes from a repeated request.
            Err(Error::Damaged { .. }) if which == "e" || !reliable => None,
            Err(error) => {
                world.violation(format!("{process}: {which}: {error}"));
                None
            }
        };
        if let (Some(got), true) = (&got, which != "d") {
            let limit = if which == "e" { PERMITS } else { SEATS.len() as u64 };
            world.check(|invariants| invariants.granted(which, process, 1, limit, got));
        }
        sleep(ms(worker.random.u64(..4000))).await;
        if reliable && !held(&neighbour) {
            world.violation(format!(
                "{process}: a neighbour lost its lease: {:?}",
                **neighbour
            ));
        }
        if let (true, "r", Some(got)) = (reliable, which, &got)
            && !held(got)
        {
            world.violation(format!("{process}: lost over a resource: {:?}", ***got));
        }
        if worker.random.bool()
            && let Some(got) = got.and_then(Arc::into_inner)
        {
            let deadline = got.deadline();
            match got.release().await {
                Ok(()) | Err(Error::Lost { .. } | Error::Damaged { .. }) => {}
                // A lease whose value was overwritten is not renewed, and its end is the end of the release.
                Err(Error::Unreachable { .. }) if !reliable || deadline <= Instant::now() => {}
                Err(error) => world.violation(format!("{process}: {which}: the release says {error}")),
            }
        }
    }
    Ok(())
}
