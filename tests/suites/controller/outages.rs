//! Redis away, emptied, or refusing; the controller killed. No lease changes, and everything recovers without intervention.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tenure_crds::Semaphore;
use tenure_tests::proxy::Dead;
use tenure_tests::redis::Persistence;
use tenure_tests::{Context, Proxy, Redis, Result, ensure, eventually};

use super::support::{SOON, Watched, World, condition, expect, file, version};

#[tokio::test]
async fn an_outage_of_redis_is_one_write_in_and_one_out() -> Result {
    let redis = Redis::builder().persistence(Persistence::Rdb).start().await?;
    let mut world = World::with("outage", redis, &[]).await?;
    world.semaphore("calls", 2, "leaseDurationSeconds: 1").await?;
    let series = "tenure_status_writes_total{kind=\"Semaphore\"}";
    let before = world.metric(series).await?.unwrap_or_default();
    world.redis.stop().await?;
    let away = world.until::<Semaphore>("calls", "cut off", SOON, |s| {
        expect(s, "BackendReachable", "False", "BackendUnreachable")
    });
    let away = away.await?;
    expect(&away, "Ready", "False", "BackendUnreachable")?;
    expect(&away, "Stalled", "False", "BackendUnreachable")?;
    assert_eq!(
        (away.common().total, away.common().free),
        (2, 2),
        "the last known counts"
    );
    assert_eq!(world.controller.get("/livez").await?.0, 200);
    let (code, text) = world.controller.get("/readyz").await?;
    assert!(code == 503 && text.starts_with("redis: "), "{code}: {text}");
    world.until_metric("tenure_redis_connected", 0.0).await?;

    // It retries meanwhile, and emits no event about that.
    let failures = "tenure_reconcile_failures_total{kind=\"Semaphore\",class=\"redis_unreachable\"}";
    eventually("three tries", SOON, async || {
        let tries = world.metric(failures).await?.unwrap_or_default();
        ensure!(tries >= 3.0, "{tries}");
        Ok(())
    })
    .await?;
    assert_eq!(
        version(&world.api::<Semaphore>().get("calls").await?),
        version(&away)
    );
    assert_eq!(world.metric(series).await?, Some(before + 1.0));
    let complaints = world
        .controller
        .logs()?
        .lines()
        .filter(|line| line.contains("\"WARN\""))
        .count();
    ensure!(
        complaints <= 2,
        "{complaints} warnings of one outage:\n{}",
        world.controller.logs()?
    );

    world.redis.start_again().await?;
    let back = world.until::<Semaphore>("calls", "back", SOON, |s| {
        expect(s, "BackendReachable", "True", "Connected")?;
        expect(s, "Ready", "True", "Synced")
    });
    back.await?;
    world.until_metric("tenure_redis_connected", 1.0).await?;
    Ok(())
}

/// A frozen server closes nothing: an idle controller has to ask.
#[tokio::test]
async fn a_frozen_redis_is_reported_within_seconds_and_changes_are_observed_after_it() -> Result {
    let world = World::new("frozen").await?;
    world.semaphore("calls", 2, "").await?;
    let lease = world
        .client("holder")
        .await?
        .semaphore("calls")?
        .acquire()
        .await?;
    world.redis.pause()?;
    let frozen = Instant::now();
    let told = async {
        world
            .until::<Semaphore>("calls", "cut off", SOON, |s| {
                expect(s, "BackendReachable", "False", "BackendUnreachable")
            })
            .await?;
        let took = frozen.elapsed();
        ensure!(took < Duration::from_secs(15), "told after {took:?}");
        let (code, text) = world.controller.get("/readyz").await?;
        ensure!(code == 503, "{code}: {text}");
        Ok(())
    };
    let told = told.await;
    world.redis.resume()?;
    told?;
    let back = world.until::<Semaphore>("calls", "back, and held", SOON, |s| {
        expect(s, "BackendReachable", "True", "Connected")?;
        ensure!(s.common().held == 1, "held");
        Ok(())
    });
    back.await?;
    world.controller.until_ready(SOON).await?;
    lease.release().await?;
    Ok(())
}

/// The controller's connection alone is dead, and neither side gets a signal.
#[tokio::test]
async fn a_status_does_not_stay_stale_over_a_connection_that_died_silently() -> Result {
    let redis = Redis::start().await?;
    let proxy = Proxy::start(redis.port()).await?;
    let url = proxy.url();
    let world = World::with("stale", redis, &["--redis-url", &url]).await?;
    world.semaphore("calls", 2, "").await?;
    proxy.half_open(Dead::Both);
    let lease = world
        .client("holder")
        .await?
        .semaphore("calls")?
        .acquire()
        .await?;
    let seen = world.until::<Semaphore>("calls", "held", SOON, |s| {
        ensure!(s.common().held == 1, "held");
        Ok(())
    });
    seen.await?;
    lease.release().await?;
    Ok(())
}

