//! Workload with clients, their observer and the controller.

use std::{collections::BTreeMap, ops::Deref, sync::Arc, time::Duration};

use fastrand::Rng;
use tenure::{
    Client, Error, Kind, Lease, LockPool, ObjectRef, Options,
    control::{Capacity, Declaration, Order, Resource},
};
use tokio::{task::JoinSet, time::sleep};

use super::{
    invariants::{InvariantChecker, held},
    process::{self, Worker, ms},
    world::{FaultProfile, World},
};
use crate::{Result, client, object};

const CLIENTS: usize = 4;
const WORKERS: usize = 3;
const ROUNDS: usize = 4;
const PERMITS: u64 = 3;
/// The permits of a read-write lock: a writer has all.
const READERS: u64 = 1 << 30;
const SEATS: [&str; 2] = ["a", "b"];
/// Lease of declared objects; locks request 200 ms to 4 s.
const LEASE: Duration = Duration::from_secs(2);

fn objects(profile: FaultProfile) -> Result<Vec<ObjectRef>> {
    let mut objects = vec![object(Kind::Semaphore, "s")?, object(Kind::Pool, "p")?];
    // An undeclared object is not exclusive over a loss of all data.
    if profile != FaultProfile::DataLoss {
        objects.push(object(Kind::Lock, "x")?);
        objects.push(object(Kind::RwLock, "r")?);
    }
    Ok(objects)
}

fn declared(object: &ObjectRef) -> bool {
    matches!(object.kind(), Kind::Semaphore | Kind::Pool)
}

fn declaration(kind: Kind, again: Option<u64>) -> Declaration {
    let seat = |name: &&str| Resource {
        name: (*name).to_owned(),
        properties: BTreeMap::new(),
        disabled: false,
    };
    Declaration {
        floor: again.unwrap_or_default(),
        recovery: again.map(|_| LEASE),
        lease: LEASE,
        max_hold: None,
        capacity: match kind {
            Kind::Pool => Capacity::Resources {
                order: Order::LeastRecentlyUsed,
                resources: SEATS.iter().map(seat).collect(),
            },
            _ => Capacity::Permits(PERMITS),
        },
    }
}

pub(super) async fn run(world: &Arc<World>) -> Result {
    let objects = objects(world.profile)?;
    for object in objects.iter().filter(|object| declared(object)) {
        let declaration = declaration(object.kind(), None);
        world.observer.control().declare(object, &declaration).await?;
    }
    let mut background = JoinSet::new();
    background.spawn(observe(world.clone(), objects.clone()));
    if world.profile == FaultProfile::DataLoss {
        background.spawn(lose_and_declare(world.clone(), objects.clone()));
    }
    process::run(world, CLIENTS, WORKERS, work).await?;
    background.shutdown().await;
    if world.check(|invariants| invariants.grants()) == 0 {
        world.violation("nothing was ever granted");
    }
    world.stop_faults();
    for object in objects.iter().filter(|object| declared(object)) {
        declare_again(world, object).await?;
    }
    // Whatever happened: everything can soon be acquired again.
    let last = client(&world.memory, "last").await?;
    let patience = Duration::from_secs(60);
    let all = last.semaphore("s")?.acquire_many_timeout(3, patience).await?;
    let seat = last.lock_pool("p")?.acquire_timeout(patience).await?;
    let lock = last.lock("x")?.acquire_timeout(patience).await?;
    let write = last.rw_lock("r")?.write_timeout(patience).await?;
    if all.is_none() || seat.is_none() || lock.is_none() || write.is_none() {
        world.violation("not all could be had in the end");
    }
    drop((all, seat, lock, write));
    last.close().await;
    nothing_is_left(world).await;
    for object in objects {
        let snapshot = world.observer.control().look(&object, 10).await?;
        let empty = snapshot
            .as_ref()
            .is_none_or(|s| s.held == 0 && s.waiting == 0 && s.free == s.limit);
        if !empty || (!declared(&object) && snapshot.is_some()) {
            world.violation(format!("left in the end: {snapshot:?}"));
        }
    }
    Ok(())
}

/// Checks that only declared objects are left, after longer than any lease, queue entry and key of a crashed client.
pub(super) async fn nothing_is_left(world: &World) {
    sleep(Duration::from_secs(60)).await;
    let keys = world.memory.keys();
    let declared = |key: &String| key.contains("{test/semaphore/") || key.contains("{test/pool/");
    if !keys.iter().all(declared) {
        world.violation(format!("keys left in the end: {keys:?}"));
    }
    world.check(InvariantChecker::fences_grow);
}

/// Looks at everything, all the time.
pub(super) async fn observe(world: Arc<World>, objects: Vec<ObjectRef>) {
    let mut random = world.random();
    let control = world.observer.control();
    loop {
        sleep(ms(random.u64(1..400))).await;
        for object in &objects {
            let looked = control.look(object, 100).await;
            match looked {
                Ok(Some(snapshot)) if snapshot.digest.is_some() || !declared(object) => {
                    world.check(|invariants| invariants.seen(&object.to_string(), snapshot));
                }
                _ => world.check(|invariants| invariants.forgotten(&object.to_string())),
            }
        }
    }
}

