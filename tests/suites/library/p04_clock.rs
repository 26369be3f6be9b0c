//! Promise 4: the server's clock decides expiry, and the holder's monotonic clock makes it stop earlier, never later.

use std::time::Duration;

use tenure::{Client, Kind, Lease, LeaseState, Options};
use tenure_tests::{Redis, Result, ensure, eventually};
use tokio::time::Instant;

use super::support::{SOON, World, look, on_both, waiting};

/// The local deadline against the server's expiry, which is no later than the answer's arrival plus what it says is left.
async fn stops_before_the_server(client: &Client, lease: &Lease) -> Result {
    let deadline = lease.deadline();
    let snapshot = look(client, lease.object()).await?;
    let left = snapshot.holders[0].expires.duration_since(snapshot.now)?;
    ensure!(
        deadline < Instant::now() + left,
        "the holder would stop after the server's expiry"
    );
    ensure!(
        deadline > Instant::now() + left / 2,
        "the holder would stop far too early"
    );
    Ok(())
}

async fn the_local_deadline_lies_before_the_servers_expiry_however_the_lease_came(world: World) -> Result {
    let client = world.client().await?;
    // By reply,
    let lease = client.lock("x")?.acquire().await?;
    stops_before_the_server(&client, &lease).await?;
    // by push,
    let lock = world
        .client()
        .await?
        .lock("x")?
        .with(Options::new().lease(Duration::from_secs(3)));
    let waiter = tokio::spawn(async move { lock.acquire().await });
    waiting(&client, &world.object(Kind::Lock, "x")?, 1).await?;
    lease.release().await?;
    let lease = waiter.await??;
    stops_before_the_server(&client, &lease).await?;
    // and by renewal.
    let first = lease.deadline();
    eventually("a renewal", SOON, async || {
        ensure!(lease.deadline() > first, "not yet");
        Ok(())
    })
    .await?;
    stops_before_the_server(&client, &lease).await
}

#[tokio::test]
async fn a_paused_server_makes_the_holder_unsure_and_then_stop() -> Result {
    let redis = Redis::start().await?;
    let world = World::on(&redis, "paused");
    let client = world
        .builder()
        .response_timeout(Duration::from_millis(200))
        .connect()
        .await?;
    let lease = client
        .lock("x")?
        .with(Options::new().lease(Duration::from_millis(1500)))
        .acquire()
        .await?;
    redis.pause()?;
    eventually("the holder to be unsure", SOON, async || {
        ensure!(
            matches!(lease.state(), LeaseState::Unsure { .. }),
            "{:?}",
            lease.state()
        );
        Ok(())
    })
    .await?;
    lease.check()?;
    let deadline = lease.deadline();
    let cause = lease.lost().await;
    ensure!(Instant::now() >= deadline, "lost before its deadline: {cause}");
    assert!(lease.check().is_err());
    redis.resume()?;
    // It stays lost, though the server may still have it for a moment.
    let error = lease.release().await.unwrap_err();
    assert!(error.to_string().contains("is lost"), "{error}");
    Ok(())
}

on_both! {
    the_local_deadline_lies_before_the_servers_expiry_however_the_lease_came,
}