#[tokio::test]
async fn after_a_loss_of_data_holders_stay_nothing_new_is_granted_for_a_lease_and_tokens_grow() -> Result {
    let world = World::new("flushed").await?;
    world.semaphore("calls", 2, "leaseDurationSeconds: 3").await?;
    let client = world.client("holder").await?;
    let semaphore = client.semaphore("calls")?;
    let lease = semaphore.acquire().await?;
    let shown = |s: &Semaphore| {
        s.status
            .as_ref()
            .and_then(|status| status.holders.first().cloned())
    };
    let held = world.until::<Semaphore>("calls", "held", SOON, |s| {
        ensure!(shown(s).is_some(), "held");
        Ok(())
    });
    let floor = held.await?.common().fencing_floor;

    world.redis.cli(&["FLUSHALL"]).await?;
    let lost = Instant::now();
    let recovering = world.until::<Semaphore>("calls", "recovering", SOON, |s| {
        expect(s, "Ready", "False", "Recovering")?;
        expect(s, "Reconciling", "True", "Recovering")
    });
    assert!(
        recovering.await?.common().fencing_floor > floor,
        "the floor is in etcd first"
    );
    let newcomer = world.client("newcomer").await?;
    let newcomer = newcomer.semaphore("calls")?;
    let second = newcomer.acquire().await?;
    let waited = lost.elapsed();
    ensure!(
        waited >= Duration::from_secs(3),
        "granted {waited:?} after the loss"
    );
    lease.check()?;
    assert!(second.fencing_token() > lease.fencing_token());
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros();
    assert!(
        u128::from(second.fencing_token()) < now,
        "a token ahead of the clock"
    );
    let both = world.until::<Semaphore>("calls", "held by both", SOON, |s| {
        expect(s, "Ready", "True", "Synced")?;
        ensure!(s.common().held == 2, "held");
        Ok(())
    });
    let both = both.await?;
    let tokens: Vec<_> = both
        .status
        .iter()
        .flat_map(|s| &s.holders)
        .map(|line| line.holder.fencing_token)
        .collect();
    assert_eq!(
        tokens,
        [lease.fencing_token(), second.fencing_token()],
        "the old holder under its old token"
    );
    world.event("Recovering").await?;
    lease.release().await?;
    second.release().await?;
    Ok(())
}

#[tokio::test]
async fn fencing_tokens_grow_when_an_object_is_changed_lost_deleted_and_applied_again() -> Result {
    let world = World::new("again").await?;
    let client = world.client("holder").await?;
    let semaphore = client.semaphore("calls")?;
    world.semaphore("calls", 1, "leaseDurationSeconds: 1").await?;
    let newest = async || -> Result<u64> {
        let lease = semaphore.acquire().await?;
        let token = lease.fencing_token();
        lease.release().await?;
        Ok(token)
    };
    let mut before = newest().await?;
    for round in ["changed", "lost", "deleted"] {
        match round {
            "changed" => {
                for permits in 2..12 {
                    world
                        .semaphore("calls", permits, "leaseDurationSeconds: 1")
                        .await?;
                }
            }
            "lost" => {
                world.redis.cli(&["FLUSHALL"]).await?;
            }
            _ => {
                world.delete("semaphore", "calls").await?;
                world.until_gone::<Semaphore>("calls", SOON).await?;
                world.semaphore("calls", 1, "leaseDurationSeconds: 1").await?;
            }
        }
        let token = newest().await?;
        ensure!(token > before, "{round}: {token} after {before}");
        before = token;
    }
    Ok(())
}

