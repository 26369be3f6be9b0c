//! Pods that start again: the newest data win, and not the last master.

use std::time::Duration;

use tenure_tests::{Context, Result, ensure, eventually};
use tokio::time::Instant;

use super::{Pods, SOON};

/// The kubelet starts the container again before the Sentinels miss it.
#[tokio::test]
async fn a_master_that_was_killed_is_replaced_by_a_replica_that_has_all() -> Result {
    let mut pods = Pods::start().await?;
    pods.write(1).await?;
    pods.all_have(1).await?;
    pods.settled().await?;
    let killed = Instant::now();
    pods.nodes[0].kill_redis()?;
    pods.nodes[0].start_redis()?;
    let next = pods.promoted(0).await?;
    println!("another master {:?} after the kill", killed.elapsed());
    pods.write(2).await?;
    ensure!(pods.number(next).await? == 2, "the write went elsewhere");
    pods.ready().await?;
    ensure!(pods.role(0).await? == "slave", "two masters");
    pods.all_have(2).await
}

#[tokio::test]
async fn a_master_that_lost_its_volume_never_empties_its_replicas() -> Result {
    let mut pods = Pods::start().await?;
    pods.write(1).await?;
    pods.all_have(1).await?;
    pods.settled().await?;
    // With its Sentinel, as a pod on another node.
    pods.nodes[0].kill()?;
    pods.nodes[0].wipe()?;
    pods.nodes[0].start()?;
    pods.promoted(0).await?;
    pods.ready().await?;
    pods.all_have(1).await
}

#[tokio::test]
async fn after_a_restart_of_all_pods_the_last_master_is_the_master() -> Result {
    let mut pods = Pods::start().await?;
    pods.write(1).await?;
    pods.all_have(1).await?;
    pods.nodes[0].stop_redis().await?;
    let master = pods.promoted(0).await?;
    pods.write(2).await?;
    pods.kill_all()?;
    pods.start_all()?;
    pods.ready().await?;
    ensure!(pods.master().await? == master, "another one");
    pods.all_have(2).await
}

/// Two Sentinels are enough for an election, and the pod with the new data does not run.
#[tokio::test]
async fn a_pod_with_old_data_is_not_promoted() -> Result {
    let mut pods = Pods::start().await?;
    pods.write(1).await?;
    pods.all_have(1).await?;
    pods.nodes[2].kill_redis()?;
    pods.write(2).await?;
    pods.kill_all()?;
    pods.nodes[1].start()?;
    pods.nodes[2].start()?;
    for pod in 1..3 {
        eventually("it to run as a replica", SOON, async || {
            ensure!(pods.role(pod).await? == "slave", "{}", pods.nodes[pod].tail());
            Ok(())
        })
        .await?;
    }
    // Longer than the Sentinels wait for the master.
    let until = Instant::now() + Duration::from_secs(30);
    eventually("the Sentinels to try", SOON, async || {
        ensure!(Instant::now() > until, "they have time");
        Ok(())
    })
    .await?;
    for pod in 1..3 {
        ensure!(pods.role(pod).await? == "slave", "{pod} was promoted");
    }
    pods.nodes[0].start()?;
    pods.ready().await?;
    ensure!(pods.master().await? == 0, "another master");
    pods.all_have(2).await
}

/// "A master that has lost its volume" in docs/redis.md.
#[tokio::test]
async fn after_a_restart_of_all_pods_an_empty_master_waits_for_a_person() -> Result {
    let mut pods = Pods::start().await?;
    pods.write(1).await?;
    pods.all_have(1).await?;
    pods.settled().await?;
    pods.kill_all()?;
    // The Sentinel has its file, and Redis has none: else the Sentinel would learn from the others.
    std::fs::remove_dir_all(pods.nodes[0].folder.join("data/appendonlydir"))?;
    pods.start_all()?;
    eventually("the message", SOON, async || {
        let log = pods.nodes[0].log()?;
        ensure!(log.contains("Nothing is promoted without a person"), "{log}");
        Ok(())
    })
    .await?;
    ensure!(pods.redis(0).await.is_err(), "it runs");
    let script = serde_json::json!(["sh", "/etc/redis/promote.sh"]);
    let mut promote = pods.nodes[1].spawn("promote", &script)?;
    let status = promote.wait(SOON).await?;
    ensure!(status.success(), "{}", promote.tail());
    ensure!(pods.promoted(0).await? == 1, "another one");
    pods.ready().await?;
    pods.all_have(1).await
}

/// A pod whose volume is new, beside a master that was replaced meanwhile.
#[tokio::test]
async fn a_new_pod_learns_the_master_from_the_others() -> Result {
    let mut pods = Pods::start().await?;
    pods.write(1).await?;
    pods.all_have(1).await?;
    pods.nodes[0].stop_redis().await?;
    let master = pods.promoted(0).await?;
    pods.nodes[0].kill()?;
    pods.nodes[0].wipe()?;
    pods.nodes[0].start()?;
    pods.ready().await?;
    ensure!(pods.master().await? == master, "another master");
    pods.all_have(1).await
}

#[tokio::test]
async fn a_container_whose_redis_ends_ends_too() -> Result {
    let mut pods = Pods::start().await?;
    let redis = pods.nodes[1].redis.as_mut().context("it does not run")?;
    let children = format!("/proc/{0}/task/{0}/children", redis.pid());
    let child = std::fs::read_to_string(children)?;
    let child: i32 = child.split_whitespace().next().context("no child")?.parse()?;
    let child = rustix::process::Pid::from_raw(child).context("no process")?;
    rustix::process::kill_process(child, rustix::process::Signal::KILL)?;
    let status = redis.wait(SOON).await?;
    ensure!(status.code() == Some(137), "{status}");
    Ok(())
}
