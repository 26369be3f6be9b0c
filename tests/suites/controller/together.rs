//! Two controllers at once, as while one takes over from another: no leader is elected, and nothing goes wrong.
//!
//! Both compute the same from the same. Each status is written for the resource version that it was computed from, so of
//! two that differ one is refused, and computed anew; and a repeated call to Redis changes nothing.

use std::time::{Duration, Instant};

use tenure_crds::Semaphore;
use tenure_tests::{Context, Controller, Proxy, Redis, Result, ensure, eventually};

use super::support::{SOON, Watched, World, condition, expect, metric, version};

/// Number of statuses that both have written.
async fn writes(world: &World, other: &Controller) -> Result<u64> {
    let series = "tenure_status_writes_total{kind=\"Semaphore\"}";
    let one = world.metric(series).await?.unwrap_or_default();
    let both = one + metric(other, series).await?.unwrap_or_default();
    Ok(both.to_string().parse()?)
}

#[tokio::test]
async fn two_controllers_write_no_more_than_one() -> Result {
    let world = World::new("two").await?;
    let other = world.another_controller().await?;
    world.semaphore("calls", 1, "leaseDurationSeconds: 12").await?;
    let lease = world
        .client("holder")
        .await?
        .semaphore("calls")?
        .acquire()
        .await?;
    let held = |s: &Semaphore| {
        ensure!(s.common().held == 1, "not held");
        Ok(())
    };
    let settled = world.until::<Semaphore>("calls", "held", SOON, held).await?;
    let (start, deadline) = (Instant::now(), lease.deadline());
    // A write is counted when its answer has come, a moment after it is seen.
    let mut before = 0;
    while start.elapsed() < Duration::from_secs(7) {
        if start.elapsed() < Duration::from_secs(1) {
            before = writes(&world, &other).await?;
        }
        let now = world.api::<Semaphore>().get("calls").await?;
        ensure!(version(&now) == version(&settled), "written: {:?}", now.status);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    ensure!(lease.deadline() > deadline, "the lease was not renewed meanwhile");
    let after = writes(&world, &other).await?;
    ensure!(after == before, "{before} writes, and after a rest {after}");

    lease.check()?;
    lease.release().await?;
    Ok(())
}

#[tokio::test]
async fn two_controllers_write_no_more_than_one_while_changes_go_on() -> Result {
    let world = World::new("two-busy").await?;
    let other = world.another_controller().await?;
    world.semaphore("calls", 1, "").await?;
    let semaphore = world.client("busy").await?.semaphore("calls")?;
    let (start, before) = (Instant::now(), writes(&world, &other).await?);
    while start.elapsed() < Duration::from_secs(30) {
        semaphore.acquire().await?.release().await?;
    }
    let after = writes(&world, &other).await?;
    // Four at once, and one each 7.5 s; both may write the first ones.
    let bound = 8 + start.elapsed().as_secs() / 7;
    ensure!(after - before <= bound, "{} writes", after - before);
    Ok(())
}

#[tokio::test]
async fn two_controllers_mend_a_loss_of_data_like_one() -> Result {
    let mut world = World::new("two-flushed").await?;
    let other = world.another_controller().await?;
    world.semaphore("calls", 2, "leaseDurationSeconds: 2").await?;
    let client = world.client("holder").await?;
    let semaphore = client.semaphore("calls")?;
    let lease = semaphore.acquire().await?;
    let api = world.api::<Semaphore>();
    let floors = tokio::spawn(async move {
        let mut floors = Vec::new();
        loop {
            let floor = api.get("calls").await?.common().fencing_floor;
            ensure!(floors.last() <= Some(&floor), "{floors:?}, and then {floor:?}");
            floors.push(floor);
            // Long enough for the rest of the test.
            if floors.len() == 200 {
                return Ok(floors);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let mut newest = lease.fencing_token();
    for permits in [3, 4] {
        // Both at once: what is declared anew has also changed.
        world.redis.cli(&["FLUSHALL"]).await?;
        world
            .apply_semaphore("calls", permits, "leaseDurationSeconds: 2")
            .await?;
        let next = semaphore.acquire().await?;
        ensure!(next.fencing_token() > newest, "fencing tokens went back");
        newest = next.fencing_token();
        next.release().await?;
        lease.check()?;
        let mended = world.until::<Semaphore>("calls", "mended", SOON, |s| {
            expect(s, "Ready", "True", "Synced")?;
            let common = s.common();
            ensure!((common.total, common.held) == (permits, 1), "{common:?}");
            let holder = s.status.as_ref().and_then(|status| status.holders.first());
            let token = holder.map(|line| line.holder.fencing_token);
            ensure!(token == Some(lease.fencing_token()), "{token:?}");
            Ok(())
        });
        mended.await?;
    }
    let floors = floors.await??;
    let raised = floors.windows(2).filter(|pair| pair[0] < pair[1]).count();
    ensure!(raised >= 2, "the floor was raised {raised} times by two losses");

    // Either of them may go.
    world.controller.kill9()?;
    world.delete("semaphore", "calls").await?;
    lease.release().await?;
    world.until_gone::<Semaphore>("calls", SOON).await?;
    ensure!(other.get("/readyz").await?.0 == 200, "the other one is not ready");
    Ok(())
}

/// Number of reconciliations that have failed because Redis was unreachable.
async fn failures(controller: &Controller) -> Result<f64> {
    let series = "tenure_reconcile_failures_total{kind=\"Semaphore\",class=\"redis_unreachable\"}";
    Ok(metric(controller, series).await?.unwrap_or_default())
}

async fn until_failed_again(controller: &Controller, times: f64, within: Duration) -> Result {
    let before = failures(controller).await?;
    eventually("more failed reconciliations", within, async || {
        let now = failures(controller).await?;
        ensure!(now >= before + times, "{before}, and now {now}");
        Ok(())
    })
    .await
    .with_context(|| controller.logs().unwrap_or_default())
}

#[tokio::test]
async fn a_controller_that_alone_is_cut_off_leaves_statuses_and_deletions_to_the_other_one() -> Result {
    let redis = Redis::start().await?;
    let proxy = Proxy::start(redis.port()).await?;
    let mut world = World::with("two-cut-off", redis, &[]).await?;
    let other = world
        .another_controller_at(&proxy.url(), &["--cleanup-timeout=1s"])
        .await?;
    world.semaphore("calls", 1, "").await?;
    world.semaphore("deleted", 1, "leaseDurationSeconds: 30").await?;
    let client = world.client("holder").await?;
    let held = client.semaphore("deleted")?.acquire().await?;

    proxy.refuse(true);
    proxy.cut_all();
    until_failed_again(&other, 2.0, SOON).await?;
    for permits in [2, 3] {
        world.semaphore("calls", permits, "").await?;
        until_failed_again(&other, 1.0, SOON).await?;
        let calls = world.api::<Semaphore>().get("calls").await?;
        expect(&calls, "Ready", "True", "Synced")?;
        expect(&calls, "BackendReachable", "True", "Connected")?;
    }

    // Several times the time after which a deletion is given up.
    world.delete("semaphore", "deleted").await?;
    let deleting = Instant::now();
    while deleting.elapsed() < Duration::from_secs(5) {
        until_failed_again(&other, 1.0, SOON).await?;
    }
    let deleted = world.api::<Semaphore>().get("deleted").await?;
    ensure!(
        condition(&deleted, "Ready")?.reason == "Deleting",
        "{:?}",
        deleted.status
    );
    held.check()?;
    held.release().await?;
    world.until_gone::<Semaphore>("deleted", SOON).await?;
    let keys = world.keys("semaphore", "deleted").await?;
    ensure!(keys.is_empty(), "{keys:?}");

    // Without the other one, it reports what it sees.
    world.controller.kill9()?;
    let api = world.api::<Semaphore>();
    let mut permits = 3;
    eventually("the outage to be reported", Duration::from_secs(60), async || {
        permits += 1;
        world.apply_semaphore("calls", permits, "").await?;
        until_failed_again(&other, 1.0, SOON).await?;
        let reason = condition(&api.get("calls").await?, "Ready")?.reason;
        ensure!(reason == "BackendUnreachable", "{reason}");
        Ok(())
    })
    .await?;

    // And it takes over when it reaches Redis again.
    proxy.refuse(false);
    world
        .until::<Semaphore>("calls", "declared", SOON, |s| {
            expect(s, "Ready", "True", "Synced")
        })
        .await
        .map(drop)
}
