//! The load: nodes, each with a client and a connection of its own, as so many pods would have, and workers in each.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tenure::{
    Client, Error, Identity, Kind, Lease, ObjectRef, Semaphore,
    control::{Capacity, Declaration, Order, Withdrawal},
};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    redis::Redis,
    report::{Hold, Report, rounded},
};

/// A notification takes no longer, unless something is wrong.
const PATIENCE: Duration = Duration::from_secs(30);
/// Nor does an acquisition, behind all others.
const PATIENCE_OF_ALL: Duration = Duration::from_secs(LONGEST_MS / 1000 + 60);
/// The time after which the leftovers of a crash expire.
const KEEP: Duration = Duration::from_secs(600);
/// The longest time for which the lock may be held in all.
const LONGEST_MS: u64 = 300_000;

/// The size of the load.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Size {
    pub(crate) nodes: u32,
    /// Of each node.
    pub(crate) workers: u32,
    /// The number of acquisitions of each object by each worker.
    pub(crate) rounds: u32,
    pub(crate) hold_ms: u64,
    /// Of the semaphore.
    pub(crate) permits: u32,
    /// Of the pool.
    pub(crate) resources: u32,
}

impl Default for Size {
    fn default() -> Self {
        Self {
            nodes: 5,
            workers: 10,
            rounds: 10,
            hold_ms: 1,
            permits: 5,
            resources: 5,
        }
    }
}

impl Size {
    /// Returns an error that names a size which is zero, or too large.
    pub(crate) fn check(self) -> Result<(), String> {
        for (name, value, range) in [
            ("nodes", u64::from(self.nodes), 1..=16),
            ("workers", self.workers.into(), 1..=64),
            ("rounds", self.rounds.into(), 1..=1000),
            ("hold_ms", self.hold_ms, 0..=10_000),
            ("permits", self.permits.into(), 1..=64),
            ("resources", self.resources.into(), 1..=64),
        ] {
            if !range.contains(&value) {
                let (from, to) = range.into_inner();
                return Err(format!("{name} is {value}: use a number from {from} to {to}"));
            }
        }
        let longest = self.acquisitions() * self.hold_ms;
        if longest > LONGEST_MS {
            return Err(format!(
                "nodes * workers * rounds * hold_ms is {longest}: one holder at a time takes too long, use at most {LONGEST_MS}"
            ));
        }
        Ok(())
    }

    /// Of each object.
    pub(crate) fn acquisitions(self) -> u64 {
        self.waiters() * u64::from(self.rounds)
    }

    fn waiters(self) -> u64 {
        u64::from(self.nodes) * u64::from(self.workers)
    }
}

/// The outcomes of the notifications of a condition.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Wakes {
    waits: u64,
    /// The sum of the waiters that the notifications reported.
    notified: u64,
    woken: u64,
    /// Waiters that were notified and not woken: must be 0.
    lost: u64,
    /// Waiters that were woken and not notified: must be 0.
    duplicate: u64,
    /// Notifications that reached another number than they should have: must be 0.
    miscounted: u64,
    /// Notifications without a waiter that woke a later one: must be 0.
    kept: u64,
}

impl Wakes {
    pub(crate) fn is_good(&self) -> bool {
        self.lost + self.duplicate + self.miscounted + self.kept == 0 && self.woken == self.waits
    }
}

/// All that a run has found out.
#[derive(Debug, Serialize)]
pub(crate) struct Outcome {
    /// Returns whether every promise was kept.
    ok: bool,
    size: Size,
    seconds: f64,
    lock: Report,
    semaphore: Report,
    pool: Report,
    condition: Wakes,
    /// The first of them.
    errors: Vec<String>,
}

/// Runs all of it.
pub(crate) async fn run(redis: &Redis, size: Size) -> anyhow::Result<Outcome> {
    let mut clients = Vec::new();
    for node in 0..size.nodes {
        let mut identity = Identity::from_env();
        identity.process = format!("node-{node}");
        clients.push(redis.builder()?.identity(identity).connect().await?);
    }
    let first = clients.first().context("no node")?;
    let now = first.control().now_micros().await?;
    let objects = Objects::declare(first, now, size).await?;
    let load = Load {
        clients: clients.clone(),
        size,
        name: objects.name.clone(),
        start: Instant::now(),
    };
    let outcome = load.run().await;
    let withdrawn = objects.withdraw(first).await;
    for client in clients {
        client.close().await;
    }
    withdrawn?;
    outcome
}

