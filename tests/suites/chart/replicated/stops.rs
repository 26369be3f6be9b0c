//! Pods that stop in order: a master hands over before it ends.

use std::time::Duration;

use tenure_tests::{Result, ensure};
use tokio::time::Instant;

use super::{Pods, set};

/// A program that writes on and on to the first pod, and the last number that was taken.
async fn numbers(pods: &Pods, master: usize) -> Result<tokio::task::JoinHandle<u64>> {
    let mut connection = pods.redis(master).await?;
    Ok(tokio::spawn(async move {
        let mut taken = 0;
        while set(&mut connection, taken + 1).await.is_ok() {
            taken += 1;
        }
        taken
    }))
}

async fn a_master_that_stops_hands_over(program: &'static str) -> Result {
    let mut pods = Pods::new(program, &[]).await?;
    pods.start_all()?;
    pods.ready().await?;
    ensure!(pods.master().await? == 0, "the first pod is not the first master");
    pods.settled().await?;
    let writer = numbers(&pods, 0).await?;
    let took = pods.nodes[0].stop_redis().await?;
    let taken = writer.await?;
    let next = pods.promoted(0).await?;
    ensure!(
        taken > 0 && pods.number(next).await? == taken,
        "{taken} was taken, and is lost"
    );
    ensure!(took < Duration::from_secs(20), "it took {took:?}");
    println!("{program}: the master ended {took:?} after the request, {taken} writes");

    // It comes back as a replica with the new data, and stops at once.
    pods.write(taken + 1).await?;
    pods.nodes[0].start_redis()?;
    pods.ready().await?;
    ensure!(
        pods.role(0).await? == "slave" && pods.master().await? == next,
        "two masters"
    );
    pods.all_have(taken + 1).await?;
    let took = pods.nodes[0].stop_redis().await?;
    ensure!(took < Duration::from_secs(5), "a replica took {took:?}");
    ensure!(
        pods.master().await? == next,
        "the stop of a replica changed the master"
    );
    Ok(())
}

#[tokio::test]
async fn a_redis_that_stops_hands_over_without_a_loss() -> Result {
    a_master_that_stops_hands_over("redis-server").await
}

#[tokio::test]
async fn a_valkey_that_stops_hands_over_without_a_loss() -> Result {
    a_master_that_stops_hands_over("valkey-server").await
}

/// As in `helm uninstall`, and where the other nodes have failed.
#[tokio::test]
async fn a_master_without_replicas_stops_at_once() -> Result {
    let mut pods = Pods::start().await?;
    pods.write(1).await?;
    pods.nodes[1].kill_redis()?;
    pods.nodes[2].kill_redis()?;
    let took = pods.nodes[0].stop_redis().await?;
    ensure!(took < Duration::from_secs(10), "it took {took:?}");
    Ok(())
}

/// A rolling update, in the order of a `StatefulSet`.
#[tokio::test]
async fn an_update_from_pod_to_pod_loses_nothing() -> Result {
    let mut pods = Pods::start().await?;
    for (number, pod) in (1..).zip([2, 1, 0]) {
        pods.write(number).await?;
        pods.nodes[pod].stop_redis().await?;
        pods.nodes[pod].kill()?;
        pods.nodes[pod].start()?;
        pods.ready().await?;
        let started = Instant::now();
        let master = pods.master().await?;
        ensure!(pods.number(master).await? == number, "{number} is lost");
        println!(
            "the master after the update of {pod}: {master}, {:?}",
            started.elapsed()
        );
    }
    pods.all_have(3).await
}
