//! After a loss of Redis' data, one write to the API server lets all objects grant again, and the statuses follow.
//!
//! `TENURE_RECOVERY_OBJECTS=2000` measures with so many objects, and prints the times.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, ResourceExt,
    api::{ListParams, PostParams},
};
use tenure::{Kind, ObjectRef};
use tenure_crds::Semaphore;
use tenure_tests::{Context, Redis, Result, ensure, eventually, redis::Persistence};
use tokio::task::JoinSet;

use super::support::{SOON, Watched, World, expect, version};

/// The lease of all objects.
const LEASE: Duration = Duration::from_secs(2);

fn objects() -> usize {
    let number = std::env::var("TENURE_RECOVERY_OBJECTS");
    number.ok().and_then(|text| text.parse().ok()).unwrap_or(40)
}

/// A time limit that grows with the number of objects.
fn patience() -> Duration {
    SOON + Duration::from_millis(50) * u32::try_from(objects()).unwrap_or(u32::MAX)
}

/// Semaphores that are ready, by their names.
async fn ready(world: &World) -> Result<Vec<String>> {
    let names: Vec<_> = (0..objects()).map(|number| format!("s{number}")).collect();
    let api = world.api::<Semaphore>();
    let mut creating = JoinSet::new();
    for name in &names {
        let spec = serde_json::json!({ "permits": 1, "leaseDurationSeconds": LEASE.as_secs() });
        let semaphore = Semaphore::new(name, serde_json::from_value(spec)?);
        let api = api.clone();
        creating.spawn(async move { api.create(&PostParams::default(), &semaphore).await });
        if creating.len() == 16 {
            creating.join_next().await.context("nothing runs")???;
        }
    }
    while let Some(created) = creating.join_next().await {
        created??;
    }
    until_ready(world).await?;
    Ok(names)
}

async fn until_ready(world: &World) -> Result {
    let api = world.api::<Semaphore>();
    eventually("all to be ready", patience(), async || {
        for object in api.list(&ListParams::default()).await? {
            expect(&object, "Ready", "True", "Synced").with_context(|| object.name_any())?;
        }
        Ok(())
    })
    .await
    .with_context(|| world.controller.logs().unwrap_or_default())
}

/// The versions of the custom resources, by their names.
async fn versions(world: &World) -> Result<HashMap<String, String>> {
    let list = world.api::<Semaphore>().list(&ListParams::default()).await?;
    Ok(list
        .iter()
        .map(|object| (object.name_any(), version(object)))
        .collect())
}

async fn record(world: &World) -> Result<Option<ConfigMap>> {
    let api = Api::<ConfigMap>::namespaced(world.kube.clone(), &world.namespace);
    Ok(api.get_opt("tenure-epoch").await?)
}

fn data(record: &ConfigMap, field: &str) -> String {
    let data = record.data.as_ref().and_then(|data| data.get(field));
    data.cloned().unwrap_or_default()
}

#[tokio::test]
async fn many_objects_are_declared_after_one_write_and_their_statuses_follow() -> Result {
    let world = World::new("recovery").await?;
    let names = ready(&world).await?;
    ensure!(record(&world).await?.is_none(), "nothing was lost");
    let client = world.client("holder").await?;
    let held = client.semaphore(&names[0])?.acquire().await?;
    let mut tokens = HashMap::new();
    for name in &names[1..] {
        let lease = client.semaphore(name)?.acquire().await?;
        tokens.insert(name.clone(), lease.fencing_token());
        lease.release().await?;
    }
    // The holders are shown, and nothing is left to be written.
    tokio::time::sleep(Duration::from_secs(2)).await;
    until_ready(&world).await?;
    let before = versions(&world).await?;
    let declarations = "tenure_declarations_total{kind=\"Semaphore\"}";
    let declared = world.metric(declarations).await?.unwrap_or_default();

    world.redis.cli(&["FLUSHALL"]).await?;
    let started = Instant::now();
    // All are asked for at once. The last one gets its permit after the recovery.
    let mut waiting = JoinSet::new();
    for name in &names[1..] {
        let (semaphore, name) = (client.semaphore(name)?, name.clone());
        waiting.spawn(async move { Result::Ok((name, semaphore.acquire().await?, started.elapsed())) });
    }
    let waiting = async {
        let mut granted: Vec<(String, tenure::Lease, Duration)> = Vec::new();
        while let Some(got) = waiting.join_next().await {
            granted.push(got??);
        }
        Result::Ok(granted)
    };
    let counted = async {
        let all = f64::from(u32::try_from(names.len())?);
        eventually("all to be declared", patience(), async || {
            let now = world.metric(declarations).await?.unwrap_or_default();
            ensure!(now >= declared + all - 1.0, "{now}");
            Ok(())
        })
        .await?;
        let took = started.elapsed();
        let after = versions(&world).await?;
        let written = after
            .iter()
            .filter(|(name, version)| before.get(*name) != Some(version));
        Result::Ok((took, written.count()))
    };
    let (granted, counted) = tokio::join!(waiting, counted);
    let (took, written) = counted.with_context(|| world.controller.logs().unwrap_or_default())?;
    let granted = granted?;
    let last = granted.iter().map(|(_, _, after)| *after).max();
    let writes = world.metric("tenure_epoch_writes_total").await?;
    println!(
        "{} objects: all but one declared after {took:?} with {written} statuses and {writes:?} records written, the last \
         grant after {last:?}",
        names.len()
    );
    // A client looks again after a second at most, and the status follows a second after the last declaration.
    ensure!(
        written <= names.len() / 10,
        "{written} statuses were written first"
    );
    for (name, lease, after) in granted {
        let (old, new) = (tokens[&name], lease.fencing_token());
        ensure!(new > old, "{name}: {new} after {old}");
        ensure!(after >= LEASE, "{name} was granted after {after:?}");
        lease.release().await?;
    }
    held.check()?;

    let open = record(&world).await?.context("no record")?;
    let from: u64 = data(&open, "from").parse()?;
    eventually("all statuses to have their floors", patience(), async || {
        for object in world.api::<Semaphore>().list(&ListParams::default()).await? {
            let floor = object.common().fencing_floor;
            ensure!(floor >= Some(from), "{}: {floor:?}", object.name_any());
        }
        Ok(())
    })
    .await?;
    println!("all statuses after {:?}", started.elapsed());
    eventually("the record to be closed", patience(), async || {
        let record = record(&world).await?.context("no record")?;
        ensure!(data(&record, "open") == "false", "{record:?}");
        Ok(())
    })
    .await?;
    until_ready(&world).await?;
    held.release().await?;
    Ok(())
}

