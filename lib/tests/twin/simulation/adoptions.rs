//! Leases that are handed from one process to another by their secret: of all who try to adopt one, one gets it, a shown
//! token adopts nothing, and no other client holds meanwhile. Secrets are tried again long after they were used, by
//! processes that crash in the midst of it.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use tenure::{
    Client, Error, Kind, Lease, Options,
    control::{Capacity, Declaration},
};
use tokio::{task::JoinSet, time::sleep};

use super::{
    invariants::held,
    mixed_primitives::{self, Got},
    process::{self, Worker, ms},
    world::{FaultProfile, World},
};
use crate::{Result, client, lock, object};

const ROUNDS: usize = 6;
/// A lock that its first user makes, and a semaphore of one permit that is declared.
const LOCK: &str = "x";
const SEMAPHORE: &str = "s";
const LEASE: Duration = Duration::from_secs(2);

#[derive(Default)]
struct Handed {
    /// Secrets, the object and the fencing token of their lease.
    secrets: Vec<(String, Kind, u64)>,
    /// Adopted leases. A lease that an adopter has not heard of may be missing.
    adopted: HashSet<String>,
    /// Number of times.
    count: HashMap<Kind, usize>,
}

type Shared = Arc<Mutex<Handed>>;

fn declaration(again: Option<u64>) -> Declaration {
    Declaration {
        floor: again.unwrap_or_default(),
        recovery: again.map(|_| LEASE),
        lease: LEASE,
        max_hold: None,
        capacity: Capacity::Permits(1),
    }
}

async fn declare(world: &World, again: bool) -> Result {
    let object = object(Kind::Semaphore, SEMAPHORE)?;
    // Larger than what was granted and never seen by its holder.
    let floor = again.then(|| world.check(|invariants| invariants.highest_fence(SEMAPHORE)) + 1000);
    world
        .observer
        .control()
        .declare(&object, &declaration(floor))
        .await?;
    Ok(())
}

pub(super) async fn run(world: &Arc<World>) -> Result {
    declare(world, false).await?;
    let handed = Shared::default();
    let mut background = JoinSet::new();
    background.spawn(count(world.clone()));
    if world.profile == FaultProfile::DataLoss {
        background.spawn(restart_and_declare(world.clone()));
    }
    let shared = handed.clone();
    process::run(world, 3, 2, move |worker| work(worker, shared.clone())).await?;
    world.stop_faults();
    background.shutdown().await;
    declare(world, true).await?;
    let last = client(&world.memory, "last").await?;
    let patience = Duration::from_secs(60);
    if last.lock(LOCK)?.acquire_timeout(patience).await?.is_none()
        || last
            .semaphore(SEMAPHORE)?
            .acquire_timeout(patience)
            .await?
            .is_none()
    {
        world.violation("not all could be had in the end");
    }
    last.close().await;
    mixed_primitives::nothing_is_left(world).await;
    world.log(|| format!("adopted: {:?}", lock(&handed).count));
    Ok(())
}

/// The held permits are those of the holders, adopters included.
async fn count(world: Arc<World>) {
    let mut random = world.random();
    let control = world.observer.control();
    loop {
        sleep(ms(random.u64(1..400))).await;
        for kind in [Kind::Lock, Kind::Semaphore] {
            if let Ok(object) = object(kind, name(kind))
                && let Ok(Some(seen)) = control.look(&object, 10).await
                && seen.held != seen.holders.iter().map(|holder| holder.permits).sum::<u64>()
            {
                world.violation(format!("{object}: held {}, by {:?}", seen.held, seen.holders));
            }
        }
    }
}

/// The server restarts, with its data or without, and after a while the controller declares again.
async fn restart_and_declare(world: Arc<World>) {
    let mut random = world.random();
    loop {
        sleep(ms(random.u64(500..8000))).await;
        world.memory.restart(random.bool());
        sleep(ms(random.u64(..2000))).await;
        if let Err(error) = declare(&world, true).await {
            world.violation(format!("it could not be declared again: {error}"));
        }
    }
}

async fn work(mut worker: Worker, handed: Shared) -> Result {
    for _ in 0..ROUNDS {
        sleep(ms(worker.random.u64(..600))).await;
        let kind = match worker.world.profile {
            // An undeclared object is not exclusive over a loss of data.
            FaultProfile::DataLoss => Kind::Semaphore,
            _ if worker.random.bool() => Kind::Semaphore,
            _ => Kind::Lock,
        };
        let got = match worker.random.u8(..4) {
            0 => acquire(&mut worker, kind).await?,
            1 => {
                let object = object(kind, name(kind))?;
                if let Ok(Some(snapshot)) = worker.world.observer.control().look(&object, 1).await
                    && let Some(view) = snapshot.holders.first()
                    && let Ok(Some(lease)) = adopt(&worker.client, kind, &view.token).await?
                {
                    worker
                        .world
                        .violation(format!("adopted by what is shown: {lease:?}"));
                }
                None
            }
            _ => adopt_any(&mut worker, &handed).await?,
        };
        let Some((kind, got)) = got else { continue };
        sleep(ms(worker.random.u64(..1500))).await;
        end(&mut worker, &handed, kind, got).await?;
    }
    Ok(())
}

