//! A bounded buffer in a lock with two conditions: producers wait for room and consumers for things, and each wakes one of
//! the others. A waiter may be cancelled, time out or crash; its notification goes to the next waiter. So no waiter keeps
//! sleeping while there is work, and without faults no waiter wakes up without a notification.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tenure::{Condvar, Error, Kind, Lease, Lock, Options};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::{
    invariants::held,
    mixed_primitives::{self, Got, observe},
    process::{self, Worker, ms},
    world::{FaultProfile, World},
};
use crate::{Result, lock, object};

const LOCK: &str = "x";
const ROOM: usize = 2;
/// Total number of items.
const THINGS: usize = 12;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Producer,
    Consumer,
}

impl Role {
    fn condvar(self, lock: &Lock) -> std::result::Result<Condvar, Error> {
        lock.condvar(match self {
            Self::Producer => "room",
            Self::Consumer => "things",
        })
    }

    fn other(self) -> Self {
        match self {
            Self::Producer => Self::Consumer,
            Self::Consumer => Self::Producer,
        }
    }
}

/// State that the lock protects, and the state of its users.
struct Buffer {
    things: usize,
    /// Number of actions of a role.
    acted: [usize; 2],
    last: Instant,
    waiting: [usize; 2],
    notified: u64,
    woken: u64,
    /// Waiters whose notification could not be sent.
    owed: Vec<Role>,
}

impl Buffer {
    fn can(&self, role: Role) -> bool {
        match role {
            Role::Producer => self.things < ROOM,
            Role::Consumer => self.things > 0,
        }
    }

    fn done(&self, role: Role) -> bool {
        self.acted[role as usize] == THINGS
    }

    fn act(&mut self, role: Role) -> bool {
        let can = self.can(role);
        if can {
            match role {
                Role::Producer => self.things += 1,
                Role::Consumer => self.things -= 1,
            }
            self.acted[role as usize] += 1;
            self.last = Instant::now();
        }
        can
    }

    /// A waiter with work sleeps.
    fn stuck(&self, role: Role) -> bool {
        self.waiting[role as usize] > 0 && self.can(role) && !self.done(role)
    }
}

type Shared = Arc<Mutex<Buffer>>;

/// Duty to notify one waiter of a role: of a worker that has changed the buffer, or was notified and has not checked yet.
struct Duty<'a> {
    buffer: &'a Shared,
    of: Role,
    due: bool,
}

impl Drop for Duty<'_> {
    fn drop(&mut self) {
        if self.due {
            lock(self.buffer).owed.push(self.of);
        }
    }
}

struct Waiting<'a>(&'a Shared, Role);

impl<'a> Waiting<'a> {
    fn new(buffer: &'a Shared, role: Role) -> Self {
        lock(buffer).waiting[role as usize] += 1;
        Self(buffer, role)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        lock(self.0).waiting[self.1 as usize] -= 1;
    }
}

pub(super) async fn run(world: &Arc<World>) -> Result {
    let buffer: Shared = Arc::new(Mutex::new(Buffer {
        things: 0,
        acted: [0, 0],
        last: Instant::now(),
        waiting: [0, 0],
        notified: 0,
        woken: 0,
        owed: Vec::new(),
    }));
    let mut background = JoinSet::new();
    background.spawn(observe(world.clone(), vec![object(Kind::Lock, LOCK)?]));
    let shared = buffer.clone();
    let workers = process::run(world, 3, 4, move |worker| work(worker, shared.clone()));
    tokio::select! {
        ended = workers => ended?,
        ended = watch(world, &buffer) => return ended,
    }
    background.shutdown().await;
    let (notified, woken) = {
        let buffer = lock(&buffer);
        (buffer.notified, buffer.woken)
    };
    world.log(|| format!("{notified} notified, {woken} woken"));
    if world.profile == FaultProfile::None && woken > notified {
        world.violation(format!("{woken} woke up, and {notified} were notified"));
    }
    mixed_primitives::nothing_is_left(world).await;
    Ok(())
}

/// Sends owed notifications, and checks that no waiter sleeps for too long.
async fn watch(world: &Arc<World>, buffer: &Shared) -> Result {
    let longest = if world.profile == FaultProfile::None {
        10
    } else {
        90
    };
    let locked = world.observer.lock(LOCK)?.with(Options::new().lease(ms(2000)));
    let mut awake = Instant::now();
    loop {
        sleep(ms(50)).await;
        let owed = std::mem::take(&mut lock(buffer).owed);
        if !owed.is_empty() {
            let lease = locked.acquire().await?;
            for of in owed {
                let notified = of.condvar(&locked)?.notify(&lease, 1).await?;
                lock(buffer).notified += notified;
            }
            lease.release().await?;
        }
        let buffer = lock(buffer);
        if !buffer.stuck(Role::Producer) && !buffer.stuck(Role::Consumer) {
            awake = Instant::now();
        }
        let since = awake.max(buffer.last).elapsed();
        if since > Duration::from_secs(longest) {
            return Err(format!(
                "a wake-up is lost: {} things, {:?} wait since {since:?}",
                buffer.things, buffer.waiting
            )
            .into());
        }
    }
}