#[tokio::test]
async fn a_controller_that_is_killed_during_a_recovery_leaves_no_object_behind() -> Result {
    let mut world = World::new("recovery-killed").await?;
    let names = ready(&world).await?;
    let client = world.client("holder").await?;
    let mut tokens = HashMap::new();
    for name in &names {
        let lease = client.semaphore(name)?.acquire().await?;
        tokens.insert(name, lease.fencing_token());
        lease.release().await?;
    }
    for _ in 0..2 {
        world.redis.cli(&["FLUSHALL"]).await?;
        let control = client.control();
        let object = ObjectRef::new(Kind::Semaphore, &world.namespace, &names[0])?;
        let asked = client.semaphore(&names[0])?;
        let (_, declared) = tokio::join!(
            asked.acquire_timeout(Duration::from_secs(1)),
            eventually("the first to be declared", SOON, async || {
                let seen = control.look(&object, 0).await?;
                ensure!(seen.is_some_and(|seen| seen.digest.is_some()), "it is not");
                Ok(())
            })
        );
        declared?;
        world.controller.kill9()?;
        world.restart_controller().await?;
        for name in &names {
            let lease = client.semaphore(name)?.acquire().await?;
            let old = tokens.insert(name, lease.fencing_token());
            ensure!(old < Some(lease.fencing_token()), "{name}: {old:?} again");
            lease.release().await?;
        }
    }
    until_ready(&world).await?;
    Ok(())
}

/// No connection breaks, and no client calls.
#[tokio::test]
async fn a_loss_of_data_is_noticed_for_objects_that_no_client_touches() -> Result {
    let world = World::new("untouched").await?;
    for name in ["one", "two"] {
        world.semaphore(name, 1, "leaseDurationSeconds: 10").await?;
    }
    for _ in 0..2 {
        // The marker of the data is as old as the controller, or as the last loss.
        eventually("the data to be watched", SOON, async || {
            let marker = world.redis.cli(&["EXISTS", "tenure:{_data}"]).await?;
            ensure!(marker.trim() == "1", "there is no marker");
            Ok(())
        })
        .await?;
        let lost = Instant::now();
        world.redis.cli(&["FLUSHALL"]).await?;
        for name in ["one", "two"] {
            let recovering = world.until::<Semaphore>(name, "recovering", SOON, |object| {
                expect(object, "Ready", "False", "Recovering")
            });
            recovering.await?;
        }
        // Noticed within two seconds, and shown a second after the last declaration.
        let took = lost.elapsed();
        ensure!(took < Duration::from_secs(6), "shown after {took:?}");
        until_ready(&world).await?;
    }
    Ok(())
}

#[tokio::test]
async fn data_that_is_replaced_in_place_is_noticed() -> Result {
    let redis = Redis::builder()
        .persistence(Persistence::Rdb)
        .args(&["--enable-debug-command", "yes"])
        .start()
        .await?;
    let world = World::with("replaced", redis, &[]).await?;
    world.semaphore("old", 1, "leaseDurationSeconds: 2").await?;
    let moved = async || {
        let moved = world.redis.cli(&["HGET", "tenure:{_data}", "moved"]).await?;
        Result::Ok(moved.trim().parse::<u64>().unwrap_or(0))
    };
    let saved = eventually("the data to be watched", SOON, async || {
        let moved = moved().await?;
        ensure!(moved > 0, "there is no marker");
        Ok(moved)
    })
    .await?;
    world.redis.cli(&["SAVE"]).await?;
    world.semaphore("new", 1, "leaseDurationSeconds: 2").await?;
    eventually("the marker to move on", SOON, async || {
        let moved = moved().await?;
        ensure!(moved > saved + 6_000, "{moved}");
        Ok(())
    })
    .await?;
    let object = ObjectRef::new(Kind::Semaphore, &world.namespace, "new")?;
    let client = world.client("reader").await?;
    world.redis.cli(&["DEBUG", "RELOAD", "NOSAVE"]).await?;
    eventually(
        "the object to be declared again",
        Duration::from_secs(4),
        async || {
            let seen = client.control().look(&object, 0).await?;
            ensure!(seen.is_some_and(|seen| seen.digest.is_some()), "it is not");
            Ok(())
        },
    )
    .await
    .with_context(|| world.controller.logs().unwrap_or_default())?;
    until_ready(&world).await
}
