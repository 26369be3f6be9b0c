//! Leases and queue entries that are reclaimed, for reasons that look like keywords of the protocol: each holder receives
//! exactly this reason, and a reclaimed lease has no grace.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use fastrand::Rng;
use tenure::{Error, Kind, Options, control::Snapshot};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::{
    invariants::held,
    mixed_primitives::{self, Got},
    process::{self, Worker, ms},
    world::{FaultProfile, World},
};
use crate::{Result, lock, object};

const ROUNDS: usize = 8;
/// Upper bound of the delay of a push without faults.
const TOLD: u64 = 20;
const CAUSES: [&str; 7] = [
    "",
    "dropped",
    "expired",
    "withdrawn",
    "owner",
    "its pod\nhas ended",
    "expired\n\0",
];

/// Cause and time of each reclaim, by the reason of the request.
type Reclaimed = Arc<Mutex<HashMap<String, (&'static str, Instant)>>>;

pub(super) async fn run(world: &Arc<World>) -> Result {
    let reclaimed = Reclaimed::default();
    let mut background = JoinSet::new();
    background.spawn(reclaim(world.clone(), reclaimed.clone()));
    process::run(world, 3, 2, move |worker| work(worker, reclaimed.clone())).await?;
    background.shutdown().await;
    mixed_primitives::nothing_is_left(world).await;
    Ok(())
}

async fn reclaim(world: Arc<World>, reclaimed: Reclaimed) {
    let mut random = world.random();
    loop {
        sleep(ms(random.u64(..300))).await;
        if let Err(error) = reclaim_one(&world, &reclaimed, &mut random).await {
            return world.violation(format!("it could not be taken back: {error}"));
        }
    }
}

async fn reclaim_one(world: &World, reclaimed: &Reclaimed, random: &mut Rng) -> Result {
    let (control, x) = (world.observer.control(), object(Kind::Lock, "x")?);
    let Some(seen) = control.look(&x, 100).await? else {
        return Ok(());
    };
    let Some((token, reason)) = random.choice(tokens(&seen)) else {
        return Ok(());
    };
    if token.starts_with("grace-") {
        return Ok(());
    }
    let cause = CAUSES[random.usize(..CAUSES.len())];
    // Before it is notified.
    lock(reclaimed).insert(reason.clone(), (cause, Instant::now()));
    if control.reclaim(&x, std::slice::from_ref(&token), cause).await? == 0 {
        lock(reclaimed).remove(&reason); // it has ended by itself
        return Ok(());
    }
    world.log(|| format!("{reason} is taken back: {cause:?}"));
    // Under network faults, a late copy of its request may have arrived again.
    let seen = control
        .look(&x, 100)
        .await?
        .filter(|_| world.profile == FaultProfile::None);
    if seen.is_some_and(|seen| tokens(&seen).iter().any(|(other, _)| other.ends_with(&token))) {
        world.violation(format!("{reason} is still there, though taken back: {cause:?}"));
    }
    Ok(())
}

fn tokens(seen: &Snapshot) -> Vec<(String, String)> {
    let holders = seen
        .holders
        .iter()
        .map(|holder| (holder.token.clone(), holder.reason.clone()));
    let waiters = seen
        .waiters
        .iter()
        .map(|waiter| (waiter.token.clone(), waiter.reason.clone()));
    holders.chain(waiters).collect()
}

async fn work(mut worker: Worker, reclaimed: Reclaimed) -> Result {
    for round in 0..ROUNDS {
        let random = &mut worker.random;
        sleep(ms(random.u64(..500))).await;
        let (world, process) = (&worker.world, &worker.process);
        let reliable = world.profile == FaultProfile::None;
        let reason = format!("{process}/{}/{round}", worker.number);
        let options = Options::new()
            .lease(ms(random.u64(500..3000)))
            .grace(ms(random.u64(..1500)))
            .reason(&reason);
        let locked = worker.client.lock("x")?.with(options);
        let known = || lock(&reclaimed).get(&reason).copied();
        let got = match locked.acquire_timeout(ms(random.u64(20..3000))).await {
            Ok(Some(lease)) => Arc::new(Got::Lease(lease)),
            // Also where its time is over while a request is on its way.
            Ok(None) | Err(Error::Unreachable { .. }) => continue,
            // Under network faults, a late copy of its request may have been reclaimed, too, for another cause.
            Err(Error::Lost { cause, .. })
                if known().is_some_and(|(why, _)| !reliable || cause.ends_with(told(why))) =>
            {
                continue;
            }
            Err(error) => {
                world.violation(format!("{reason}: {error}, and taken back: {:?}", known()));
                continue;
            }
        };
        world.check(|invariants| invariants.granted("x", process, 1, u64::MAX, &got));
        let lost = timeout(ms(worker.random.u64(..1500)), got.lost()).await;
        match (lost, known()) {
            (Ok(cause), Some((why, _))) if cause == told(why) || !reliable => {}
            (Ok(cause), why) if reliable => {
                world.violation(format!(
                    "{reason}: lost, because {cause:?}, and taken back: {why:?}"
                ));
            }
            (Err(_), Some((why, at))) if reliable && at.elapsed() > ms(TOLD) && held(&got) => {
                world.violation(format!("{reason}: taken back, and not told: {why:?}"));
            }
            _ => {}
        }
        if let (true, Some(got)) = (worker.random.bool(), Arc::into_inner(got)) {
            match got.release().await {
                Ok(()) => {}
                Err(Error::Lost { .. }) if !reliable || known().is_some() => {}
                Err(Error::Unreachable { .. }) if !reliable => {}
                Err(error) => world.violation(format!("{reason}: the release says {error}")),
            }
        }
    }
    Ok(())
}

fn told(why: &str) -> &str {
    if why.is_empty() { "reclaimed" } else { why }
}