async fn work(mut worker: Worker, buffer: Shared) -> Result {
    let role = if worker.number.is_multiple_of(2) {
        Role::Producer
    } else {
        Role::Consumer
    };
    while !lock(&buffer).done(role) {
        sleep(ms(worker.random.u64(..400))).await;
        turn(&mut worker, &buffer, role).await?;
    }
    Ok(())
}

async fn turn(worker: &mut Worker, buffer: &Shared, role: Role) -> Result {
    let options = Options::new().lease(ms(worker.random.u64(400..4000)));
    let locked = worker.client.lock(LOCK)?.with(options);
    let mut woken = Duty {
        buffer,
        of: role,
        due: false,
    };
    let mut lease = None;
    loop {
        let got = match lease.take() {
            Some(lease) => lease,
            None => match locked.acquire().await {
                Ok(lease) => lease,
                Err(error) => {
                    unexpected(worker, "acquire", &error);
                    continue;
                }
            },
        };
        let got = Arc::new(Got::Lease(got));
        let (world, process) = (&worker.world, &worker.process);
        world.log(|| format!("{process} {role:?} has {:?}", **got));
        world.check(|invariants| invariants.granted(LOCK, process, 1, 1, &got));
        if !held(&got) {
            continue;
        }
        let (done, acted) = {
            let mut buffer = lock(buffer);
            let done = buffer.done(role);
            (done, !done && buffer.act(role))
        };
        woken.due = false;
        if acted {
            let other = Duty {
                buffer,
                of: role.other(),
                due: true,
            };
            return leave(worker, &locked, other, got).await;
        }
        let Some(Got::Lease(got)) = Arc::into_inner(got) else {
            return Err("another reference keeps the lease".into());
        };
        if done {
            // A notification for this worker belongs to those that still have work; here, to find that there is nothing.
            drop(got);
            return Ok(());
        }
        lease = wait(worker, &role.condvar(&locked)?, got, &mut woken).await;
    }
}

/// Waits in one of the ways there are.
async fn wait(worker: &mut Worker, condition: &Condvar, lease: Lease, woken: &mut Duty<'_>) -> Option<Lease> {
    let patience = ms(worker.random.u64(20..3000));
    let waiting = Waiting::new(woken.buffer, woken.of);
    let outcome = match worker.random.u8(..4) {
        0 => condition.wait_timeout(lease, patience).await,
        1 => {
            let Ok(outcome) = timeout(patience, condition.wait(lease)).await else {
                drop(waiting);
                // Not available for a task that it may have been notified of.
                sleep(ms(worker.random.u64(..10_000))).await;
                return None;
            };
            outcome.map(|lease| (lease, true))
        }
        _ => condition.wait(lease).await.map(|lease| (lease, true)),
    };
    match outcome {
        Ok((lease, notified)) => {
            lock(woken.buffer).woken += u64::from(notified);
            woken.due = notified;
            Some(lease)
        }
        Err(error) => {
            unexpected(worker, "wait", &error);
            None
        }
    }
}

/// Notifies one waiter of the other role, and the last worker notifies all of its own role that no work is left.
async fn leave(worker: &mut Worker, locked: &Lock, mut other: Duty<'_>, got: Arc<Got>) -> Result {
    let (buffer, role) = (other.buffer, other.of.other());
    sleep(ms(worker.random.u64(..100))).await;
    let notified = other.of.condvar(locked)?.notify(&got, 1).await;
    other.due = notified.is_err();
    let ended = lock(buffer).done(role);
    let all = if ended {
        role.condvar(locked)?.notify_all(&got).await
    } else {
        Ok(0)
    };
    for outcome in [notified, all] {
        match outcome {
            Ok(count) => lock(buffer).notified += count,
            Err(error) => unexpected(worker, "notify", &error),
        }
    }
    if ended {
        // A waiter that missed a notification, because the last worker could not send it, is notified by the watch.
        let waiting = lock(buffer).waiting[role as usize];
        lock(buffer).owed.extend(vec![role; waiting]);
    }
    if worker.random.bool()
        && let Some(Got::Lease(lease)) = Arc::into_inner(got)
        && let Err(error) = lease.release().await
    {
        unexpected(worker, "release", &error);
    }
    Ok(())
}

fn unexpected(worker: &Worker, what: &str, error: &Error) {
    let (world, process) = (&worker.world, &worker.process);
    world.log(|| format!("{process}: {what}: {error}"));
    let usual = matches!(error, Error::Unreachable { .. } | Error::Lost { .. });
    if world.profile == FaultProfile::None || !usual {
        world.violation(format!("{process}: {what}: {error}"));
    }
}
