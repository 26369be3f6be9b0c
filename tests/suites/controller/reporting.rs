//! A declared object can be held, and a hold is reported within a second. Nothing is written while nothing changes.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use k8s_openapi::jiff::Timestamp;
use tenure::Options;
use tenure_crds::{LockPool, Semaphore};
use tenure_tests::{Context, Result, anyhow, ensure};

use super::support::{SOON, Watched, World, condition, expect, version};

const AT_ONCE: Duration = Duration::from_secs(1);

#[tokio::test]
async fn each_write_names_the_controller() -> Result {
    let world = World::new("managers").await?;
    world.semaphore("calls", 2, "").await?;
    world.pool("seats", "resources: [{name: a}]").await?;
    let client = world.client("holder").await?;
    let held = client.semaphore("calls")?.acquire_many(2).await?;
    world.apply_semaphore("calls", 1, "").await?;
    world.event("Draining").await?;
    let show = async |what: &str| -> Result<BTreeSet<String>> {
        let path = "jsonpath={.items[*].metadata.managedFields[*].manager}";
        let args = [
            "-n",
            &world.namespace,
            "get",
            what,
            "--show-managed-fields",
            "-o",
            path,
        ];
        let managers = world.plane.kubectl(&args).await?;
        let managers = managers.split_whitespace().map(str::to_owned);
        let managers: BTreeSet<String> = managers.collect();
        Ok(managers)
    };
    for (what, expected) in [
        ("lockpools", &["kubectl", "tenure-controller"][..]),
        ("events.events.k8s.io", &["tenure-controller"]),
    ] {
        let managers = show(what).await?;
        let expected = expected.iter().map(|name| (*name).to_owned()).collect();
        ensure!(managers == expected, "{what}: {managers:?}");
    }
    held.release().await?;
    Ok(())
}

#[tokio::test]
async fn a_lease_of_a_declared_pool_is_seen_within_a_second_and_so_is_its_end() -> Result {
    let world = World::new("pool").await?;
    world
        .pool(
            "seats",
            "resources: [{name: seat-a, properties: {host: gpu-1}}, {name: seat-b, disabled: true}]",
        )
        .await?;
    let client = world.client("worker-1").await?;
    let next = world.client("worker-2").await?;
    let pool = client.lock_pool("seats")?.with(Options::new().reason("training"));

    let lease = pool.acquire().await?;
    let acquired = Instant::now();
    assert_eq!(
        (lease.resource(), lease.properties()["host"].as_str()),
        ("seat-a", "gpu-1")
    );
    let seen = world.until::<LockPool>("seats", "held", AT_ONCE, |pool| {
        ensure!(pool.common().held == 1, "held");
        Ok(())
    });
    let status = seen.await?.status.unwrap_or_default();
    ensure!(
        acquired.elapsed() < AT_ONCE,
        "seen only after {:?}",
        acquired.elapsed()
    );
    let common = &status.common;
    assert_eq!(
        (common.total, common.held, common.free, common.waiting),
        (2, 1, 0, 0)
    );
    assert_eq!(
        (common.held_by.as_str(), common.truncated),
        ("worker-1 (seat-a)", false)
    );
    let holder = &status.holders[0].holder;
    assert_eq!(status.holders[0].resource, "seat-a");
    assert_eq!(
        (holder.pod.as_str(), holder.reason.as_str()),
        ("worker-1", "training")
    );
    assert_eq!(holder.fencing_token, lease.fencing_token());
    assert!(holder.fencing_token > common.fencing_floor.unwrap_or(u64::MAX));
    let acquired_at = Timestamp::try_from(lease.acquired_at())?;
    assert_eq!(holder.acquired_at.0.as_second(), acquired_at.as_second());
    assert_eq!(holder.renewable_until, None, "its renewals have no end");

    let other = next.lock_pool("seats")?;
    let waiting = tokio::spawn(async move { other.acquire().await });
    let queued = world.until::<LockPool>("seats", "waited for", AT_ONCE, |pool| {
        ensure!(pool.common().waiting == 1, "waiting");
        Ok(())
    });
    let waiters = queued.await?.common().waiters;
    assert_eq!((waiters[0].position, waiters[0].pod.as_str()), (1, "worker-2"));

    let first = lease.fencing_token();
    lease.release().await?;
    let handed_on = waiting.await??;
    assert!(handed_on.fencing_token() > first);
    let seen = world.until::<LockPool>("seats", "held by the next", AT_ONCE, |pool| {
        ensure!(
            pool.common().held_by == "worker-2 (seat-a)",
            "{}",
            pool.common().held_by
        );
        Ok(())
    });
    seen.await?;
    handed_on.release().await?;
    let free = world.until::<LockPool>("seats", "free", AT_ONCE, |pool| {
        let common = pool.common();
        ensure!(
            (common.held, common.free, common.held_by.as_str()) == (0, 1, ""),
            "{common:?}"
        );
        Ok(())
    });
    free.await.map(drop)
}