/// Declares the objects in place of a controller, which does that for custom resources.
struct Objects {
    name: String,
    declared: [ObjectRef; 2],
}

impl Objects {
    async fn declare(client: &Client, now_micros: u64, size: Size) -> anyhow::Result<Self> {
        let name = format!("gather-{now_micros}");
        let namespace = &client.identity().namespace;
        let object = |kind| ObjectRef::new(kind, namespace, &name);
        let (semaphore, pool) = (object(Kind::Semaphore)?, object(Kind::Pool)?);
        let generated = Capacity::Generated {
            order: Order::LeastRecentlyUsed,
            prefix: "seat-".to_owned(),
            count: size.resources.into(),
        };
        for (object, capacity) in [
            (&semaphore, Capacity::Permits(size.permits.into())),
            (&pool, generated),
        ] {
            let declaration = Declaration {
                floor: now_micros,
                recovery: None,
                lease: PATIENCE,
                max_hold: None,
                capacity,
            };
            client.control().declare(object, &declaration).await?;
            let retain = Withdrawal::Retain { keep: KEEP };
            client.control().withdraw(object, retain).await?;
        }
        Ok(Self {
            name,
            declared: [semaphore, pool],
        })
    }

    async fn withdraw(&self, client: &Client) -> Result<(), Error> {
        for object in &self.declared {
            client.control().withdraw(object, Withdrawal::Delete).await?;
        }
        Ok(())
    }
}

/// The result of a worker.
type Worked = (u32, Vec<Hold>, Option<String>);

struct Load {
    clients: Vec<Client>,
    size: Size,
    name: String,
    start: Instant,
}

impl Load {
    async fn run(&self) -> anyhow::Result<Outcome> {
        let (size, mut errors) = (self.size, Vec::new());
        let (permits, resources) = (size.permits.into(), size.resources.into());
        let lock = self.measure(Kind::Lock, 1, &mut errors).await?;
        let semaphore = self.measure(Kind::Semaphore, permits, &mut errors).await?;
        let pool = self.measure(Kind::Pool, resources, &mut errors).await?;
        let condition = self.wakes().await?;
        let all = size.acquisitions();
        let good = [&lock, &semaphore, &pool]
            .iter()
            .all(|report| report.is_good(all));
        Ok(Outcome {
            ok: good && condition.is_good(),
            size,
            seconds: rounded(self.start.elapsed().as_secs_f64(), 1000.0),
            lock,
            semaphore,
            pool,
            condition,
            errors,
        })
    }

    async fn measure(&self, kind: Kind, permits: u64, errors: &mut Vec<String>) -> anyhow::Result<Report> {
        let (began, mut workers) = (Instant::now(), JoinSet::new());
        for (node, client) in (0..).zip(&self.clients) {
            for worker in 0..self.size.workers {
                let worker = Worker {
                    node,
                    number: worker,
                    client: client.clone(),
                    name: self.name.clone(),
                    size: self.size,
                    start: self.start,
                };
                workers.spawn(worker.work(kind));
            }
        }
        let (mut holds, mut failed) = (Vec::new(), Vec::new());
        while let Some(worked) = workers.join_next().await {
            let (node, held, error): Worked = worked?;
            holds.extend(held);
            if let Some(error) = error {
                failed.push(node);
                if errors.len() < 10 {
                    errors.push(format!("node-{node}: {error}"));
                }
            }
        }
        Ok(Report::new(
            &holds,
            &failed,
            self.size.nodes,
            permits,
            began.elapsed(),
        ))
    }

