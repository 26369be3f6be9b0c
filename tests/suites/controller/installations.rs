//! Two installations in one namespace, each with a Redis of its own: one manages an object, and the other one leaves it alone.

use std::time::Duration;

use tenure_crds::Semaphore;
use tenure_tests::{Context, ControlPlane, Controller, Redis, Result, ensure, eventually};

use super::support::{SOON, Watched, World, expect, metric, version};

/// An installation looks at the objects of another one every 15 s, and at the Lease of that one every 10 s.
const TAKEN_OVER_WITHIN: Duration = Duration::from_secs(40);

#[tokio::test]
async fn one_installation_grants_and_the_other_one_takes_over_when_it_is_uninstalled() -> Result {
    let mut world = World::new("installations").await?;
    world.semaphore("calls", 1, "leaseDurationSeconds: 2").await?;
    let held = world
        .client("holder")
        .await?
        .semaphore("calls")?
        .acquire()
        .await?;

    let redis = Redis::start().await?;
    let other = world.another_installation(&redis, "other").await?;
    let note = world.event("ManagedByAnother").await?;
    let own = format!("{}/tenure-epoch", world.namespace);
    let release = format!(
        "kubectl delete lease tenure-epoch --namespace {}",
        world.namespace
    );
    ensure!(note.contains(&own) && note.contains(&release), "{note}");
    let client = tenure::Client::builder(redis.url())
        .namespace(&world.namespace)
        .connect()
        .await?;
    let refused = client.semaphore("calls")?.try_acquire().await;
    ensure!(
        matches!(refused, Err(tenure::Error::NotDeclared { .. })),
        "{refused:?}"
    );
    ensure!(
        redis.cli(&["KEYS", "*calls*"]).await?.trim().is_empty(),
        "it was declared"
    );
    ensure!(
        metric(&other, "tenure_objects_of_others").await? == Some(1.0),
        "it is not counted"
    );
    let log = other.logs()?;
    let warnings = log
        .lines()
        .filter(|line| line.contains("another installation manages"))
        .count();
    ensure!(warnings == 1, "{log}");
    let shown = world
        .until::<Semaphore>("calls", "shown as held", SOON, |s| {
            ensure!(s.common().held == 1, "not held");
            expect(s, "Ready", "True", "Synced")
        })
        .await?;
    ensure!(
        shown.common().controller.as_deref() == Some(&own[..]),
        "{shown:?}"
    );

    // As `helm uninstall` does: the Lease is gone, and then the controller.
    world
        .plane
        .kubectl(&["-n", &world.namespace, "delete", "lease", "tenure-epoch"])
        .await?;
    world.controller.kill9()?;
    held.release().await?;
    let api = world.api::<Semaphore>();
    let taken_over = eventually("the object to be taken over", TAKEN_OVER_WITHIN, async || {
        let object = api.get("calls").await?;
        let controller = object.common().controller;
        ensure!(
            controller == Some(format!("{}/other", world.namespace)),
            "{controller:?}"
        );
        expect(&object, "Ready", "True", "Synced")
    });
    taken_over
        .await
        .with_context(|| other.logs().unwrap_or_default())?;
    let note = world.event("TakenOver").await?;
    ensure!(note.contains(&own) && note.contains(". Held by holder"), "{note}");
    client.semaphore("calls")?.acquire().await?.release().await?;
    Ok(())
}

#[tokio::test]
async fn an_object_without_an_installation_gets_one_with_one_write() -> Result {
    let world = World::new("unrecorded").await?;
    world.semaphore("calls", 1, "").await?;
    let patch = r#"{"status":{"controller":null}}"#;
    world
        .plane
        .kubectl(&[
            "-n",
            &world.namespace,
            "patch",
            "semaphore",
            "calls",
            "--subresource=status",
            "--type=merge",
            "--patch",
            patch,
        ])
        .await?;
    // A change of the status alone starts no reconciliation.
    world.apply_semaphore("calls", 2, "").await?;
    let recorded = world
        .until::<Semaphore>("calls", "recorded", SOON, |s| {
            let own = format!("{}/tenure-epoch", world.namespace);
            ensure!(s.common().controller == Some(own), "not recorded");
            ensure!(s.common().total == 2, "the spec is not in force");
            expect(s, "Ready", "True", "Synced")
        })
        .await?;
    // Another controller of the installation has nothing to write.
    let other = world.another_controller().await?;
    eventually("the other one to look", SOON, async || {
        let looked = metric(&other, "tenure_reconciles_total{kind=\"Semaphore\"}").await?;
        ensure!(looked >= Some(1.0), "{looked:?}");
        Ok(())
    })
    .await?;
    let now = world.api::<Semaphore>().get("calls").await?;
    ensure!(version(&now) == version(&recorded), "written: {:?}", now.status);
    Ok(())
}

/// As in an upgrade with `crds.install=false`: an object was declared by a controller that records nothing, and the definitions lack the
/// field.
#[tokio::test]
async fn definitions_that_lack_the_field_stop_nothing() -> Result {
    const NAMESPACE: &str = "default";
    let (plane, redis) = (
        ControlPlane::start_without_definitions().await?,
        Redis::start().await?,
    );
    plane.install_definitions().await?;
    for name in ["lockpools", "semaphores"] {
        let field = "/spec/versions/0/schema/openAPIV3Schema/properties/status/properties/controller";
        let patch = format!(r#"[{{"op":"remove","path":"{field}"}}]"#);
        let definition = format!("{name}.tenure.dev");
        plane
            .kubectl(&["patch", "crd", &definition, "--type=json", "--patch", &patch])
            .await?;
    }
    plane
        .apply(
            "apiVersion: tenure.dev/v1alpha1\nkind: Semaphore\nmetadata: {name: calls}\n\
             spec: {permits: 1, leaseDurationSeconds: 1}\n",
        )
        .await?;
    let ready = [
        "wait",
        "--for=condition=Ready",
        "--timeout=30s",
        "semaphore/calls",
    ];
    let mut before = Controller::start(&plane, &redis.url(), &[NAMESPACE]).await?;
    plane.kubectl(&ready).await?;
    before.terminate().await?;

    let url = redis.url();
    let args = ["--redis-url", &url, "--watch-namespaces", NAMESPACE];
    let args = [&args[..], &["--epoch-record", "default/tenure-epoch"]].concat();
    let controller = Controller::start_with(&plane, &args).await?;
    eventually("the old definitions to be logged", SOON, async || {
        let log = controller.logs()?;
        ensure!(log.contains("are older than the controller"), "{log}");
        Ok(())
    })
    .await?;
    redis.cli(&["FLUSHALL"]).await?;
    let client = tenure::Client::builder(redis.url())
        .namespace(NAMESPACE)
        .connect()
        .await?;
    let semaphore = client.semaphore("calls")?;
    eventually("a grant after the loss", SOON, async || {
        let permit = semaphore.acquire_timeout(Duration::from_secs(5)).await?;
        permit.context("it is held")?.release().await?;
        Ok(())
    })
    .await?;
    plane
        .kubectl(&["delete", "semaphore", "calls", "--timeout=20s"])
        .await
        .with_context(|| controller.logs().unwrap_or_default())?;
    Ok(())
}
