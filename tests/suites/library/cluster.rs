//! Redis Cluster: every object lies at one master, and its slot may move while it is held and waited for. Promises 2, 5, 6
//! and 11 where there are several masters.
//!
//! Tests that only use a cluster share one; those that move its slots, stop its nodes or count have their own.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tenure::{Client, Kind, ObjectRef};
use tenure_tests::{
    Cluster, Result, ensure,
    sent::{Counter, Sent},
};
use tokio::{sync::Mutex, task::JoinHandle, time::timeout};

use super::support::{SOON, World, got};

mod channels;
mod failures;
mod moves;
mod nodes;
mod primitives;

/// Time limit: longer than it takes to find out that a master is dead, to agree on another, and to be informed of it.
const FAILED_OVER: Duration = Duration::from_secs(60);

/// Counts the commands that clients send to all nodes.
struct Counters<'a>(Vec<Counter<'a>>);

impl<'a> Counters<'a> {
    async fn start(cluster: &'a Cluster) -> Result<Self> {
        let mut counters = Vec::new();
        for node in cluster.nodes() {
            counters.push(Counter::start(node).await?);
        }
        Ok(Self(counters))
    }

    /// The commands since the start or the last call, without questions about the cluster.
    async fn take(&mut self) -> Result<Sent> {
        let mut all = Sent::new();
        for counter in &mut self.0 {
            for (name, count) in counter.take().await? {
                *all.entry(name).or_default() += count;
            }
        }
        all.retain(|name, _| name != "cluster");
        Ok(all)
    }
}

/// The object's slot.
async fn slot(cluster: &Cluster, object: &ObjectRef) -> Result<u16> {
    cluster.slot(&format!("{{{object}}}")).await
}

/// Names of objects, this number at each of the masters 0, 1 and 2.
async fn names(cluster: &Cluster, world: &World, kind: Kind, each: usize) -> Result<[Vec<String>; 3]> {
    let mut at = [const { BTreeSet::new() }; 3];
    for (index, slots) in at.iter_mut().enumerate() {
        slots.extend(cluster.slots_of(index).await?);
    }
    let mut names: [Vec<String>; 3] = Default::default();
    let mut count = 0;
    while names.iter().any(|names| names.len() < each) {
        let name = format!("x{count}");
        count += 1;
        let slot = slot(cluster, &world.object(kind, &name)?).await?;
        let index = at.iter().position(|slots| slots.contains(&slot));
        if let Some(names) = index.map(|index| &mut names[index]).filter(|n| n.len() < each) {
            names.push(name);
        }
    }
    Ok(names)
}

/// Tasks that take locks and give them back, and see whether they are alone with them.
struct Traffic {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    tasks: Vec<JoinHandle<Result>>,
}

impl Traffic {
    /// Starts this number of tasks, over these locks in turn, by two clients.
    async fn start(world: &World, names: &[String], count: usize) -> Result<Self> {
        let clients: [Client; 2] = [world.client().await?, world.client().await?];
        let stop = Arc::new(AtomicBool::new(false));
        let rounds = Arc::new(AtomicU64::new(0));
        // The newest fencing token of each lock; each holder of the lock finds it free.
        let inside: Vec<_> = names.iter().map(|_| Arc::new(Mutex::new(0))).collect();
        let mut tasks = Vec::new();
        for i in 0..count {
            let lock = clients[i % 2].lock(&names[i % names.len()])?;
            let (inside, stop, rounds) = (inside[i % names.len()].clone(), stop.clone(), rounds.clone());
            tasks.push(tokio::spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    let lease = got(lock.acquire_timeout(FAILED_OVER).await?)?;
                    {
                        let Ok(mut newest) = inside.try_lock() else {
                            tenure_tests::bail!("{lease:?} is held by two");
                        };
                        ensure!(lease.fencing_token() > *newest, "{lease:?} after {newest}");
                        *newest = lease.fencing_token();
                        tokio::time::sleep(Duration::from_millis(2)).await;
                    }
                    lease.release().await?;
                    rounds.fetch_add(1, Ordering::SeqCst);
                }
                Ok(())
            }));
        }
        Ok(Self { stop, rounds, tasks })
    }

    /// Waits until so many more leases have been taken and released.
    async fn rounds(&self, more: u64) -> Result {
        let wanted = self.rounds.load(Ordering::SeqCst) + more;
        tenure_tests::eventually("the traffic to go on", FAILED_OVER, async || {
            let rounds = self.rounds.load(Ordering::SeqCst);
            ensure!(
                rounds >= wanted || self.tasks.iter().any(JoinHandle::is_finished),
                "{rounds} of {wanted} rounds"
            );
            Ok(())
        })
        .await
    }

    /// No task has hung, met an error or another one.
    async fn end(self) -> Result {
        self.stop.store(true, Ordering::SeqCst);
        for task in self.tasks {
            timeout(SOON, task).await???;
        }
        Ok(())
    }
}