#[tokio::test]
async fn a_long_lease_from_before_the_declaration_keeps_others_out_after_a_loss() -> Result {
    let world = World::new("adopted").await?;
    let options = tenure::Options::new().lease(Duration::from_secs(60));
    let first = world.client("first").await?;
    let lease = first
        .semaphore("calls")?
        .or_permits(1)?
        .with(options)
        .acquire()
        .await?;
    world.semaphore("calls", 1, "leaseDurationSeconds: 5").await?;
    let longest = world.api::<Semaphore>().get("calls").await?.common();
    assert_eq!(longest.lease_duration_seconds, Some(60));
    world.redis.cli(&["FLUSHALL"]).await?;
    // A request for it makes the controller observe it.
    let asked = world
        .client("other")
        .await?
        .semaphore("calls")?
        .try_acquire()
        .await;
    ensure!(!matches!(asked, Ok(Some(_))), "granted beside {lease:?}");
    let recovering = world.until::<Semaphore>("calls", "recovering", SOON, |s| {
        expect(s, "Ready", "False", "Recovering")
    });
    let message = condition(&recovering.await?, "Ready")?.message;
    let until = message
        .split_once("before ")
        .and_then(|(_, rest)| rest.split_once(','));
    let until: k8s_openapi::jiff::Timestamp = until.context("no time")?.0.parse()?;
    let left = until.duration_since(k8s_openapi::jiff::Timestamp::now());
    ensure!(left.as_secs() > 40, "it recovers for {left} only: {message}");
    drop(lease);
    Ok(())
}

#[tokio::test]
async fn a_lease_that_was_shortened_before_a_loss_of_data_keeps_others_out_all_the_same() -> Result {
    let mut world = World::new("shortened").await?;
    world.semaphore("calls", 1, "leaseDurationSeconds: 60").await?;
    let client = world.client("holder").await?;
    let lease = client.semaphore("calls")?.acquire().await?;
    // Only the status knows then that leases of a minute are running.
    world.controller.kill9()?;
    world
        .apply_semaphore("calls", 1, "leaseDurationSeconds: 1")
        .await?;
    world.redis.cli(&["FLUSHALL"]).await?;
    world.restart_controller().await?;
    let recovers = async |world: &World, client: &tenure::Client| {
        let object = tenure::ObjectRef::new(tenure::Kind::Semaphore, &world.namespace, "calls")?;
        eventually("the object to recover", SOON, async || {
            let seen = client.control().look(&object, 1).await?;
            let seen = seen.filter(|seen| seen.current).context("it is not declared")?;
            let until = seen.recovering_until.context("it does not recover")?;
            Ok(until.duration_since(seen.now)?)
        })
        .await
    };
    let left = recovers(&world, &client).await?;
    ensure!(left > Duration::from_secs(40), "it recovers for {left:?} only");
    // The old leases have not ended yet: the next loss finds out no less.
    world.redis.cli(&["FLUSHALL"]).await?;
    let left = recovers(&world, &client).await?;
    ensure!(left > Duration::from_secs(40), "it recovers for {left:?} only");
    lease.check()?;
    Ok(())
}

#[tokio::test]
async fn a_shorter_lease_counts_from_the_next_renewal_and_in_the_end_everywhere() -> Result {
    let world = World::new("shorter").await?;
    world.semaphore("calls", 1, "leaseDurationSeconds: 3").await?;
    let client = world.client("holder").await?;
    let semaphore = client.semaphore("calls")?;
    let lease = semaphore.acquire().await?;
    world.semaphore("calls", 1, "leaseDurationSeconds: 1").await?;
    let second = Duration::from_secs(1);
    eventually("a renewal for a second", SOON, async || {
        let seen = client
            .control()
            .look(lease.object(), 1)
            .await?
            .context("it is gone")?;
        let left = seen.holders[0].expires.duration_since(seen.now)?;
        ensure!(left <= second, "it runs for {left:?}");
        Ok(())
    })
    .await?;
    // It is still renewed.
    let deadline = lease.deadline();
    eventually("two renewals more", SOON, async || {
        ensure!(lease.deadline() > deadline + second, "not yet");
        Ok(())
    })
    .await?;
    lease.check()?;
    lease.release().await?;
    // A loss of data costs three seconds until no old lease can be running any more, and then one.
    let shown = eventually("the longest lease to be the spec's", SOON, async || {
        semaphore.acquire().await?.release().await?;
        let shown = world.api::<Semaphore>().get("calls").await?.common();
        ensure!(
            shown.lease_duration_seconds == Some(1),
            "{:?}",
            shown.lease_duration_seconds
        );
        Ok(shown)
    });
    shown.await?;
    Ok(())
}

#[tokio::test]
async fn a_redis_killed_without_its_data_is_mended_too() -> Result {
    let mut world = World::new("killed").await?;
    world.semaphore("calls", 1, "leaseDurationSeconds: 3").await?;
    let client = world.client("holder").await?;
    let semaphore = client.semaphore("calls")?;
    let lease = semaphore.acquire().await?;
    world.redis.kill9()?;
    world.redis.wipe_data()?;
    world.redis.start_again().await?;
    let recovered = world.until::<Semaphore>("calls", "recovered with its holder", SOON, |s| {
        expect(s, "Ready", "True", "Synced")?;
        ensure!(
            s.status.as_ref().is_some_and(|s| !s.holders.is_empty()),
            "there is no holder"
        );
        Ok(())
    });
    recovered.await?;
    lease.check()?;
    assert!(semaphore.try_acquire().await?.is_none(), "one permit, one holder");
    let first = lease.fencing_token();
    lease.release().await?;
    let second = semaphore.acquire().await?;
    assert!(second.fencing_token() > first);
    second.release().await?;
    Ok(())
}

