//! Pods: the reconciliations that the end of one causes, and the memory for many large ones.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use tenure_tests::{Context, Result, ensure, eventually};
use tokio::{task::JoinSet, time::sleep};

use crate::{
    controller::{
        setting,
        world::{PATIENCE, World},
    },
    report::{Goal, Report, each},
};

const ENDS: usize = 24;
/// Leases longer than the measurement, so that no reconciliation is due to time.
const LEASE: u32 = 3_600;

/// A pod that no kubelet runs.
async fn pod(pods: &Api<Pod>, name: &str, text: &str) -> Result<String> {
    let pod = serde_json::from_value(json!({
        "metadata": {"name": name, "annotations": {"text": text}},
        "spec": {"containers": [{"name": "main", "image": "example.com/none"}]},
    }))?;
    let pod = pods.create(&PostParams::default(), &pod).await?;
    pod.metadata.uid.context("a pod without uid")
}

async fn end(pods: &Api<Pod>, name: &str) -> Result {
    let over = Patch::Merge(json!({"status": {"phase": "Succeeded"}}));
    pods.patch_status(name, &PatchParams::default(), &over).await?;
    Ok(())
}

/// Pods that hold nothing, and one that holds one object, beside many objects that others hold.
pub(super) async fn ends(report: &mut Report) -> Result {
    let objects = setting("TENURE_BENCH_OBJECTS", 2_000).min(2_000);
    let world = World::new("ends", 1).await?;
    world.create("x", objects, LEASE).await?;
    world.until("Synced", objects).await?;
    let namespace = &world.namespaces[0];
    let pods = world.api::<Pod>(namespace);
    let other = world.client(namespace, "other", Some("other".to_owned())).await?;
    let (mut seats, mut permits) = (Vec::new(), Vec::new());
    for number in (0..objects).step_by(2) {
        seats.push(other.lock_pool(format!("x{number}"))?.acquire().await?);
        permits.push(other.semaphore(format!("x{}", number + 1))?.acquire().await?);
    }
    let own = world
        .client(namespace, "own", Some(pod(&pods, "own", "").await?))
        .await?;
    let held = own.semaphore("x1")?.acquire().await?;
    for number in 0..ENDS {
        pod(&pods, &format!("unrelated{number}"), "").await?;
    }
    eventually("all to be shown", PATIENCE, async || {
        let held: u32 = world.statuses().await?.iter().map(|status| status.held).sum();
        ensure!(held as usize == objects + 1, "{held} are held");
        Ok(())
    })
    .await?;
    let rest = async || {
        let mut before = world.counted("tenure_reconciles").await?;
        loop {
            sleep(Duration::from_secs(3)).await;
            let now = world.counted("tenure_reconciles").await?;
            if now == before {
                return Result::Ok(now);
            }
            before = now;
        }
    };
    let before = rest().await?;
    for number in 0..ENDS {
        end(&pods, &format!("unrelated{number}")).await?;
        sleep(Duration::from_millis(300)).await;
    }
    let unrelated = rest().await? - before;
    report.figure(
        "reconciles_of_unrelated_pods",
        each(unrelated, 1),
        Goal::Exactly(0.0),
        &format!("{ENDS} pods end that hold nothing, beside {objects} held objects"),
    );
    let before = rest().await?;
    end(&pods, "own").await?;
    tokio::time::timeout(PATIENCE, held.lost()).await?;
    let own = rest().await? - before;
    report.figure(
        "reconciles_of_a_holder",
        each(own, 1),
        Goal::AtMost(3.0),
        &format!("a pod ends that holds one object, beside {objects} held objects"),
    );
    Ok(())
}

/// Many large pods, of which a tenth has ended, and the memory of a controller that starts.
pub(super) async fn memory(report: &mut Report) -> Result {
    let count = setting("TENURE_BENCH_PODS", 2_500);
    let mut world = World::new("pods", 1).await?;
    let pods = world.api::<Pod>(&world.namespaces[0]);
    let empty = world.memory()?;
    let text = "x".repeat(30_000);
    let mut making: JoinSet<Result> = JoinSet::new();
    for number in 0..count {
        let (pods, text) = (pods.clone(), text.clone());
        making.spawn(async move {
            let name = format!("pod{number}");
            pod(&pods, &name, &text).await?;
            end(&pods, &name).await
        });
        if making.len() == 16 {
            making.join_next().await.context("nothing runs")???;
        }
    }
    while let Some(made) = making.join_next().await {
        made??;
    }
    let running = world.memory()?;
    world.restart().await?;
    sleep(Duration::from_secs(5)).await;
    report.figure(
        "controller_memory_of_pods",
        world.memory()?,
        Goal::AtMost(64.0),
        &format!(
            "MiB after a restart, {count} ended pods with 30 kB of metadata; {running:.1} while they came, {empty:.1} before"
        ),
    );
    Ok(())
}
