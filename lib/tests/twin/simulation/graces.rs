//! Leases that end by running out, because their holder crashes or abandons them: until their grace is over no other client
//! is granted. Leases that are released have none.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use tenure::{Error, Kind, Lease, Options};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{
    mixed_primitives::{self, Got, observe},
    process::{self, Worker, ms},
    world::{FaultProfile, World},
};
use crate::{Result, client, lock, object};

const ROUNDS: usize = 4;

#[derive(Default)]
struct Log {
    /// Time of each grant by the server's clock, by fencing token.
    granted: BTreeMap<u64, SystemTime>,
    /// Time before which no other client may be granted, by fencing token.
    kept: Vec<(u64, SystemTime)>,
}

/// A lease that, unless it is taken out, expires.
struct Hold {
    lease: Option<Lease>,
    grace: Duration,
    world: Arc<World>,
    log: Arc<Mutex<Log>>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        if let Some(lease) = self.lease.take() {
            // The server lets it run for at least as long as its holder counts on it.
            let clock = self.world.memory.clock();
            let runs = lease.deadline().saturating_duration_since(Instant::now());
            let over = Instant::now().saturating_duration_since(lease.deadline());
            let until = clock + runs + self.grace - over;
            lock(&self.log).kept.push((lease.fencing_token(), until));
            drop(lease.detach());
        }
    }
}

pub(super) async fn run(world: &Arc<World>) -> Result {
    let log = Arc::new(Mutex::new(Log::default()));
    let mut background = JoinSet::new();
    background.spawn(observe(world.clone(), vec![object(Kind::Lock, "x")?]));
    let shared = log.clone();
    process::run(world, 4, 2, move |worker| work(worker, shared.clone())).await?;
    world.stop_faults();
    let last = client(&world.memory, "last").await?;
    let lease = last.lock("x")?.acquire_timeout(Duration::from_secs(60)).await?;
    match lease {
        Some(lease) => drop(
            lock(&log)
                .granted
                .insert(lease.fencing_token(), lease.acquired_at()),
        ),
        None => world.violation("it could not be had in the end"),
    }
    last.close().await;
    background.shutdown().await;
    mixed_primitives::nothing_is_left(world).await;
    let log = lock(&log);
    for (fence, until) in &log.kept {
        if let Some((next, at)) = log.granted.range(fence + 1..).next()
            && *at + ms(1) < *until
        {
            let early = until.duration_since(*at)?;
            world.violation(format!(
                "{next} was granted {early:?} before the grace of {fence} was over"
            ));
        }
    }
    Ok(())
}

async fn work(mut worker: Worker, log: Arc<Mutex<Log>>) -> Result {
    for _ in 0..ROUNDS {
        let random = &mut worker.random;
        sleep(ms(random.u64(..800))).await;
        let grace = ms(random.u64(..3000));
        let options = Options::new().lease(ms(random.u64(200..2000))).grace(grace);
        let locked = worker.client.lock("x")?.with(options);
        let patience = ms(random.u64(20..6000));
        let got = match random.u8(..4) {
            0 => locked.try_acquire().await,
            1 => locked.acquire_timeout(patience).await,
            _ => locked.acquire().await.map(Some),
        };
        let (world, process) = (&worker.world, &worker.process);
        let reliable = world.profile == FaultProfile::None;
        let lease = match got {
            Ok(Some(lease)) => Arc::new(Got::Lease(lease)),
            // Also where its time is over while a request is on its way.
            Ok(None) | Err(Error::Unreachable { .. }) => continue,
            Err(error) => {
                world.violation(format!("{process}: {error}"));
                continue;
            }
        };
        world.log(|| format!("{process} has {:?} with a grace of {grace:?}", **lease));
        world.check(|invariants| invariants.granted("x", process, 1, 1, &lease));
        lock(&log)
            .granted
            .insert(lease.fencing_token(), lease.acquired_at());
        let Some(Got::Lease(lease)) = Arc::into_inner(lease) else {
            return Err("another reference keeps the lease".into());
        };
        let mut hold = Hold {
            lease: Some(lease),
            grace,
            world: world.clone(),
            log: log.clone(),
        };
        sleep(ms(worker.random.u64(..1500))).await;
        if worker.random.bool()
            && let Some(lease) = hold.lease.take()
            && let Err(error) = lease.release().await
            && reliable
        {
            world.violation(format!("{process}: the release says {error}"));
        }
    }
    Ok(())
}
