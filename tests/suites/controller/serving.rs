//! Probes, metrics, flags, signals.

use std::time::{Duration, Instant};

use serde_json::Value;
use tenure_crds::Semaphore;
use tenure_tests::{ControlPlane, Controller, Redis, Result, ensure, eventually};

use super::support::{SOON, World};

#[tokio::test]
async fn probes_and_metrics_tell_how_it_is() -> Result {
    let world = World::new("probes").await?;
    world.semaphore("calls", 5, "").await?;
    let lease = world
        .client("holder")
        .await?
        .semaphore("calls")?
        .acquire_many(2)
        .await?;
    assert_eq!(world.controller.get("/livez").await?, (200, "ok\n".to_owned()));
    assert_eq!(world.controller.get("/readyz").await?, (200, "ok\n".to_owned()));
    let (code, text) = world.controller.get("/readyz?verbose").await?;
    let checks: Value = serde_json::from_str(&text)?;
    assert_eq!((code, &checks["redis"]["ok"]), (200, &Value::Bool(true)));
    assert_eq!(
        checks[format!("watch semaphores in {}", world.namespace)]["ok"],
        Value::Bool(true),
        "{checks}"
    );

    let of = format!(
        "{{kind=\"Semaphore\",namespace=\"{}\",name=\"calls\"}}",
        world.namespace
    );
    for (gauge, expected) in [("total", 5.0), ("held", 2.0), ("free", 3.0), ("waiting", 0.0)] {
        let series = format!("tenure_{gauge}{of}");
        world.until_metric(&series, expected).await?;
    }
    world.until_metric("tenure_redis_connected", 1.0).await?;
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(
        world
            .metric(&format!("tenure_build_info{{version=\"{version}\"}}"))
            .await?,
        Some(1.0)
    );
    assert!(
        world
            .metric("tenure_reconciles_total{kind=\"Semaphore\"}")
            .await?
            .unwrap_or_default()
            > 0.0
    );
    assert!(
        world
            .metric("tenure_reconcile_duration_seconds_count{kind=\"Semaphore\"}")
            .await?
            .is_some()
    );

    lease.release().await?;
    world.delete("semaphore", "calls").await?;
    world.until_gone::<Semaphore>("calls", SOON).await?;
    let series = format!("tenure_held{of}");
    eventually("the object's series to be gone", SOON, async || {
        let found = world.metric(&series).await?;
        ensure!(found.is_none(), "{found:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn without_its_definitions_it_waits_unready_and_names_the_fix() -> Result {
    let plane = ControlPlane::start_without_definitions().await?;
    let redis = Redis::start().await?;
    let controller = Controller::start_with(&plane, &["--redis-url", &redis.url()]).await?;
    // Each kind has a check of its own, and the checks report one after the other.
    let unready = eventually("the reason for each kind", SOON, async || {
        let (code, text) = controller.get("/readyz").await?;
        let named = ["lockpools", "semaphores"].iter().all(|plural| {
            text.contains(&format!(
                "{plural} are not installed: apply Tenure's custom resource definitions"
            ))
        });
        ensure!(code == 503 && named, "{code}: {text}");
        Ok(())
    });
    unready.await?;
    assert_eq!(controller.get("/livez").await?.0, 200);

    plane.install_definitions().await?;
    controller.until_ready(SOON).await
}

#[tokio::test]
async fn sigterm_ends_it_in_order() -> Result {
    let mut world = World::new("sigterm").await?;
    world.semaphore("calls", 1, "").await?;
    let lease = world
        .client("holder")
        .await?
        .semaphore("calls")?
        .acquire()
        .await?;
    let started = Instant::now();
    let status = tokio::time::timeout(Duration::from_secs(10), world.controller.terminate()).await??;
    let took = started.elapsed();
    ensure!(took < Duration::from_secs(1), "it took {took:?}");
    assert_eq!(status.code(), Some(0), "{status}");
    let logs = world.controller.logs()?;
    let messages: Vec<_> = logs
        .lines()
        .map(|line| {
            Ok(serde_json::from_str::<Value>(line)?["message"]
                .as_str()
                .unwrap_or_default()
                .to_owned())
        })
        .collect::<Result<_>>()?;
    assert!(
        messages.ends_with(&["stopping".to_owned(), "stopped".to_owned()]),
        "{messages:?}"
    );
    lease.check()?;
    lease.release().await?;
    Ok(())
}

#[tokio::test]
async fn sigterm_waits_for_no_server_that_is_frozen() -> Result {
    let mut world = World::new("sigterm-frozen").await?;
    world.semaphore("calls", 1, "").await?;
    world.redis.pause()?;
    // A reconciliation that waits for Redis.
    world.apply_semaphore("calls", 2, "").await?;
    let started = Instant::now();
    let status = tokio::time::timeout(Duration::from_secs(10), world.controller.terminate()).await;
    let took = started.elapsed();
    world.redis.resume()?;
    let status = status??;
    ensure!(status.code() == Some(0), "{status}");
    ensure!(took < Duration::from_secs(1), "it took {took:?}");
    Ok(())
}

#[tokio::test]
async fn a_bad_flag_is_named_with_the_fix_and_without_a_password() -> Result {
    let plane = ControlPlane::shared().await?;
    for (args, expected) in [
        (["--redis-url", "http://:hunter2@redis"], "--redis-url: url"),
        (
            ["--redis-url", "redis://:hunter2@redis:port"],
            "a number from 1 to 65535",
        ),
        (
            ["--redis-password-file", "/does/not/exist"],
            "--redis-password-file: /does/not/exist cannot be read",
        ),
        (["--drain-timeout", "soon"], "such as 90s, 5m or 1h"),
        (["--listen", "8080"], "such as 0.0.0.0:8080"),
        (["--listen", "192.0.2.1:80"], "choose another address or port"),
        (["--watch-namespaces", "Ml"], "separated by commas"),
        (["--log-level", "kube=loud"], "error, warn, info, debug or trace"),
    ] {
        let mut process = Controller::spawn(plane, &args)?;
        let status = process.wait(SOON).await?;
        let said = process.log()?;
        ensure!(!status.success(), "{args:?} is taken");
        ensure!(
            said.contains(args[0]) && said.contains(expected),
            "{args:?}: {said}"
        );
        ensure!(
            !said.contains("hunter2") && !said.contains("panicked"),
            "{args:?}: {said}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn help_names_every_flag_with_its_variable() -> Result {
    let mut process = Controller::spawn(ControlPlane::shared().await?, &["--help"])?;
    assert!(process.wait(SOON).await?.success());
    let help = process.output()?;
    for flag in [
        "redis-url",
        "redis-username",
        "redis-password-file",
        "redis-key-prefix",
        "watch-namespaces",
        "listen",
        "log-format",
        "log-level",
        "drain-timeout",
        "cleanup-timeout",
    ] {
        let variable = format!("TENURE_{}", flag.to_uppercase().replace('-', "_"));
        ensure!(
            help.contains(&format!("--{flag}")) && help.contains(&variable),
            "{flag}: {help}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn objects_of_other_namespaces_are_left_alone() -> Result {
    let world = World::new("mine").await?;
    let other = world.plane.namespace("other").await?;
    let head = "apiVersion: tenure.dev/v1alpha1\nkind: Semaphore";
    let yaml = format!("{head}\nmetadata: {{name: theirs, namespace: {other}}}\nspec: {{permits: 1}}\n");
    world.plane.apply(&yaml).await?;
    world.semaphore("mine", 1, "").await?;
    let theirs = kube::Api::<Semaphore>::namespaced(world.kube.clone(), &other)
        .get("theirs")
        .await?;
    assert!(
        theirs.status.is_none() && theirs.metadata.finalizers.is_none(),
        "{theirs:?}"
    );
    Ok(())
}
