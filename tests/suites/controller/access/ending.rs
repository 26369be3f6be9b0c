//! The end of the permission ends users, connections and Secrets within five seconds.

use std::time::Duration;

use tenure::control::acl;
use tenure_tests::{Result, ensure, eventually};
use tokio::time::Instant;

use super::{Credentials, END, World, client, holds};
use crate::controller::support::SOON;

/// Checks that the namespace of a Secret has nothing any more.
async fn is_over(world: &World, namespace: &str, secret: &Credentials, since: Instant) -> Result {
    let user = acl::tenant_user("tenure", namespace)?;
    eventually("its user to be gone", END, async || {
        let clients = world.redis.cli(&["CLIENT", "LIST"]).await?;
        ensure!(
            !clients.contains(&format!("user={user} ")),
            "it is connected: {clients}"
        );
        ensure!(!world.acl(&["USERS"]).await?.contains(&user), "it is there");
        Ok(())
    })
    .await?;
    world.no_secret(namespace, END).await?;
    ensure!(since.elapsed() < END, "it took {:?}", since.elapsed());
    world.is_refused(secret).await
}

#[tokio::test]
async fn without_the_label_connections_end_and_the_secret_goes() -> Result {
    let world = World::start("access-end", 2, &[]).await?;
    let (ends, stays) = (&world.namespaces[0], &world.namespaces[1]);
    let (secret, other) = (world.grant(ends).await?, world.grant(stays).await?);
    let holder = client(&other).await?;
    let (lease, lost) = (
        holder.lock("x")?.acquire().await?,
        client(&secret).await?.lock("x")?.acquire().await?,
    );
    let mut raw = world.connection(&secret).await?;
    redis::cmd("TIME").exec_async(&mut raw).await?;
    let since = Instant::now();
    world.label(ends, Some("false")).await?;
    is_over(&world, ends, &secret, since).await?;
    ensure!(
        redis::cmd("TIME").exec_async(&mut raw).await.is_err(),
        "the connection lives"
    );
    world.event(ends, "AccessRemoved").await?;
    lease.check()?;
    lease.renew().await?;
    drop(lost);
    // It may come again, with another password.
    let again = world.grant(ends).await?;
    ensure!(again["password"] != secret["password"], "the old password");
    holds(&again, "y").await?;
    world.is_refused(&secret).await
}

#[tokio::test]
async fn with_the_namespace_goes_its_user() -> Result {
    let world = World::start("access-deleted", 1, &[]).await?;
    let namespace = &world.namespaces[0];
    let secret = world.grant(namespace).await?;
    let since = Instant::now();
    world
        .plane
        .kubectl(&["delete", "namespace", namespace, "--wait=false"])
        .await?;
    is_over(&world, namespace, &secret, since).await
}

/// Both what was allowed by its label and what a list had.
#[tokio::test]
async fn what_ended_while_the_controller_was_away_ends_at_its_start() -> Result {
    let mut world = World::start("access-away", 2, &[]).await?;
    let (labelled, listed) = (world.namespaces[0].clone(), world.namespaces[1].clone());
    world.args = vec![format!("--access-namespaces={listed}")];
    world.controller.kill9()?;
    world.controller = world.another_controller().await?;
    let secrets = [world.grant(&labelled).await?, world.secret(&listed).await?];
    world.controller.kill9()?;
    world.label(&labelled, None).await?;
    // The user of a namespace that another controller watches, and one that is no namespace's.
    for user in ["tenure.elsewhere", "tenure-admin"] {
        world.acl(&["SETUSER", user, "on", ">x"]).await?;
    }
    world.args.clear();
    world.controller = world.another_controller().await?;
    world.ready().await?;
    let since = Instant::now();
    for (namespace, secret) in [&labelled, &listed].into_iter().zip(&secrets) {
        is_over(&world, namespace, secret, since).await?;
    }
    let users = world.acl(&["USERS"]).await?;
    ensure!(
        users.contains("tenure.elsewhere") && users.contains("tenure-admin"),
        "{users}"
    );
    Ok(())
}

#[tokio::test]
async fn what_ends_while_redis_is_away_ends_when_it_is_back() -> Result {
    let world = World::start("access-paused", 1, &[]).await?;
    let namespace = &world.namespaces[0];
    let secret = world.grant(namespace).await?;
    world.redis.pause()?;
    world.label(namespace, None).await?;
    world.no_secret(namespace, SOON).await?;
    world.redis.resume()?;
    let user = acl::tenant_user("tenure", namespace)?;
    eventually("its user to be gone", Duration::from_secs(10), async || {
        ensure!(!world.acl(&["USERS"]).await?.contains(&user), "it is there");
        Ok(())
    })
    .await?;
    world.is_refused(&secret).await
}