#[tokio::test]
async fn the_end_of_a_crashed_holder_is_seen_within_a_second_of_its_expiry() -> Result {
    let world = World::new("crashed").await?;
    world.semaphore("calls", 1, "leaseDurationSeconds: 2").await?;
    // A runtime that is gone renews nothing, and what is forgotten releases nothing.
    let (url, namespace) = (world.redis.url(), world.namespace.clone());
    let crash = std::thread::spawn(move || -> Result<()> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let client = tenure::Client::builder(&url)
                .namespace(&namespace)
                .connect()
                .await?;
            std::mem::forget(client.semaphore("calls")?.acquire().await?);
            Ok::<_, tenure::Error>(())
        })?;
        runtime.shutdown_background();
        Ok(())
    });
    crash.join().map_err(|_| anyhow!("the holder panicked"))??;
    let acquired = Instant::now();
    let held = world.until::<Semaphore>("calls", "held", AT_ONCE, |s| {
        ensure!(s.common().held == 1, "held");
        Ok(())
    });
    held.await?;
    let free = world.until::<Semaphore>("calls", "free", Duration::from_secs(2) + AT_ONCE, |s| {
        ensure!(s.common().held == 0, "held");
        Ok(())
    });
    free.await?;
    ensure!(
        acquired.elapsed() > Duration::from_millis(1900),
        "it was free before the lease had run out"
    );
    Ok(())
}

