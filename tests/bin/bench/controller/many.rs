//! Many objects: memory, new ones, losses of data, and a restart.

use std::time::{Duration, Instant};

use tenure_tests::{Result, ensure, eventually};
use tokio::time::sleep;

use crate::{
    controller::{
        setting,
        world::{PATIENCE, World, is_ready_for},
    },
    report::{Goal, Report, each},
};

/// Objects that are made at once, beside the others.
const NEW: usize = 1_000;
const LEASE: u32 = 10;
/// Time for whatever is still under way, such as the record of epochs.
const REST: Duration = Duration::from_secs(15);

pub(super) async fn objects(report: &mut Report) -> Result {
    let objects = setting("TENURE_BENCH_OBJECTS", 2_000);
    let outages = setting("TENURE_BENCH_OUTAGES", 3);
    let mut world = World::new("scale", 50).await?;
    new(report, &world).await?;
    world.create("x", objects.saturating_sub(NEW), LEASE).await?;
    let all = objects.max(NEW);
    world.until("Synced", all).await?;
    restart(report, &mut world, all).await?;

    let mut after = Vec::new();
    for outage in 0..outages {
        lose(report, &world, all, outage == 0).await?;
        after.push(world.memory()?);
    }
    let (first, last) = (
        after.first().copied().unwrap_or(1.0),
        after.last().copied().unwrap_or(1.0),
    );
    report.figure(
        "controller_memory_after_losses",
        last,
        Goal::AtMost(64.0),
        &format!("MiB, {all} objects, after each of {outages} losses: {after:.1?}"),
    );
    report.figure(
        "controller_memory_growth",
        last / first,
        Goal::AtMost(1.05),
        "after the last loss, divided by after the first one",
    );
    Ok(())
}

/// Objects that are made at once.
async fn new(report: &mut Report, world: &World) -> Result {
    let (calls, start) = (world.calls().await?, Instant::now());
    world.create("new", NEW, LEASE).await?;
    let created = start.elapsed();
    world.until("Synced", NEW).await?;
    let took = start.elapsed();
    sleep(Duration::from_secs(2)).await;
    let calls = world.calls().await? - calls;
    report.figure(
        "new_objects_seconds",
        took.as_secs_f64(),
        Goal::AtMost(10.0),
        &format!(
            "from the first of {NEW} new objects until all are Ready; their creation alone took {created:.1?}"
        ),
    );
    report.figure(
        "new_object_calls",
        each(calls, NEW as u64),
        Goal::AtMost(2.0),
        &format!("{calls} calls of the API server for {NEW} objects"),
    );
    Ok(())
}

async fn restart(report: &mut Report, world: &mut World, all: usize) -> Result {
    let (calls, start) = (world.calls().await?, Instant::now());
    world.restart().await?;
    let took = start.elapsed();
    let metric = "tenure_reconciles";
    eventually("all to be reconciled", PATIENCE, async || {
        let done = world.counted(metric).await?;
        ensure!(done >= all as u64, "{done} of {all}");
        Ok(())
    })
    .await?;
    sleep(Duration::from_secs(2)).await;
    let calls = world.calls().await? - calls;
    report.figure(
        "restart_readyz_seconds",
        took.as_secs_f64(),
        Goal::None,
        &format!("from SIGTERM to /readyz, {all} objects"),
    );
    report.figure(
        "restart_writes",
        each(calls, 1),
        Goal::Exactly(0.0),
        &format!("calls that change something, {all} objects"),
    );
    report.figure(
        "controller_memory_at_start",
        world.memory()?,
        Goal::AtMost(64.0),
        &format!("MiB, {all} objects, after a restart"),
    );
    Ok(())
}

/// Redis loses everything, and keeps running: no client touches an object.
async fn lose(report: &mut Report, world: &World, all: usize, shown: bool) -> Result {
    let metric = "tenure_declarations";
    let (declared, start) = (world.counted(metric).await?, Instant::now());
    world.redis.cli(&["FLUSHALL"]).await?;
    eventually("the loss to be noticed", PATIENCE, async || {
        ensure!(
            world.counted(metric).await? > declared,
            "nothing is declared anew"
        );
        Ok(())
    })
    .await?;
    let noticed = start.elapsed();
    eventually("all to be declared", PATIENCE, async || {
        let done = world.counted(metric).await? - declared;
        ensure!(done >= all as u64, "{done} of {all}");
        Ok(())
    })
    .await?;
    let mended = start.elapsed();
    let mut first = None;
    eventually("all to be granting", PATIENCE, async || {
        let statuses = world.statuses().await?;
        let recovering = statuses
            .iter()
            .filter(|status| is_ready_for(status, "Recovering"))
            .count();
        if recovering > 0 {
            first.get_or_insert(start.elapsed());
        }
        let synced = statuses
            .iter()
            .filter(|status| is_ready_for(status, "Synced"))
            .count();
        ensure!(start.elapsed() > Duration::from_secs(LEASE.into()), "it recovers");
        ensure!(synced == statuses.len(), "{synced} of {}", statuses.len());
        Ok(())
    })
    .await?;
    let granting = start.elapsed();
    sleep(REST).await;
    if !shown {
        return Ok(());
    }
    report.figure(
        "loss_noticed_seconds",
        noticed.as_secs_f64(),
        Goal::AtMost(2.0),
        "from FLUSHALL to the first new declaration, no client touches an object",
    );
    report.figure(
        "loss_declared_seconds",
        mended.as_secs_f64(),
        Goal::AtMost(10.0),
        &format!("from FLUSHALL until all {all} objects are declared, which grant one lease later"),
    );
    report.figure(
        "loss_shown_seconds",
        granting.as_secs_f64() - f64::from(LEASE),
        Goal::None,
        &format!(
            "from FLUSHALL until all statuses are Ready, less one lease of {LEASE} s; the first Recovering after {first:.1?}"
        ),
    );
    Ok(())
}