    /// All workers wait for a condition; half of them are notified, then the rest.
    async fn wakes(&self) -> anyhow::Result<Wakes> {
        let waiters = self.size.waiters();
        let mut wakes = Wakes::default();
        for _ in 0..self.size.rounds.min(10) {
            let entered = Arc::new(AtomicU64::new(0));
            let mut waiting = JoinSet::new();
            for client in &self.clients {
                for _ in 0..self.size.workers {
                    waiting.spawn(wait(client.clone(), self.name.clone(), PATIENCE, entered.clone()));
                }
            }
            for count in [waiters / 2, waiters - waiters / 2]
                .into_iter()
                .filter(|count| *count > 0)
            {
                wakes.notified += self
                    .notify(waiters, &entered, count, &mut wakes.miscounted)
                    .await?;
            }
            wakes.waits += waiters;
            while let Some(woken) = waiting.join_next().await {
                wakes.woken += u64::from(woken??);
            }
        }
        // There is no waiter any more: this notification wakes no client, now or later.
        let entered = Arc::new(AtomicU64::new(0));
        self.notify(0, &entered, 1, &mut wakes.kept).await.map(drop)?;
        let client = self.clients.first().context("no node")?.clone();
        let woken = wait(client, self.name.clone(), Duration::from_millis(100), entered).await?;
        wakes.kept += u64::from(woken);
        wakes.lost = wakes.notified.saturating_sub(wakes.woken);
        wakes.duplicate = wakes.woken.saturating_sub(wakes.notified);
        Ok(wakes)
    }

    /// Notifies as many, once all `waiters` have begun to wait. Counts it as wrong when another number is reached.
    async fn notify(
        &self,
        waiters: u64,
        entered: &AtomicU64,
        count: u64,
        wrong: &mut u64,
    ) -> anyhow::Result<u64> {
        let lock = self.clients.first().context("no node")?.lock(&self.name)?;
        let condition = lock.condvar("changed")?;
        let expected = count.min(waiters);
        let notified = timeout(PATIENCE, async {
            loop {
                let lease = lock.acquire().await?;
                // A waiter that has entered has released the lock by waiting, or this worker would not hold it.
                if entered.load(SeqCst) == waiters {
                    let notified = condition.notify(&lease, u32::try_from(count)?).await?;
                    lease.release().await?;
                    return anyhow::Ok(notified);
                }
                lease.release().await?;
                sleep(Duration::from_millis(1)).await;
            }
        });
        let notified = notified.await.context("the waiters did not come to wait")??;
        *wrong += u64::from(notified != expected);
        Ok(notified)
    }
}

/// `true` if it was notified in time.
async fn wait(
    client: Client,
    name: String,
    patience: Duration,
    entered: Arc<AtomicU64>,
) -> anyhow::Result<bool> {
    let lock = client.lock(&name)?;
    let lease = lock.acquire().await?;
    entered.fetch_add(1, SeqCst);
    let (lease, notified) = lock.condvar("changed")?.wait_timeout(lease, patience).await?;
    lease.release().await?;
    Ok(notified)
}

struct Worker {
    node: u32,
    number: u32,
    client: Client,
    name: String,
    size: Size,
    start: Instant,
}

impl Worker {
    async fn work(self, kind: Kind) -> Worked {
        let mut holds = Vec::new();
        for round in 0..self.size.rounds {
            // Some ask for two.
            let permits = 1 + (self.number + round) % 2;
            if let Err(error) = self.hold(kind, permits.min(self.size.permits), &mut holds).await {
                return (self.node, holds, Some(format!("{error:#}")));
            }
        }
        (self.node, holds, None)
    }

    async fn hold(&self, kind: Kind, permits: u32, holds: &mut Vec<Hold>) -> anyhow::Result<()> {
        let asked = self.start.elapsed();
        let (resource, lease) = match kind {
            Kind::Pool => {
                let pool = self.client.lock_pool(&self.name)?;
                let seat = pool.acquire_timeout(PATIENCE_OF_ALL).await?.context("busy")?;
                (seat.resource().to_owned(), seat.into_lease())
            }
            Kind::Semaphore => (
                String::new(),
                many(&self.client.semaphore(&self.name)?, permits).await?,
            ),
            _ => {
                let lock = self.client.lock(&self.name)?;
                (
                    String::new(),
                    lock.acquire_timeout(PATIENCE_OF_ALL).await?.context("busy")?,
                )
            }
        };
        let granted = self.start.elapsed();
        // In practice a worker would stop when the lease is lost; here it goes on, so that a second holder would be
        // seen.
        sleep(Duration::from_millis(self.size.hold_ms)).await;
        holds.push(Hold {
            node: self.node,
            resource,
            permits: lease.permits(),
            fence: lease.fencing_token(),
            asked,
            granted,
            ended: self.start.elapsed(),
        });
        lease.release().await?;
        Ok(())
    }
}

async fn many(semaphore: &Semaphore, permits: u32) -> anyhow::Result<Lease> {
    let lease = semaphore.acquire_many_timeout(permits, PATIENCE_OF_ALL).await?;
    lease.context("busy")
}
