//! A pool that programs keep, whose members come and go while they are held and waited for: no resource has two holders, a
//! resource that was removed while held is not granted again, and at the end all resources in service are free.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use fastrand::Rng;
use tenure::{
    Error, LockPool, Options, PoolLease, ResourceState,
    control::{Order, Resource, Snapshot},
};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    invariants::held,
    mixed_primitives::{self, Got},
    process::{self, Worker, ms},
    world::{FaultProfile, World},
};
use crate::{Result, client};

const ROUNDS: usize = 4;
const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
const IN_B: [&str; 3] = ["b", "d", "f"];

/// Resources in service, and for each other resource the newest fencing token under which it may still be held.
struct Members {
    world: Arc<World>,
    pool: LockPool,
    service: BTreeSet<&'static str>,
    left: HashMap<&'static str, u64>,
}

pub(super) async fn run(world: &Arc<World>) -> Result {
    let mut members = Members {
        world: world.clone(),
        pool: world.observer.lock_pool("p")?,
        service: BTreeSet::new(),
        left: NAMES.map(|name| (name, 0)).into(),
    };
    members.assign(&NAMES).await?;
    let mut background = JoinSet::new();
    background.spawn(change(members));
    process::run(world, 4, 3, work).await?;
    background.shutdown().await;
    world.stop_faults();
    let pool = world.observer.lock_pool("p")?;
    pool.assign(NAMES.map(resource)).await?;
    let last = client(&world.memory, "last").await?;
    let all = last.lock_pool("p")?.many(u32::try_from(NAMES.len())?);
    let all = all.acquire_timeout(Duration::from_secs(60)).await?;
    if all.is_none() {
        world.violation("not all could be had in the end");
    }
    drop(all);
    last.close().await;
    // A request of a dead process may still arrive, and hold for one lease.
    sleep(Duration::from_secs(60)).await;
    let free = pool.list().await?;
    if free.len() != NAMES.len() || free.iter().any(|member| member.state != ResourceState::Free) {
        world.violation(format!("not all are free in the end: {free:?}"));
    }
    pool.clear().await?;
    mixed_primitives::nothing_is_left(world).await;
    let keys = world.memory.keys();
    if !keys.is_empty() {
        world.violation(format!("keys left in the end: {keys:?}"));
    }
    Ok(())
}

fn resource(name: &str) -> Resource {
    let zone = if IN_B.contains(&name) { "b" } else { "a" };
    Resource::new(name).property("zone", zone)
}

fn some(random: &mut Rng) -> Vec<&'static str> {
    let count = random.usize(1..=3);
    random.choose_multiple(NAMES, count)
}

/// Changes the members again and again, and looks at them all the time.
async fn change(mut members: Members) {
    let mut random = members.world.random();
    loop {
        if let Err(error) = members.change(&mut random).await {
            let what = format!("the members could not be changed: {error}");
            return members.world.violation(what);
        }
    }
}

impl Members {
    async fn change(&mut self, random: &mut Rng) -> Result {
        let orders = [Order::LeastRecentlyUsed, Order::MostRecentlyUsed, Order::Random];
        self.pool = self.pool.clone().ordered(orders[random.usize(..3)]);
        let names = some(random);
        match random.u8(..8) {
            0..3 => self.extend(&names).await?,
            3..6 => self.shrink(&names).await?,
            6 => self.assign(&names).await?,
            _ => self.assign(&NAMES).await?,
        }
        for _ in 0..random.usize(..20) {
            self.look().await?;
            sleep(ms(random.u64(..200))).await;
        }
        Ok(())
    }

    async fn extend(&mut self, names: &[&'static str]) -> Result {
        self.pool.extend(names.iter().copied().map(resource)).await?;
        self.service.extend(names);
        self.changed().await
    }

    /// One always stays.
    async fn shrink(&mut self, names: &[&'static str]) -> Result {
        let stays = self.service.first().copied();
        let names: Vec<_> = names
            .iter()
            .copied()
            .filter(|name| Some(*name) != stays)
            .collect();
        self.pool.shrink(names.clone()).await?;
        self.service.retain(|name| !names.contains(name));
        self.changed().await
    }

    async fn assign(&mut self, names: &[&'static str]) -> Result {
        self.pool.assign(names.iter().copied().map(resource)).await?;
        self.service = names.iter().copied().collect();
        self.changed().await
    }

    async fn changed(&mut self) -> Result {
        let newest = self.snapshot().await?.last_fence;
        self.world
            .log(|| format!("in service up to {newest}: {:?}", self.service));
        let service = &self.service;
        self.left.retain(|name, _| !service.contains(name));
        for name in NAMES.iter().filter(|name| !service.contains(*name)) {
            self.left.entry(name).or_insert(newest);
        }
        self.look().await
    }

    async fn snapshot(&self) -> Result<Snapshot> {
        let control = self.world.observer.control();
        let looked = control.look(self.pool.object(), 100).await?;
        Ok(looked.ok_or("the pool is gone")?)
    }

    async fn look(&self) -> Result {
        let now = self.snapshot().await?;
        let mut held = BTreeSet::new();
        for holder in &now.holders {
            for name in holder.resources.iter().map(String::as_str) {
                if !held.insert(name) {
                    self.world.violation(format!("{name} is held twice"));
                }
                if self.left.get(name).is_some_and(|newest| holder.fence > *newest) {
                    let fence = holder.fence;
                    self.world
                        .violation(format!("{name} was granted under {fence}, out of service"));
                }
            }
        }
        let in_service = held.iter().filter(|name| self.service.contains(*name)).count();
        let expected = (self.service.len(), held.len(), self.service.len() - in_service);
        let found = (now.limit, now.held, now.free);
        if found != (expected.0 as u64, expected.1 as u64, expected.2 as u64) {
            self.world
                .violation(format!("in service, held, free: {found:?}, and not {expected:?}"));
        }
        let listed = self.pool.list().await?;
        if !listed
            .iter()
            .map(|member| &*member.name)
            .eq(self.service.iter().copied())
        {
            self.world
                .violation(format!("{listed:?}, and not {:?}", self.service));
        }
        Ok(())
    }
}

async fn work(mut worker: Worker) -> Result {
    for _ in 0..ROUNDS {
        let random = &mut worker.random;
        sleep(ms(random.u64(..800))).await;
        let pool = worker.client.lock_pool("p")?;
        let pool = pool.with(Options::new().lease(ms(random.u64(400..4000))));
        let wish = some(random);
        let how = random.u8(..5);
        let pool = match how {
            0 => pool.named(&wish)?,
            1 => pool.matching([("zone", "b")])?,
            2 => pool.preferring(wish[0])?,
            3 => pool.many(2),
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
            // Also where its time is over while a request is on its way.
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
        world.log(|| format!("{process} has {names:?}: {seat:?}"));
        if !as_wished(how, &wish, &seat) {
            world.violation(format!("{process}: wish {how} for {wish:?} gave {seat:?}"));
        }
        let got = Arc::new(Got::Seat(seat));
        world.check(|invariants| {
            invariants.granted("p", process, got.permits(), NAMES.len() as u64, &got);
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

fn as_wished(how: u8, wish: &[&str], seat: &PoolLease) -> bool {
    let got = seat.resources();
    match how {
        0 => got.len() == wish.len() && got.iter().all(|(name, _)| wish.contains(&&**name)),
        // A resource that has left meanwhile has lost its properties.
        1 => got.len() == 1 && IN_B.contains(&&*got[0].0),
        3 => got.len() == 2,
        _ => got.len() == 1,
    }
}
