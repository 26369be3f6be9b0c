//! Busy objects: writes of statuses, growth of etcd, the size of an object.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tenure::Options;
use tenure_crds::{LockPool, Semaphore};
use tenure_tests::{Context, Result, ensure, eventually};
use tokio::{task::JoinSet, time::sleep};

use crate::{
    controller::world::{PATIENCE, World},
    report::{Goal, Report, each},
};

const WRITES: &str = "tenure_status_writes";
const OBJECTS: usize = 20;
const MINUTE: Duration = Duration::from_secs(60);
/// Time after which what happens has a steady rate.
const BEGINNING: Duration = Duration::from_secs(10);

/// Held and renewed, and nothing else.
pub(super) async fn renewals(report: &mut Report) -> Result {
    for lease in [5, 30] {
        let world = World::new("renewals", 1).await?;
        world.create("x", OBJECTS, lease).await?;
        world.until("Synced", OBJECTS).await?;
        let idle = world.counted(WRITES).await?;
        let client = world.client(&world.namespaces[0], "holder", None).await?;
        let mut pools = Vec::new();
        let mut permits = Vec::new();
        for number in (0..OBJECTS).step_by(2) {
            pools.push(client.lock_pool(format!("x{number}"))?.acquire().await?);
            permits.push(client.semaphore(format!("x{}", number + 1))?.acquire().await?);
        }
        let held = || async {
            let statuses = world.statuses().await?;
            let held = statuses.iter().filter(|status| status.held == 1).count();
            ensure!(held == OBJECTS, "{held} of {OBJECTS}");
            Ok(())
        };
        eventually("all to be held", PATIENCE, async || held().await).await?;
        sleep(BEGINNING).await;
        let before = world.counted(WRITES).await?;
        sleep(2 * MINUTE).await;
        let writes = world.counted(WRITES).await? - before;
        for lease in &permits {
            lease.check()?;
        }
        report.figure(
            &format!("writes_under_renewals_{lease}"),
            each(writes, 2 * OBJECTS as u64),
            Goal::AtMost(1.0),
            &format!("an object and minute, leases of {lease} s: {writes} in two minutes, {OBJECTS} objects"),
        );
        if lease == 30 {
            drop((pools, permits));
            client.close().await;
            eventually("all to be free", PATIENCE, async || {
                let held: u32 = world.statuses().await?.iter().map(|status| status.held).sum();
                ensure!(held == 0, "{held} are held");
                Ok(())
            })
            .await?;
            ensure!(world.counted(WRITES).await? > idle, "nothing was written");
            let before = world.counted(WRITES).await?;
            sleep(MINUTE).await;
            report.figure(
                "writes_when_idle",
                each(world.counted(WRITES).await? - before, 1),
                Goal::Exactly(0.0),
                &format!("in a minute, {OBJECTS} objects"),
            );
        }
    }
    Ok(())
}

