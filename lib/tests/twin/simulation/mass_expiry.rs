//! A crowd holds all permits of a semaphore and crashes, and its leases run out in the same moment, while another crowd waits,
//! some of whom have crashed as well. All who live are granted, one after the other as fast as the server can, and no call
//! ends or grants more than a few.

use std::{sync::Arc, time::Duration};

use tenure::{Client, Error, Kind, Lease, Options};
use tokio::{task::JoinSet, time::Instant};

use super::{
    process::ms,
    world::{FaultProfile, World},
};
use crate::{Result, client, declare_semaphore, object};

const PERMITS: usize = 150;
const LEASE: Duration = Duration::from_secs(2);

pub(super) async fn run(world: &Arc<World>) -> Result {
    let mut random = world.random();
    declare_semaphore(&world.observer, "s", PERMITS as u64).await?;
    let holders = client(&world.memory, "holders").await?;
    let mut held = JoinSet::new();
    for _ in 0..PERMITS {
        held.spawn(acquire(holders.clone(), 1));
    }
    while let Some(lease) = held.join_next().await {
        // It expires.
        drop(lease??.detach());
    }
    let dead = client(&world.memory, "dead").await?;
    let waiters = client(&world.memory, "waiters").await?;
    let mut waiting = JoinSet::new();
    let mut crashed = JoinSet::new();
    let mut living = 0;
    for _ in 0..random.usize(40..120) {
        if random.u8(..4) == 0 {
            crashed.spawn(acquire(dead.clone(), 1));
        } else {
            living += 1;
            waiting.spawn(acquire(waiters.clone(), 1));
        }
    }
    tokio::time::sleep(ms(random.u64(100..1000))).await;
    world.silence("dead");
    world.silence("holders");
    let crash = Instant::now();
    let mut leases = Vec::new();
    while let Some(lease) = waiting.join_next().await {
        match lease? {
            Ok(lease) => leases.push(lease),
            Err(error) => world.violation(format!("a waiter: {error}")),
        }
    }
    let took = crash.elapsed();
    if world.profile == FaultProfile::None && took > LEASE + ms(1500) {
        world.violation(format!("{living} were granted only {took:?} after the crash"));
    }
    // All at once, when all has run out and nothing of it is ended yet.
    for lease in leases {
        drop(lease.detach());
    }
    tokio::time::sleep(LEASE * 2).await;
    let semaphore = waiters.semaphore("s")?;
    match semaphore.try_acquire_many(u32::try_from(PERMITS)?).await {
        Ok(Some(all)) => drop(all),
        Ok(None) | Err(Error::Unreachable { .. }) if world.profile != FaultProfile::None => {}
        other => world.violation(format!("not all are free in the end: {other:?}")),
    }
    crashed.shutdown().await;
    waiters.close().await;
    let seen = world
        .observer
        .control()
        .look(&object(Kind::Semaphore, "s")?, 0)
        .await?;
    if seen.as_ref().is_none_or(|s| s.waiting != 0) {
        world.violation(format!("left in the end: {seen:?}"));
    }
    Ok(())
}

async fn acquire(client: Client, permits: u32) -> std::result::Result<Lease, Error> {
    let options = Options::new().lease(LEASE);
    client.semaphore("s")?.with(options).acquire_many(permits).await
}
