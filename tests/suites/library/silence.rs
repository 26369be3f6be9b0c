//! Connections that die silently, as when a load balancer drops them, and servers that are frozen.

use std::time::Duration;

use tenure::{Client, Error, control::Server};
use tenure_tests::{Cluster, Redis, Result, Sentinel, ensure, eventually, proxy::Dead};
use tokio::time::{Instant, timeout};

use super::support::{SOON, World, got, waiting};

/// Duration beyond the silence after which a connection is checked.
const IDLE: Duration = Duration::from_secs(2);

async fn connected(client: &Client, expected: bool) -> Result {
    eventually(&format!("connected: {expected}"), SOON, async || {
        let server = client.control().server();
        ensure!(
            matches!(server, Server::Connected { .. }) == expected,
            "{server:?}"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_idle_connection_that_died_silently_is_made_again_without_a_call() -> Result {
    let redis = Redis::start().await?;
    let (proxy, world) = World::on(&redis, "idle").behind_proxy(&redis).await?;
    for dead in [Dead::Requests, Dead::Replies, Dead::Both] {
        let client = world.client().await?;
        let before = proxy.connections();
        proxy.half_open(dead);
        eventually("another connection", SOON, async || {
            ensure!(proxy.connections() > before, "{dead:?}: it is not missed");
            Ok(())
        })
        .await?;
        connected(&client, true).await?;
    }
    Ok(())
}

/// Within the time of one answer: it is repeated over another connection.
#[tokio::test]
async fn the_first_call_over_a_connection_that_died_silently_gets_its_answer() -> Result {
    let redis = Redis::start().await?;
    let (proxy, world) = World::on(&redis, "first-call").behind_proxy(&redis).await?;
    for dead in [Dead::Requests, Dead::Replies, Dead::Both] {
        // Only a call can notice it in this time.
        let client = world.client_with_timeout(Duration::from_secs(6)).await?;
        client.lock("x")?.acquire().await?.release().await?;
        tokio::time::sleep(IDLE).await;
        proxy.half_open(dead);
        let lease = got(client.lock("x")?.try_acquire().await?)?;
        lease.release().await?;
    }
    Ok(())
}

#[tokio::test]
async fn an_idle_client_notices_that_the_server_is_frozen_and_that_it_is_back() -> Result {
    let redis = Redis::start().await?;
    let world = World::on(&redis, "frozen");
    let client = world.client().await?;
    redis.pause()?;
    let frozen = Instant::now();
    connected(&client, false).await?;
    let noticed = frozen.elapsed();
    redis.resume()?;
    ensure!(noticed < Duration::from_secs(10), "noticed after {noticed:?}");
    connected(&client, true).await?;
    got(client.lock("x")?.try_acquire().await?)?.release().await?;
    Ok(())
}

#[tokio::test]
async fn a_frozen_node_of_a_cluster_is_noticed_by_an_idle_client() -> Result {
    let mut cluster = Cluster::builder()
        .no_replicas()
        .partial_coverage()
        .start()
        .await?;
    let world = World::at(cluster.url_of_all(), "frozen-node");
    let client = world.client().await?;
    // All of its masters, of which one is enough to begin with.
    connected(&client, true).await?;
    let known = client.control().server();
    let mut watch = {
        let control = client.control();
        tokio::spawn(async move { control.server_changed(&known).await })
    };
    cluster.pause(0)?;
    let changed = timeout(SOON, &mut watch).await;
    cluster.resume(0)?;
    changed??;
    Ok(())
}

#[tokio::test]
async fn a_frozen_master_behind_sentinels_is_noticed_by_an_idle_client() -> Result {
    let mut sentinel = Sentinel::builder()
        .down_after(Duration::from_millis(500))
        .start()
        .await?;
    let world = World::at(sentinel.url(), "frozen-master");
    let client = world.client().await?;
    let master = sentinel.master().await?;
    sentinel.replicated().await?;
    sentinel.pause(master)?;
    sentinel.promoted(master).await?;
    eventually("the new master to be used", SOON, async || {
        let lease = client
            .lock("x")?
            .acquire_timeout(Duration::from_millis(500))
            .await?;
        got(lease)?.release().await?;
        Ok(())
    })
    .await?;
    sentinel.resume(master)?;
    Ok(())
}

/// The connection dies with the runtime in which the client was made: a call in another one fails at once.
#[tokio::test]
async fn a_client_that_outlives_its_runtime_reports_it() -> Result {
    let redis = Redis::start().await?;
    let cluster = Cluster::builder().no_replicas().start().await?;
    for world in [
        World::on(&redis, "outlived"),
        World::at(cluster.url(), "outlived-cluster"),
    ] {
        let home = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let client = home.spawn(world.builder().connect()).await??;
        let lease = client.lock("x")?.acquire().await?;
        let lock = client.lock("x")?;
        let next = tokio::spawn(async move { lock.acquire().await });
        waiting(&world.client().await?, lease.object(), 1).await?;
        home.shutdown_background();
        let next = timeout(SOON, next).await??;
        ensure!(matches!(next, Err(Error::Closed)), "{next:?}");
        let other = timeout(SOON, client.lock("y")?.acquire()).await?;
        ensure!(matches!(other, Err(Error::Closed)), "{other:?}");
        let released = timeout(SOON, lease.release()).await?;
        ensure!(matches!(released, Err(Error::Closed)), "{released:?}");
        timeout(SOON, client.close()).await?;
    }
    Ok(())
}