#[tokio::test]
async fn the_controller_may_be_killed_at_any_time() -> Result {
    let mut world = World::new("kill9").await?;
    world.semaphore("calls", 1, "leaseDurationSeconds: 2").await?;
    let client = world.client("holder").await?;
    let semaphore = client.semaphore("calls")?;
    let lease = semaphore.acquire().await?;
    world.controller.kill9()?;
    // Leases are renewed, released and handed on without it.
    let deadline = lease.deadline();
    eventually("two renewals", SOON, async || {
        ensure!(lease.deadline() > deadline + Duration::from_secs(2), "not yet");
        Ok(())
    })
    .await?;
    lease.check()?;
    let first = lease.fencing_token();
    lease.release().await?;
    let second = semaphore.acquire().await?;
    assert!(second.fencing_token() > first);

    world.restart_controller().await?;
    let seen = world.until::<Semaphore>("calls", "held by the second", SOON, |s| {
        let holder = s.status.as_ref().and_then(|status| status.holders.first());
        ensure!(
            holder.is_some_and(|h| h.holder.fencing_token == second.fencing_token()),
            "{holder:?}"
        );
        expect(s, "Ready", "True", "Synced")
    });
    seen.await?;
    second.check()?;
    assert_eq!(
        world
            .metric("tenure_declarations_total{kind=\"Semaphore\"}")
            .await?,
        None,
        "nothing to declare"
    );
    second.release().await?;
    Ok(())
}

#[tokio::test]
async fn a_wrong_password_is_reported_once_in_the_log_and_in_each_object_with_the_fix() -> Result {
    let redis = Redis::builder().password("right").start().await?;
    let (_file, path) = file("wrong\n")?;
    let bare = format!("redis://127.0.0.1:{}", redis.port());
    let args = ["--redis-url", &bare, "--redis-password-file", &path];
    let world = World::with("password", redis, &args).await?;
    world.apply_semaphore("calls", 1, "").await?;
    let denied = world.until::<Semaphore>("calls", "denied", SOON, |s| {
        expect(s, "BackendReachable", "False", "BackendDenied")?;
        expect(s, "Stalled", "True", "BackendDenied")
    });
    let message = condition(&denied.await?, "Stalled")?.message;
    assert!(message.contains("check user name and password"), "{message}");
    let logs = world.controller.logs()?;
    assert_eq!(
        logs.lines()
            .filter(|line| line.contains("refuses the credentials"))
            .count(),
        1,
        "{logs}"
    );
    assert!(!logs.contains("wrong\"") && !logs.contains("right"), "{logs}");
    let (code, text) = world.controller.get("/readyz").await?;
    assert!(code == 503 && text.contains("credentials"), "{code}: {text}");
    // The Secret is mended: the controller is not restarted.
    std::fs::write(&path, "right\n")?;
    let ready = world.until::<Semaphore>("calls", "ready", SOON, |s| expect(s, "Ready", "True", "Synced"));
    ready.await?;
    let (code, text) = world.controller.get("/readyz").await?;
    assert_eq!(code, 200, "{text}");
    Ok(())
}

#[tokio::test]
async fn the_right_password_comes_from_its_file_and_redis_may_come_late() -> Result {
    let mut redis = Redis::builder().password("right").start().await?;
    let bare = format!("redis://127.0.0.1:{}", redis.port());
    redis.kill9()?;
    let (_file, path) = file("right\n")?;
    let args = ["--redis-url", &bare, "--redis-password-file", &path];
    let mut world = World::with("late", redis, &args).await?;
    world.apply_semaphore("calls", 1, "").await?;
    let away = world.until::<Semaphore>("calls", "cut off", SOON, |s| {
        expect(s, "BackendReachable", "False", "BackendUnreachable")
    });
    away.await?;
    world.redis.start_again().await?;
    let ready = world.until::<Semaphore>("calls", "ready", SOON, |s| expect(s, "Ready", "True", "Synced"));
    ready.await?;
    world
        .client("holder")
        .await?
        .semaphore("calls")?
        .acquire()
        .await?
        .release()
        .await?;
    Ok(())
}