/// A pool of a thousand resources and a semaphore, which many clients take and give back all the time.
pub(super) async fn churn(report: &mut Report) -> Result {
    let world = World::new("churn", 1).await?;
    let namespace = world.namespaces[0].clone();
    let resources: Vec<_> = (0..1_000).map(|n| format!("{{name: host-{n}}}")).collect();
    let yaml = format!(
        "apiVersion: tenure.dev/v1alpha1\nkind: LockPool\nmetadata: {{name: seats, namespace: {namespace}}}\n\
         spec: {{resources: [{}]}}\n",
        resources.join(", ")
    );
    world.plane.apply(&yaml).await?;
    world.until("Synced", 1).await?;
    let (done, grants) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut users: JoinSet<Result> = JoinSet::new();
    for number in 0..100 {
        let client = world
            .client(&namespace, &format!("training-worker-{number}"), None)
            .await?;
        let pool = client
            .lock_pool("seats")?
            .with(Options::new().reason("training of a model"));
        let (done, grants) = (done.clone(), grants.clone());
        users.spawn(async move {
            while !done.load(Ordering::Relaxed) {
                let lease = pool.acquire().await?;
                grants.fetch_add(1, Ordering::Relaxed);
                sleep(Duration::from_millis(200)).await;
                lease.release().await?;
            }
            drop(client);
            Ok(())
        });
    }
    sleep(BEGINNING).await;
    let (writes, written) = (world.counted(WRITES).await?, world.written().await?);
    let granted = grants.load(Ordering::Relaxed);
    sleep(MINUTE).await;
    let writes = world.counted(WRITES).await? - writes;
    let written = world.written().await? - written;
    let granted = grants.load(Ordering::Relaxed) - granted;
    done.store(true, Ordering::Relaxed);
    while let Some(user) = users.join_next().await {
        user??;
    }
    report.figure(
        "writes_under_churn",
        each(writes, 1),
        Goal::AtMost(12.0),
        &format!("a minute, of a pool of 1000 resources, with {granted} grants"),
    );
    report.figure(
        "etcd_growth_under_churn",
        each(written, 1 << 20),
        Goal::AtMost(1.0),
        "MiB a minute that etcd is given to write, meanwhile",
    );
    let settled = eventually("the last state to be shown", MINUTE, async || {
        let held: u32 = world.statuses().await?.iter().map(|status| status.held).sum();
        ensure!(held == 0, "{held} are held");
        Ok(())
    });
    settled.await
}

/// An object that many hold and many wait for.
pub(super) async fn size(report: &mut Report) -> Result {
    const EACH: usize = 10_000;
    let world = World::new("size", 1).await?;
    let namespace = world.namespaces[0].clone();
    for (kind, spec) in [
        ("LockPool", format!("generate: {{prefix: seat-, count: {EACH}}}")),
        ("Semaphore", format!("permits: {EACH}")),
    ] {
        let yaml = format!(
            "apiVersion: tenure.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: big, namespace: {namespace}}}\n\
             spec: {{{spec}, leaseDurationSeconds: 600}}\n"
        );
        world.plane.apply(&yaml).await?;
    }
    world.until("Synced", 2).await?;
    let pod = "gpu-training-7f9c6d8b5-x2x9q";
    let client = world
        .client(
            &namespace,
            pod,
            Some("3f0c1c4e-7d1b-4a53-9a51-0d5f8f6f4b11".to_owned()),
        )
        .await?;
    let options = || Options::new().reason("nightly training of the ranking model");
    let (pool, semaphore) = (
        client.lock_pool("big")?.with(options()),
        client.semaphore("big")?.with(options()),
    );
    let (mut seats, mut permits) = (Vec::new(), Vec::new());
    for _ in 0..EACH {
        seats.push(pool.acquire().await?);
        permits.push(semaphore.acquire().await?);
    }
    let mut waiting = JoinSet::new();
    for _ in 0..EACH {
        let (pool, semaphore) = (pool.clone(), semaphore.clone());
        waiting.spawn(async move { pool.acquire().await.map(drop) });
        waiting.spawn(async move { semaphore.acquire().await.map(drop) });
    }
    eventually("all to be shown", PATIENCE, async || {
        for status in world.statuses().await? {
            let all = (status.held as usize, status.waiting as usize) == (EACH, EACH);
            ensure!(all, "{} held, {} waiting", status.held, status.waiting);
        }
        Ok(())
    })
    .await?;
    waiting.abort_all();
    let pool = world.api::<LockPool>(&namespace).get("big").await?;
    let semaphore = world.api::<Semaphore>(&namespace).get("big").await?;
    for (kind, json, fields) in [
        (
            "pool",
            serde_json::to_vec(&pool)?,
            serde_json::to_vec(&pool.metadata.managed_fields)?,
        ),
        (
            "semaphore",
            serde_json::to_vec(&semaphore)?,
            serde_json::to_vec(&semaphore.metadata.managed_fields)?,
        ),
    ] {
        report.figure(
            &format!("{kind}_size"),
            each(json.len() as u64, 1024),
            Goal::AtMost(16.0),
            &format!(
                "KiB, {EACH} holders and as many waiters; {} bytes are managedFields",
                fields.len()
            ),
        );
    }
    let held = seats.first().context("no lease")?;
    held.check()?;
    Ok(())
}
