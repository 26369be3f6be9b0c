//! Several declared semaphores of one permit whose data is lost in all ways, and one or two controllers that share a record of
//! epochs, write statuses late, have different clocks, and die at any moment. The fencing tokens grow, and leases are exclusive.
//!
//! In odd seeds the server's clock is set back, too. Leases then run for longer than their holders know, so that only the
//! tokens are checked.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use fastrand::Rng;
use tenure::{
    Error, Kind, ObjectRef, Options,
    control::{Backing, Capacity, Declaration, Epoch, Epochs, Kept, Observation, Plan, Withdrawal, plan},
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{
    invariants::held,
    mixed_primitives::Got,
    process::{self, Worker, ms},
    world::World,
};
use crate::{Result, client, lock, object};

const ROUNDS: usize = 7;
const LEASE: Duration = Duration::from_secs(3);
const NAMES: [&str; 3] = ["a", "b", "c"];
/// Of a hundred turns of a controller, one writes a status: so rarely that objects are lost again before.
const STATUSES: u8 = 6;
/// An epoch of another controller that is not renewed for this long is taken for one that was left.
const LEFT_AFTER: Duration = Duration::from_secs(5);

/// The state that the API server keeps.
#[derive(Default)]
struct Etcd {
    record: Option<Epoch>,
    /// The version of the record, and when its owner has renewed it.
    version: u64,
    renewed: Option<Instant>,
    statuses: BTreeMap<ObjectRef, Status>,
    /// Counts the times at which a server has come back with older data.
    failbacks: u64,
    /// The controllers that have looked at these objects since.
    looked: BTreeSet<(usize, ObjectRef)>,
}

#[derive(Default)]
struct Status {
    kept: Option<Kept>,
    version: u64,
}

type Shared = Arc<Mutex<Etcd>>;

/// One life of a controller.
struct Controller {
    number: usize,
    world: Arc<World>,
    etcd: Shared,
    random: Rng,
    started: Instant,
    /// Its clock is ahead of the server's first one by this, in milliseconds.
    skew: u64,
    epochs: Epochs,
    version: u64,
}

pub(super) async fn run(world: &Arc<World>) -> Result {
    let mut random = world.random();
    let (clock_set_back, controllers) = (random.bool(), random.usize(1..=2));
    let etcd = Shared::default();
    for name in NAMES {
        let object = object(Kind::Semaphore, name)?;
        lock(&etcd).statuses.insert(object, Status::default());
    }
    let mut background = JoinSet::new();
    for number in 0..controllers {
        background.spawn(live_and_die(world.clone(), etcd.clone(), number, Instant::now()));
    }
    let losing = lose(world.clone(), etcd.clone(), controllers, clock_set_back);
    background.spawn(losing);
    process::run(world, 2, 3, move |worker| work(worker, clock_set_back)).await?;
    while let Some(ended) = background.try_join_next() {
        ended??;
    }
    if world.check(|invariants| invariants.grants()) == 0 && !clock_set_back {
        world.violation("nothing was ever granted");
    }
    Ok(())
}

/// A controller that is killed at any await, and another one in its place.
async fn live_and_die(world: Arc<World>, etcd: Shared, number: usize, started: Instant) -> Result {
    let mut random = world.random();
    loop {
        let mut controller = Controller {
            number,
            world: world.clone(),
            etcd: etcd.clone(),
            random: world.random(),
            started,
            skew: random.u64(..4000),
            epochs: Epochs::default(),
            version: 0,
        };
        let life = ms(random.u64(200..20_000));
        if let Ok(ended) = tokio::time::timeout(life, controller.live()).await {
            return ended;
        }
        world.log(|| format!("controller {number} dies"));
        sleep(ms(random.u64(..300))).await;
    }
}

impl Controller {
    fn clock(&self) -> SystemTime {
        let new_year_2025 = Duration::from_secs(1_735_689_600);
        SystemTime::UNIX_EPOCH + new_year_2025 + self.started.elapsed() + ms(self.skew)
    }

    async fn live(&mut self) -> Result {
        self.read();
        self.epochs.abandoned();
        loop {
            let name = *self.random.choice(&NAMES).ok_or("no names")?;
            let object = object(Kind::Semaphore, name)?;
            match self.random.u8(..100) {
                0..5 => self.tick(),
                5..STATUSES => self.write_status(&object).await?,
                _ => self.look(&object).await?,
            }
            sleep(ms(self.random.u64(..60))).await;
        }
    }

    /// Reads the record.
    fn read(&mut self) {
        let etcd = lock(&self.etcd);
        if etcd.version != self.version {
            self.version = etcd.version;
            self.epochs.found(etcd.record);
        }
    }

    /// Writes the record, unless another controller has.
    fn write(&mut self, epoch: Epoch) -> bool {
        {
            let mut etcd = lock(&self.etcd);
            if etcd.version == self.version {
                etcd.version += 1;
                self.version = etcd.version;
                (etcd.record, etcd.renewed) = (Some(epoch), Some(Instant::now()));
                return true;
            }
        }
        self.read();
        false
    }

    fn tick(&mut self) {
        self.read();
        let now = self.clock();
        let (left, floors) = {
            let mut etcd = lock(&self.etcd);
            if self.epochs.own().is_some() {
                etcd.renewed = Some(Instant::now());
            }
            let left = etcd.renewed.is_some_and(|at| at.elapsed() >= LEFT_AFTER);
            let floor = |status: &Status| status.kept.map(|kept| kept.floor);
            let floors = etcd.statuses.iter();
            (
                left,
                floors.map(|(o, s)| (o.clone(), floor(s))).collect::<Vec<_>>(),
            )
        };
        if left {
            self.epochs.abandoned();
        }
        if let Some(closed) = self.epochs.close(floors, now)
            && self.write(closed)
        {
            self.epochs.closed();
        }
    }

    fn status(&self, object: &ObjectRef) -> (Option<Kept>, u64) {
        let etcd = lock(&self.etcd);
        let status = etcd.statuses.get(object);
        status.map_or((None, 0), |status| (status.kept, status.version))
    }

    /// Writes a status, unless it has changed.
    fn replace(&mut self, object: &ObjectRef, kept: Kept, version: u64) -> bool {
        let mut etcd = lock(&self.etcd);
        let Some(status) = etcd.statuses.get_mut(object).filter(|s| s.version == version) else {
            return false;
        };
        *status = Status {
            kept: Some(kept),
            version: version + 1,
        };
        self.epochs.written(object, kept.floor);
        true
    }

    async fn inspect(&self, object: &ObjectRef, floor: u64) -> Result<Observation> {
        let control = self.world.observer.control();
        Ok(control.inspect(object, 32, floor).await?)
    }

    fn spec() -> Declaration {
        Declaration {
            lease: LEASE,
            ..Declaration::new(Capacity::Permits(1))
        }
    }

    /// Declares the object if Redis does not have it.
    async fn look(&mut self, object: &ObjectRef) -> Result {
        let failbacks = lock(&self.etcd).failbacks;
        let (status, version) = self.status(object);
        let clock = self.clock();
        let kept = self.epochs.kept(object, status, clock);
        let seen = self.inspect(object, kept.map_or(0, |kept| kept.floor)).await?;
        sleep(ms(self.random.u64(..20))).await;
        let done = match plan(kept.as_ref(), &seen, &Self::spec().digest(), LEASE, clock) {
            None => true,
            Some(plan) => self.declare(object, kept, plan, &seen, version).await?,
        };
        let mut etcd = lock(&self.etcd);
        if done && etcd.failbacks == failbacks {
            etcd.looked.insert((self.number, object.clone()));
        }
        Ok(())
    }

    async fn declare(
        &mut self,
        object: &ObjectRef,
        kept: Option<Kept>,
        mut plan: Plan,
        seen: &Observation,
        version: u64,
    ) -> Result<bool> {
        let mut undo = None;
        if let Some(kept) = kept.filter(|_| plan.beyond.is_some()) {
            loop {
                let others: Vec<_> = {
                    let etcd = lock(&self.etcd);
                    etcd.statuses.values().filter_map(|status| status.kept).collect()
                };
                let now = self.clock();
                match self.epochs.back(&kept, &plan, seen.now_micros, others, now) {
                    Backing::Wait => return Ok(false),
                    Backing::NewEpoch(epoch) => {
                        sleep(ms(self.random.u64(..20))).await;
                        if self.write(epoch) {
                            self.world
                                .log(|| format!("controller {}: {epoch:?}", self.number));
                            self.epochs.opened(epoch);
                        }
                        sleep(ms(self.random.u64(..20))).await;
                    }
                    Backing::Epoch(floor) => {
                        self.read();
                        if self.epochs.own().is_none() {
                            continue;
                        }
                        plan.floor = floor;
                        undo = Some(self.epochs.declares(object, &plan, floor, now));
                        break;
                    }
                    Backing::Status(_) => return Err("the status has what is needed".into()),
                }
            }
        } else {
            if kept.is_none() && plan.beyond.is_some() {
                plan.floor = plan.floor.max(self.epochs.first_floor(self.clock()));
            }
            let kept = Kept {
                floor: plan.floor,
                current_at: Some(plan.current_at),
                newest: 0,
                longest_lease: plan.longest_lease,
            };
            if !self.replace(object, kept, version) {
                return Ok(false);
            }
            sleep(ms(self.random.u64(..20))).await;
        }
        self.world.log(|| {
            format!(
                "controller {} declares {object} under {}",
                self.number, plan.floor
            )
        });
        let declaration = Declaration {
            floor: plan.floor,
            recovery: plan.declared_before.then_some(plan.longest_lease),
            ..Self::spec()
        };
        let control = self.world.observer.control();
        match control.declare_in(&seen.life, object, &declaration).await {
            Ok(_) => Ok(true),
            Err(Error::OtherLife { .. }) => {
                if let Some(before) = undo {
                    self.epochs.undo(object, before);
                }
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Brings the status up to date.
    async fn write_status(&mut self, object: &ObjectRef) -> Result {
        let (status, version) = self.status(object);
        let clock = self.clock();
        let (Some(status), Some(kept)) = (status, self.epochs.kept(object, status, clock)) else {
            return Ok(());
        };
        let seen = self.inspect(object, kept.floor).await?;
        if plan(Some(&kept), &seen, &Self::spec().digest(), LEASE, clock).is_some() {
            return Ok(());
        }
        let Some(snapshot) = seen.snapshot.filter(|_| kept.floor > status.floor) else {
            return Ok(());
        };
        sleep(ms(self.random.u64(..50))).await;
        let written = Kept {
            floor: snapshot.last_fence,
            current_at: Some(clock),
            ..status
        };
        self.replace(object, written, version);
        Ok(())
    }
}

/// Waits until each controller has looked at each object since now.
async fn all_looked(world: &World, etcd: &Shared, controllers: usize) {
    {
        let mut etcd = lock(etcd);
        etcd.failbacks += 1;
        etcd.looked.clear();
    }
    while lock(etcd).looked.len() < controllers * NAMES.len() {
        sleep(ms(50)).await;
    }
    world.log(|| "all have looked".to_owned());
}

/// A client that has never seen a token asks before all others.
async fn ask_first(world: &World, clock_set_back: bool) -> Result {
    let client = client(&world.memory, "observer").await?;
    for name in NAMES {
        let options = Options::new().lease(LEASE);
        let Some(got) = client.semaphore(name)?.with(options).try_acquire().await? else {
            continue;
        };
        world.log(|| format!("the first client has {got:?}"));
        let got = Arc::new(Got::Lease(got));
        if clock_set_back {
            world.check(|invariants| invariants.grew(name, got.fencing_token()));
        } else {
            world.check(|invariants| invariants.granted(name, "first", 1, 1, &got));
        }
        if let Some(got) = Arc::into_inner(got) {
            got.release().await?;
        }
    }
    client.close().await;
    Ok(())
}

async fn lose(world: Arc<World>, etcd: Shared, controllers: usize, clock_set_back: bool) -> Result {
    let mut random = world.random();
    loop {
        sleep(ms(random.u64(100..9000))).await;
        let way = random.u8(..10);
        world.log(|| format!("loss {way}"));
        match way {
            0 | 1 => world.memory.flush_all(),
            2 => world.memory.restart(false),
            3 => world.memory.restart(true),
            4 => {
                world.memory.flush_all();
                sleep(ms(random.u64(..300))).await;
                world.memory.flush_all();
            }
            5 => {
                // The object is deleted and applied again.
                let name = *random.choice(&NAMES).ok_or("no names")?;
                let object = object(Kind::Semaphore, name)?;
                let control = world.observer.control();
                control.withdraw(&object, Withdrawal::Delete).await?;
                if let Some(status) = lock(&etcd).statuses.get_mut(&object) {
                    *status = Status {
                        kept: None,
                        version: status.version + 1,
                    };
                }
                // As after a deletion, no holder is left.
                sleep(LEASE).await;
            }
            _ => {
                // A master that was cut off comes back: clients are kept waiting until the controllers have looked.
                let first = world.memory.save();
                world.memory.restart(false);
                sleep(ms(random.u64(..12_000))).await;
                world.refuse(Some("LOADING the data"));
                world.memory.restore(&first);
                all_looked(&world, &etcd, controllers).await;
                ask_first(&world, clock_set_back).await?;
                world.refuse(None);
            }
        }
        if clock_set_back && random.bool() {
            world
                .memory
                .set_clock(world.memory.clock() - ms(random.u64(..90_000)));
            world.memory.flush_all();
        }
    }
}

async fn work(mut worker: Worker, clock_set_back: bool) -> Result {
    let name = NAMES[worker.number % NAMES.len()];
    let options = Options::new().lease(LEASE);
    let semaphore = worker.client.semaphore(name)?.with(options);
    for _ in 0..ROUNDS {
        let random = &mut worker.random;
        sleep(ms(random.u64(..500))).await;
        let got = semaphore.acquire_timeout(ms(random.u64(..15_000))).await;
        let (world, process) = (&worker.world, &worker.process);
        let got = match got {
            Ok(Some(got)) => Arc::new(Got::Lease(got)),
            Ok(None) | Err(Error::Unreachable { .. } | Error::NotDeclared { .. }) => continue,
            Err(error) => {
                world.violation(format!("{process}: {error}"));
                continue;
            }
        };
        world.log(|| format!("{process} has {:?}", **got));
        if clock_set_back {
            world.check(|invariants| invariants.grew(name, got.fencing_token()));
        } else {
            world.check(|invariants| invariants.granted(name, process, 1, 1, &got));
        }
        sleep(ms(random.u64(..2000))).await;
        if !clock_set_back && !held(&got) {
            world.log(|| format!("{process} has lost {:?}", **got));
        }
        if let Some(got) = Arc::into_inner(got) {
            // Any outcome is valid: the server may be on its way.
            let _ = got.release().await;
        }
    }
    Ok(())
}