fn name(kind: Kind) -> &'static str {
    if kind == Kind::Lock { LOCK } else { SEMAPHORE }
}

async fn acquire(worker: &mut Worker, kind: Kind) -> Result<Option<(Kind, Arc<Got>)>> {
    let (client, random) = (&worker.client, &mut worker.random);
    let options = Options::new().lease(ms(random.u64(300..2000)));
    let patience = ms(random.u64(20..4000));
    let got = match kind {
        Kind::Lock => client.lock(LOCK)?.with(options).acquire_timeout(patience).await,
        _ => {
            client
                .semaphore(SEMAPHORE)?
                .with(options)
                .acquire_timeout(patience)
                .await
        }
    };
    let world = &worker.world;
    match got {
        Ok(Some(lease)) => {
            let got = Arc::new(Got::Lease(lease));
            world.check(|invariants| invariants.granted(name(kind), &worker.process, 1, 1, &got));
            Ok(Some((kind, got)))
        }
        Ok(None) => Ok(None),
        Err(error) if expected(&error, world.profile) => Ok(None),
        Err(error) => {
            world.violation(format!("{}: {error}", worker.process));
            Ok(None)
        }
    }
}

async fn adopt(
    client: &Client,
    kind: Kind,
    secret: &str,
) -> Result<std::result::Result<Option<Lease>, Error>> {
    Ok(match kind {
        Kind::Lock => client.lock(LOCK)?.adopt(secret).await,
        _ => client.semaphore(SEMAPHORE)?.adopt(secret).await,
    })
}

/// The newest secrets are tried most, and by several at once.
async fn adopt_any(worker: &mut Worker, handed: &Shared) -> Result<Option<(Kind, Arc<Got>)>> {
    let (secret, kind, fence) = {
        let secrets = &lock(handed).secrets;
        let newest = secrets.len().saturating_sub(3);
        let from = if worker.random.u8(..4) == 0 { 0 } else { newest };
        let Some(chosen) = worker.random.choice(&secrets[from..]) else {
            return Ok(None);
        };
        chosen.clone()
    };
    let (world, process) = (worker.world.clone(), &worker.process);
    let adopting = adopt(&worker.client, kind, &secret);
    let outcome = if worker.random.u8(..4) == 0 {
        // Given up while it is on its way.
        match tokio::time::timeout(ms(worker.random.u64(..5)), adopting).await {
            Ok(outcome) => outcome?,
            Err(_) => return Ok(None),
        }
    } else {
        adopting.await?
    };
    let lease = match outcome {
        Ok(Some(lease)) => lease,
        Ok(None) => return Ok(None),
        Err(error) if expected(&error, world.profile) => return Ok(None),
        Err(error) => {
            world.violation(format!("{process}: {error}"));
            return Ok(None);
        }
    };
    world.log(|| format!("{process} has adopted {lease:?}"));
    if lease.fencing_token() != fence {
        world.violation(format!("{process}: {fence} became {}", lease.fencing_token()));
    }
    if !lock(handed).adopted.insert(secret) {
        world.violation(format!("{process}: {fence} was adopted twice"));
    }
    *lock(handed).count.entry(kind).or_default() += 1;
    let got = Arc::new(Got::Lease(lease));
    if held(&got) {
        world.check(|invariants| invariants.believes(name(kind), process, 1, 1, &got));
    }
    Ok(Some((kind, got)))
}

/// Hands the lease on, or gives it back.
async fn end(worker: &mut Worker, handed: &Shared, kind: Kind, got: Arc<Got>) -> Result {
    let Some(Got::Lease(lease)) = Arc::into_inner(got) else {
        return Err("another reference keeps the lease".into());
    };
    let world = &worker.world;
    if worker.random.u8(..3) > 0 {
        let fence = lease.fencing_token();
        lock(handed).secrets.push((lease.detach(), kind, fence));
        return Ok(());
    }
    let held = held(&lease);
    match lease.release().await {
        Ok(()) => {}
        Err(Error::Lost { .. }) if !held || world.profile != FaultProfile::None => {}
        Err(error) if expected(&error, world.profile) => {}
        Err(error) => world.violation(format!("{}: the release says {error}", worker.process)),
    }
    Ok(())
}

fn expected(error: &Error, profile: FaultProfile) -> bool {
    match error {
        // Also where its time is over while a request is on its way.
        Error::Unreachable { .. } => true,
        // Not declared, while the controller has not noticed the loss yet.
        Error::NotDeclared { .. } | Error::Lost { .. } => profile == FaultProfile::DataLoss,
        _ => false,
    }
}
