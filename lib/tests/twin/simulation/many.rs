//! Several keyed locks at once, in any company: each key has one holder, no deadlock occurs, and a request that does not
//! get all keys gets none. And locks within themselves: an inner lease is the outer one.

use std::sync::Arc;

use tenure::{Client, Error, KeyedLease, LeaseSet, LockSet, Options};
use tokio::time::{sleep, timeout};

use super::{
    invariants::held,
    mixed_primitives::{self, Got},
    process::{self, Worker, ms},
    world::{FaultProfile, World},
};
use crate::Result;

const ROUNDS: usize = 4;
const KEYS: u64 = 5;

pub(super) async fn run(world: &Arc<World>) -> Result {
    process::run(world, 4, 2, work).await?;
    mixed_primitives::nothing_is_left(world).await;
    Ok(())
}

async fn work(mut worker: Worker) -> Result {
    for _ in 0..ROUNDS {
        sleep(ms(worker.random.u64(..500))).await;
        let options = Options::new().lease(ms(worker.random.u64(400..4000)));
        let outcome = if worker.random.u8(..4) == 0 {
            nest(&mut worker, options).await
        } else {
            take(&mut worker, options).await
        };
        if let Err(error) = outcome {
            let usual = matches!(error, Error::Unreachable { .. } | Error::Lost { .. });
            if worker.world.profile == FaultProfile::None || !usual {
                worker.world.violation(format!("{}: {error}", worker.process));
            }
        }
    }
    Ok(())
}

fn several(client: &Client, worker: &mut fastrand::Rng) -> std::result::Result<LockSet, Error> {
    let count = worker.usize(1..=4);
    let ids: Vec<u64> = std::iter::repeat_with(|| worker.u64(..KEYS))
        .take(count)
        .collect();
    client.lock_set(ids.into_iter().map(|id| ("k", [("id", id)])))
}

async fn take(worker: &mut Worker, options: Options) -> std::result::Result<(), Error> {
    let locks = several(&worker.client, &mut worker.random)?.with(options);
    let patience = ms(worker.random.u64(20..4000));
    let got: Option<LeaseSet> = match worker.random.u8(..4) {
        0 => locks.try_acquire().await?,
        1 => locks.acquire_timeout(patience).await?,
        2 => match timeout(patience, locks.acquire()).await {
            Ok(got) => Some(got?),
            Err(_) => None,
        },
        _ => Some(locks.acquire().await?),
    };
    let Some(got) = got else { return Ok(()) };
    let (world, process) = (&worker.world, &worker.process);
    let keys: Vec<_> = got.iter().map(KeyedLease::key).collect();
    if keys != locks.keys().collect::<Vec<_>>() {
        world.violation(format!("{process} has {keys:?}, which is not what was asked for"));
    }
    let mut leases = Vec::new();
    for lease in got.into_leases() {
        let lease = Arc::new(Got::Keyed(lease));
        let object = lease.object().to_string();
        world.check(|invariants| invariants.granted(&object, process, 1, 1, &lease));
        leases.push(lease);
    }
    world.log(|| format!("{process} has {leases:?}"));
    sleep(ms(worker.random.u64(..1500))).await;
    worker.random.shuffle(&mut leases);
    for lease in leases {
        if let (true, Some(lease)) = (worker.random.bool(), Arc::into_inner(lease)) {
            lease.release().await?;
        }
    }
    Ok(())
}

async fn nest(worker: &mut Worker, options: Options) -> std::result::Result<(), Error> {
    let lock = worker.client.reentrant_lock("n")?.with(options);
    let outer = Arc::new(Got::Reentrant(lock.acquire().await?));
    let (world, process) = (&worker.world, &worker.process);
    world.check(|invariants| invariants.granted("n", process, 1, 1, &outer));
    let mut inner = Vec::new();
    for _ in 0..worker.random.usize(..4) {
        let patience = ms(worker.random.u64(20..500));
        let (one, other) = tokio::join!(lock.acquire(), lock.acquire_timeout(patience));
        inner.push(one?);
        inner.extend(other?);
        inner.extend(lock.try_acquire().await?);
        sleep(ms(worker.random.u64(..200))).await;
        let depth = lock.depth();
        if depth != inner.len() + 1 {
            world.violation(format!(
                "{process}: {depth} deep, with {} inner leases",
                inner.len()
            ));
        }
    }
    for lease in inner {
        if lease.fencing_token() != outer.fencing_token() {
            world.violation(format!("{process}: {lease:?} within {:?}", **outer));
        }
        if worker.random.bool() {
            lease.release().await?;
        }
    }
    sleep(ms(worker.random.u64(..500))).await;
    // Whatever came and went within, the lock is still held.
    if world.profile == FaultProfile::None && !held(&outer) {
        world.violation(format!("{process}: lost for no reason: {:?}", **outer));
    }
    match Arc::into_inner(outer) {
        Some(outer) => outer.release().await,
        None => Ok(()),
    }
}