/// The server restarts, with its data or without, and after a while the controller declares again.
async fn lose_and_declare(world: Arc<World>, objects: Vec<ObjectRef>) {
    let mut random = world.random();
    loop {
        sleep(ms(random.u64(500..15_000))).await;
        let how = random.u8(..3);
        world.log(|| format!("the server loses its data: {how}"));
        match how {
            0 => world.memory.flush_all(),
            1 => world.memory.restart(false),
            _ => world.memory.restart(true),
        }
        sleep(ms(random.u64(..3000))).await;
        for object in &objects {
            if let Err(error) = declare_again(&world, object).await {
                world.violation(format!("{object} could not be declared again: {error}"));
            }
        }
    }
}

async fn declare_again(world: &World, object: &ObjectRef) -> Result {
    // Larger than what was granted and never seen by its holder, also under the floor before.
    let floor = world.check(|invariants| invariants.next_floor(&object.to_string()));
    let declaration = declaration(object.kind(), Some(floor));
    world.observer.control().declare(object, &declaration).await?;
    Ok(())
}

/// An acquired object, and its limit.
struct Wanted {
    object: String,
    permits: u64,
    limit: u64,
}

/// A lease of any object.
#[derive(Debug)]
pub(super) enum Got {
    Lease(Lease),
    Seat(tenure::PoolLease),
    Write(tenure::WriteLease),
    Keyed(tenure::KeyedLease),
    Reentrant(tenure::ReentrantLease),
}

impl Deref for Got {
    type Target = Lease;

    fn deref(&self) -> &Lease {
        match self {
            Self::Lease(lease) => lease,
            Self::Seat(seat) => seat,
            Self::Write(write) => write,
            Self::Keyed(keyed) => keyed,
            Self::Reentrant(reentrant) => reentrant,
        }
    }
}

impl Got {
    pub(super) async fn release(self) -> std::result::Result<(), Error> {
        match self {
            Self::Lease(lease) => lease.release().await,
            Self::Seat(seat) => seat.release().await,
            Self::Write(write) => write.release().await,
            Self::Keyed(keyed) => keyed.release().await,
            Self::Reentrant(reentrant) => reentrant.release().await,
        }
    }

    fn resource(&self) -> Option<&str> {
        match self {
            Self::Seat(seat) => Some(seat.resource()),
            _ => None,
        }
    }
}

async fn work(worker: Worker) -> Result {
    let Worker {
        world,
        client,
        process,
        mut random,
        ..
    } = worker;
    for _ in 0..ROUNDS {
        sleep(ms(random.u64(..800))).await;
        let lease = ms(random.u64(200..4000));
        let mut options = Options::new().lease(lease);
        let max_hold = (random.u8(..5) == 0).then(|| lease + ms(random.u64(..2000)));
        if let Some(longest) = max_hold {
            options = options.max_hold(longest);
        }
        let (wanted, got) = acquire(&world, &client, options, &mut random).await?;
        let got = match got {
            Ok(Some(got)) => got,
            Ok(None) => continue,
            Err(error) if expected(&error, world.profile) => continue,
            Err(error) => {
                world.violation(format!("{process}: {}: {error}", wanted.object));
                continue;
            }
        };
        let got = Arc::new(got);
        let resource = got.resource();
        world.log(|| {
            format!(
                "{process} has {}x {} {resource:?}: {:?}",
                wanted.permits, wanted.object, **got
            )
        });
        world.check(|invariants| {
            invariants.granted(&wanted.object, &process, wanted.permits, wanted.limit, &got);
            if let Some(name) = resource.filter(|_| held(&got)) {
                invariants.believes(&format!("{} {name}", wanted.object), &process, 1, 1, &got);
            }
        });
        sleep(ms(random.u64(..3000))).await;
        if let Some(got) = downgraded(&world, &process, got, max_hold.is_some(), &mut random).await {
            end(&world, &wanted, got, max_hold.is_some(), &mut random).await;
        }
    }
    Ok(())
}