#[tokio::test]
async fn nothing_is_written_while_leases_are_renewed_and_waiters_wait() -> Result {
    let world = World::new("quiet").await?;
    world
        .semaphore("calls", 1, "leaseDurationSeconds: 3, maxHoldSeconds: 600")
        .await?;
    let client = world.client("holder").await?;
    let lease = client.semaphore("calls")?.acquire().await?;
    let waiter = world.client("waiter").await?.semaphore("calls")?;
    let waiting = tokio::spawn(async move { waiter.acquire().await });
    let settled = world.until::<Semaphore>("calls", "held and waited for", SOON, |s| {
        ensure!(
            (s.common().held, s.common().waiting) == (1, 1),
            "held and waited for"
        );
        Ok(())
    });
    let settled = settled.await?;
    let before = version(&settled);
    let holder = settled.status.as_ref().map(|status| &status.holders[0].holder);
    let holder = holder.context("no holder")?;
    let longest = holder
        .renewable_until
        .as_ref()
        .context("no end of the longest hold")?;
    assert_eq!(longest.0, holder.acquired_at.0 + Duration::from_secs(600));
    let writes = world
        .metric("tenure_status_writes_total{kind=\"Semaphore\"}")
        .await?;

    let (start, deadline) = (Instant::now(), lease.deadline());
    // Longer than the ten seconds and the lease after which a renewal was once shown.
    while start.elapsed() < Duration::from_secs(14) {
        let now = world.api::<Semaphore>().get("calls").await?;
        ensure!(
            version(&now) == before,
            "written after {:?}: {:?}",
            start.elapsed(),
            now.status
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(
        lease.deadline() > deadline + Duration::from_secs(3),
        "the lease was not renewed meanwhile"
    );
    assert_eq!(
        world
            .metric("tenure_status_writes_total{kind=\"Semaphore\"}")
            .await?,
        writes
    );
    waiting.abort();
    lease.release().await?;
    Ok(())
}

#[tokio::test]
async fn a_change_is_shown_at_once_and_a_burst_of_changes_at_most_twelve_times_a_minute() -> Result {
    let world = World::new("burst").await?;
    world.semaphore("calls", 1, "").await?;
    let semaphore = world.client("busy").await?.semaphore("calls")?;
    let series = "tenure_status_writes_total{kind=\"Semaphore\"}";
    let before = world.metric(series).await?.unwrap_or_default();
    let lease = semaphore.acquire().await?;
    let held = world.until::<Semaphore>("calls", "held", AT_ONCE, |s| {
        ensure!(s.common().held == 1, "free");
        Ok(())
    });
    held.await?;
    lease.release().await?;
    let start = Instant::now();
    let mut changes = 0;
    while start.elapsed() < Duration::from_secs(20) {
        semaphore.acquire().await?.release().await?;
        changes += 2;
    }
    // The last change of all is one that stays.
    let lease = semaphore.acquire().await?;
    let writes = world.metric(series).await?.unwrap_or_default() - before;
    let bound = 5.0 + start.elapsed().as_secs_f64() / 7.5;
    ensure!(
        writes <= bound,
        "{writes} writes for {changes} changes in {:?}",
        start.elapsed()
    );
    ensure!(
        writes >= 5.0 && changes > 100,
        "{writes} writes for {changes} changes"
    );
    let settled = world.until::<Semaphore>("calls", "held in the end", Duration::from_secs(9), |s| {
        let last = s.status.as_ref().and_then(|status| status.holders.first());
        let token = last.map(|line| line.holder.fencing_token);
        ensure!(token == Some(lease.fencing_token()), "{token:?}");
        Ok(())
    });
    settled.await.map(drop)
}

#[tokio::test]
async fn a_smaller_semaphore_drains_and_takes_nothing_from_its_holders() -> Result {
    let world = World::new("shrink").await?;
    world.semaphore("calls", 3, "").await?;
    let client = world.client("holder").await?;
    let semaphore = client.semaphore("calls")?;
    let (one, two, three) = (
        semaphore.acquire().await?,
        semaphore.acquire().await?,
        semaphore.acquire().await?,
    );

    world
        .plane
        .kubectl(&[
            "-n",
            &world.namespace,
            "scale",
            "semaphore",
            "calls",
            "--replicas=1",
        ])
        .await?;
    let draining = world.until::<Semaphore>("calls", "draining", SOON, |s| {
        expect(s, "Reconciling", "True", "Draining")?;
        expect(s, "Ready", "True", "Synced")
    });
    let draining = draining.await?;
    assert_eq!(
        (
            draining.common().total,
            draining.common().held,
            draining.common().free
        ),
        (1, 3, 0)
    );
    assert!(
        condition(&draining, "Reconciling")?
            .message
            .starts_with("2 held beyond")
    );
    world.event("Draining").await?;
    for lease in [&one, &two, &three] {
        lease.check()?;
    }

    one.release().await?;
    assert!(
        semaphore.try_acquire().await?.is_none(),
        "what drains is not granted again"
    );
    two.release().await?;
    let drained = world.until::<Semaphore>("calls", "drained", SOON, |s| {
        ensure!(s.common().held == 1, "held");
        expect(s, "Reconciling", "False", "Synced")
    });
    drained.await?;
    assert!(semaphore.try_acquire().await?.is_none());
    three.release().await?;
    semaphore.acquire().await?.release().await?;
    Ok(())
}

#[tokio::test]
async fn a_resource_taken_out_of_a_pool_stays_with_its_holder_and_a_new_one_is_granted_at_once() -> Result {
    let world = World::new("members").await?;
    world.pool("seats", "resources: [{name: a}]").await?;
    let client = world.client("holder").await?;
    let pool = client.lock_pool("seats")?;
    let lease = pool.acquire().await?;
    let next = world.client("next").await?.lock_pool("seats")?;
    let waiting = tokio::spawn(async move { next.acquire().await });
    let queued = world.until::<LockPool>("seats", "waited for", SOON, |pool| {
        ensure!(pool.common().waiting == 1, "waiting");
        Ok(())
    });
    queued.await?;

    world.apply("LockPool", "seats", "resources: [{name: b}]").await?;
    let other = waiting.await??;
    assert_eq!(other.resource(), "b");
    let both = world.until::<LockPool>("seats", "held twice", SOON, |pool| {
        ensure!((pool.common().total, pool.common().held) == (1, 2), "held");
        expect(pool, "Reconciling", "True", "Draining")
    });
    both.await?;
    lease.release().await?;
    assert!(
        pool.try_acquire().await?.is_none(),
        "the removed resource is not granted again"
    );
    other.release().await?;
    Ok(())
}

#[tokio::test]
async fn a_new_object_gets_one_status_and_no_event() -> Result {
    let world = World::new("new").await?;
    for number in 0..5 {
        world.semaphore(&format!("s{number}"), 1, "").await?;
        world
            .pool(&format!("p{number}"), "resources: [{name: a}]")
            .await?;
    }
    // A write is counted when its answer has come.
    for kind in ["Semaphore", "LockPool"] {
        let series = format!("tenure_status_writes_total{{kind=\"{kind}\"}}");
        world.until_metric(&series, 5.0).await?;
    }
    let events = world
        .plane
        .kubectl(&["-n", &world.namespace, "get", "events", "-o", "name"])
        .await?;
    ensure!(events.trim().is_empty(), "{events}");
    let semaphore = world.api::<Semaphore>().get("s0").await?;
    let annotations = semaphore.metadata.annotations.clone().unwrap_or_default();
    let first = annotations
        .get("tenure.dev/first-fencing-floor")
        .context("no annotation")?;
    let floor = semaphore.common().fencing_floor.unwrap_or_default();
    ensure!(first.starts_with(&format!("{floor} ")), "{first}, and {floor}");
    Ok(())
}
