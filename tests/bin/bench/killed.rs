//! A controller that is killed every five seconds while a hundred clients share a pool and a semaphore. Only on demand: it takes
//! five minutes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tenure::{Client, Lease, LockPool, Semaphore};
use tenure_tests::{ControlPlane, Controller, Redis, Result};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::report::{Goal, Report, each};

const CLIENTS: u64 = 100;
const SEATS: usize = 10;
const PERMITS: u64 = 5;
const SPAN: Duration = Duration::from_secs(300);
const KILL_EVERY: Duration = Duration::from_secs(5);
/// Time limit of a wait in the queue.
const PATIENCE: Duration = Duration::from_secs(60);

/// The counts of all clients.
#[derive(Default)]
struct Counts {
    granted: AtomicU64,
    failed: AtomicU64,
    lost: AtomicU64,
    over_admitted: AtomicU64,
    /// The number of clients that use each seat, and the permits.
    seats: [AtomicU64; SEATS],
    permits: AtomicU64,
}

fn add(count: &AtomicU64) {
    count.fetch_add(1, Ordering::Relaxed);
}

/// Counts grants, losses and failures.
pub(crate) async fn every_five_seconds(report: &mut Report) -> Result {
    let (redis, plane) = (Redis::start().await?, ControlPlane::shared().await?);
    let namespace = plane.namespace("killed").await?;
    let mut controller = Controller::start(plane, &redis.url(), &[&namespace]).await?;
    plane
        .apply(&format!(
            "apiVersion: tenure.dev/v1alpha1\n\
             kind: LockPool\n\
             metadata: {{name: seats, namespace: {namespace}}}\n\
             spec: {{generate: {{prefix: seat-, count: {SEATS}}}, leaseDurationSeconds: 5}}\n\
             ---\n\
             apiVersion: tenure.dev/v1alpha1\n\
             kind: Semaphore\n\
             metadata: {{name: callers, namespace: {namespace}}}\n\
             spec: {{permits: {PERMITS}, leaseDurationSeconds: 5}}\n"
        ))
        .await?;
    let objects = ["lockpool/seats", "semaphore/callers"];
    let ready = ["wait", "--for=condition=Ready", "--timeout=30s", "-n", &namespace];
    plane.kubectl(&[&ready[..], &objects].concat()).await?;
    let (counts, end) = (Arc::<Counts>::default(), Instant::now() + SPAN);
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let client = Client::builder(redis.url())
            .namespace(&namespace)
            .connect()
            .await?;
        clients.spawn(work(client, number, end, counts.clone()));
    }
    let mut kills = 0;
    while Instant::now() + KILL_EVERY < end {
        sleep(KILL_EVERY).await;
        controller.kill9()?;
        kills += 1;
        controller = Controller::start(plane, &redis.url(), &[&namespace]).await?;
    }
    while let Some(client) = clients.join_next().await {
        client??;
    }
    let read = |count: &AtomicU64| each(count.load(Ordering::Relaxed), 1);
    let about = format!("{CLIENTS} clients for {SPAN:?}, the controller killed {kills} times");
    report.figure(
        "killed_controller_grants",
        read(&counts.granted),
        Goal::None,
        &about,
    );
    for (name, count) in [
        ("killed_controller_over_admissions", &counts.over_admitted),
        ("killed_controller_lost_leases", &counts.lost),
        ("killed_controller_failed_acquisitions", &counts.failed),
    ] {
        report.figure(name, read(count), Goal::Exactly(0.0), "of these grants");
    }
    Ok(())
}

/// Takes one seat or permit after the other. Some holds are longer than a lease.
async fn work(client: Client, number: u64, end: Instant, counts: Arc<Counts>) -> Result {
    let (pool, semaphore) = (client.lock_pool("seats")?, client.semaphore("callers")?);
    for round in number.. {
        if Instant::now() > end {
            break;
        }
        let span = Duration::from_millis(if round % 50 == 0 { 7000 } else { 20 + round % 80 });
        let hold = Hold {
            span,
            counts: &counts,
        };
        let worked = if round % 3 == 0 {
            permit(&semaphore, hold).await
        } else {
            seat(&pool, hold).await
        };
        if !matches!(worked, Ok(Some(()))) {
            add(&counts.failed);
        }
    }
    Ok(())
}

async fn permit(semaphore: &Semaphore, hold: Hold<'_>) -> Result<Option<()>> {
    let Some(lease) = semaphore.acquire_timeout(PATIENCE).await? else {
        return Ok(None);
    };
    hold.for_its_span(&hold.counts.permits, PERMITS, &lease).await;
    lease.release().await?;
    Ok(Some(()))
}

async fn seat(pool: &LockPool, hold: Hold<'_>) -> Result<Option<()>> {
    let Some(seat) = pool.acquire_timeout(PATIENCE).await? else {
        return Ok(None);
    };
    let number = seat
        .resource()
        .rsplit('-')
        .next()
        .and_then(|number| number.parse::<usize>().ok());
    let users = &hold.counts.seats[number.unwrap_or_default() % SEATS];
    hold.for_its_span(users, 1, &seat).await;
    seat.release().await?;
    Ok(Some(()))
}

struct Hold<'a> {
    span: Duration,
    counts: &'a Counts,
}

impl Hold<'_> {
    /// Counts the clients that hold the same thing meanwhile.
    async fn for_its_span(&self, users: &AtomicU64, most: u64, lease: &Lease) {
        add(&self.counts.granted);
        if users.fetch_add(1, Ordering::SeqCst) >= most {
            add(&self.counts.over_admitted);
        }
        sleep(self.span).await;
        users.fetch_sub(1, Ordering::SeqCst);
        if lease.check().is_err() {
            add(&self.counts.lost);
        }
    }
}
