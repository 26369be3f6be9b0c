//! Users that Redis has lost are made again, and leases stay.

use std::time::Duration;

use tenure::{
    Options,
    control::{Server, acl},
};
use tenure_tests::{Context, Redis, Result, ensure, eventually, redis::Persistence};
use tokio::time::Instant;

use super::{World, client, redis, url_of_controller};
use crate::controller::support::SOON;

/// The user as the server at hand has it.
async fn has_user(redis: &Redis, namespace: &str) -> Result {
    let user = acl::tenant_user("tenure", namespace)?;
    let users = redis.cli(&["ACL", "USERS"]).await?;
    ensure!(users.lines().any(|line| line == user), "{users}");
    Ok(())
}

/// A restart, with its data and without its users.
#[tokio::test]
async fn after_a_restart_of_redis_the_users_are_back_before_leases_end() -> Result {
    let redis = redis()?.persistence(Persistence::Aof).start().await?;
    let url = url_of_controller(&redis);
    let mut world = World::at("access-restart", redis, url, 1, &[]).await?;
    let namespace = world.namespaces[0].clone();
    let secret = world.grant(&namespace).await?;
    let holder = client(&secret).await?;
    let lease = Duration::from_secs(6);
    let lease = holder
        .lock("x")?
        .with(Options::new().lease(lease))
        .acquire()
        .await?;
    world.redis.kill9()?;
    world.redis.start_again().await?;
    let back = Instant::now();
    eventually("the user to be back", SOON, async || {
        has_user(&world.redis, &namespace).await
    })
    .await?;
    ensure!(
        back.elapsed() < Duration::from_secs(3),
        "it took {:?}",
        back.elapsed()
    );
    let deadline = lease.deadline();
    eventually("a renewal", SOON, async || {
        lease.check()?;
        ensure!(lease.deadline() > deadline, "not yet");
        Ok(())
    })
    .await?;
    lease.release().await?;
    // With the same password.
    ensure!(
        world.secret(&namespace).await? == secret,
        "the Secret has changed"
    );
    Ok(())
}

/// A client with credentials that do not change waits for its user, as for a Redis that is not there yet.
#[tokio::test]
async fn a_request_outlasts_the_time_without_users() -> Result {
    let redis = redis()?.persistence(Persistence::Aof).start().await?;
    let url = url_of_controller(&redis);
    let mut world = World::at("access-waits", redis, url, 1, &[]).await?;
    let namespace = world.namespaces[0].clone();
    let secret = world.grant(&namespace).await?;
    let (holder, waiter) = (client(&secret).await?, client(&secret).await?);
    let lease = holder.lock("x")?.acquire().await?;
    let lock = waiter.lock("x")?;
    let waits = tokio::spawn(async move { lock.acquire().await });
    eventually("a waiter", SOON, async || {
        let seen = holder.control().look(lease.object(), 1).await?;
        ensure!(seen.is_some_and(|seen| seen.waiting == 1), "not yet");
        Ok(())
    })
    .await?;
    world.controller.kill9()?;
    world.redis.kill9()?;
    world.redis.start_again().await?;
    let denied = |server: &Server| matches!(server, Server::Disconnected { transient: false, .. });
    eventually("Redis to deny the credentials", SOON, async || {
        let server = waiter.control().server();
        ensure!(denied(&server), "{server:?}");
        Ok(())
    })
    .await?;
    let lock = waiter.lock("y")?;
    let asks = tokio::spawn(async move { lock.try_acquire().await });
    world.controller = world.another_controller().await?;
    asks.await??.context("busy")?.release().await?;
    lease.release().await?;
    waits.await??.release().await?;
    Ok(())
}

#[tokio::test]
async fn users_that_an_administrator_removes_or_changes_are_mended() -> Result {
    let world = World::start("access-mended-users", 1, &[]).await?;
    let namespace = &world.namespaces[0];
    let secret = world.grant(namespace).await?;
    let holder = client(&secret).await?;
    let lease = Options::new().lease(Duration::from_secs(30));
    let lease = holder.lock("x")?.with(lease).acquire().await?;
    let user = acl::tenant_user("tenure", namespace)?;
    let rules = world.acl(&["GETUSER", &user]).await?;
    for change in [
        &["DELUSER", &user][..],
        &["SETUSER", &user, "+@all", "~*"],
        &["SETUSER", &user, "resetpass"],
    ] {
        world.acl(change).await?;
        eventually("the user to be as it was", SOON, async || {
            let now = world.acl(&["GETUSER", &user]).await?;
            ensure!(now == rules, "{now}");
            Ok(())
        })
        .await?;
    }
    world.redis.cli(&["FLUSHALL"]).await?;
    has_user(&world.redis, namespace).await?;
    lease.check()?;
    Ok(())
}