/// A writer may become a reader, and continues under the same fencing token, beside others. None: it was lost.
async fn downgraded(
    world: &World,
    process: &str,
    got: Arc<Got>,
    may_end: bool,
    random: &mut Rng,
) -> Option<Arc<Got>> {
    if !matches!(*got, Got::Write(_)) || !held(&got) || random.bool() {
        return Some(got);
    }
    let Some(Got::Write(write)) = Arc::into_inner(got) else {
        world.violation("another reference keeps the lease");
        return None;
    };
    let (object, fence) = (write.object().to_string(), write.fencing_token());
    match write.downgrade().await {
        Ok(read) => {
            let read = Arc::new(Got::Lease(read));
            world.log(|| format!("{process} reads on: {:?}", **read));
            if read.fencing_token() != fence {
                world.violation(format!("{object}: {fence} became {}", read.fencing_token()));
            }
            if held(&read) {
                world.check(|invariants| invariants.believes(&object, process, 1, READERS, &read));
            }
            sleep(ms(random.u64(..1000))).await;
            Some(read)
        }
        Err(Error::Lost { .. } | Error::Unreachable { .. }) if world.profile != FaultProfile::None => None,
        // It has come to its longest hold.
        Err(Error::Lost { .. }) if may_end => None,
        Err(error) => {
            world.violation(format!("{object}: the downgrade says {error}"));
            None
        }
    }
}

/// Gives a lease back, in one of the ways there are.
async fn end(world: &World, wanted: &Wanted, lease: Arc<Got>, may_end: bool, random: &mut Rng) {
    let Some(lease) = Arc::into_inner(lease) else {
        return world.violation("another reference keeps the lease");
    };
    let object = &wanted.object;
    let reliable = world.profile == FaultProfile::None;
    if reliable && !may_end && !held(&lease) {
        world.violation(format!("{object}: lost for no reason: {:?}", *lease));
    }
    let held = held(&lease);
    match random.u8(..10) {
        0..3 => drop(lease),
        // Given up while it is on its way.
        3 => drop(tokio::time::timeout(ms(random.u64(..5)), lease.release()).await),
        _ => match lease.release().await {
            Ok(()) | Err(Error::Lost { .. }) if !reliable || may_end => {}
            Ok(()) if held => {}
            Err(error) if expected(&error, world.profile) => {}
            outcome => world.violation(format!("{object}: the release says {outcome:?}")),
        },
    }
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

async fn acquire(
    world: &World,
    client: &Client,
    options: Options,
    random: &mut Rng,
) -> Result<(Wanted, std::result::Result<Option<Got>, Error>)> {
    let kinds = objects(world.profile)?;
    let object = random.choice(&kinds).ok_or("there is nothing to acquire")?;
    let patience = ms(random.u64(20..6000));
    let how = random.u8(..4);
    let (permits, limit) = match object.kind() {
        Kind::Semaphore => (random.u64(1..=PERMITS), PERMITS),
        Kind::Pool => (1, SEATS.len() as u64),
        Kind::RwLock if random.u8(..3) == 0 => (READERS, READERS),
        Kind::RwLock => (1, READERS),
        // A lock: the others are not among the kinds.
        _ => (1, 1),
    };
    let wanted = Wanted {
        object: object.to_string(),
        permits,
        limit,
    };
    let many = u32::try_from(permits)?;
    let lease = |lease: Option<Lease>| lease.map(Got::Lease);
    let got = match object.kind() {
        Kind::Pool => seat(&client.lock_pool(object.name())?.with(options), how, patience).await,
        Kind::Semaphore => {
            let semaphore = client.semaphore(object.name())?.with(options);
            match how {
                0 => semaphore.try_acquire_many(many).await.map(lease),
                1 => semaphore.acquire_many_timeout(many, patience).await.map(lease),
                _ => given_up(patience, semaphore.acquire_many(many)).await.map(lease),
            }
        }
        Kind::RwLock => {
            let lock = client.rw_lock(object.name())?.with(options);
            let write = |lease: Option<tenure::WriteLease>| lease.map(Got::Write);
            match (permits == 1, how) {
                (true, 0) => lock.try_read().await.map(lease),
                (true, 1) => lock.read_timeout(patience).await.map(lease),
                (true, _) => given_up(patience, lock.read()).await.map(lease),
                (false, 0) => lock.try_write().await.map(write),
                (false, 1) => lock.write_timeout(patience).await.map(write),
                (false, _) => given_up(patience, lock.write()).await.map(write),
            }
        }
        _ => {
            let lock = client.lock(object.name())?.with(options);
            match how {
                0 => lock.try_acquire().await.map(lease),
                1 => lock.acquire_timeout(patience).await.map(lease),
                _ => given_up(patience, lock.acquire()).await.map(lease),
            }
        }
    };
    Ok((wanted, got))
}

async fn seat(pool: &LockPool, how: u8, patience: Duration) -> std::result::Result<Option<Got>, Error> {
    let seat = match how {
        0 => pool.try_acquire().await,
        1 => pool.acquire_timeout(patience).await,
        _ => given_up(patience, pool.acquire()).await,
    };
    seat.map(|seat| seat.map(Got::Seat))
}

/// Drops the future when it takes too long.
async fn given_up<T>(
    patience: Duration,
    future: impl Future<Output = std::result::Result<T, Error>>,
) -> std::result::Result<Option<T>, Error> {
    match tokio::time::timeout(patience, future).await {
        Ok(result) => result.map(Some),
        Err(_) => Ok(None),
    }
}
