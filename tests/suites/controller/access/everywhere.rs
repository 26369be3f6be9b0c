//! Each server of a cluster, and behind Sentinels, has the users.

use std::time::Duration;

use tenure::Options;
use tenure_tests::{Cluster, Redis, Result, Sentinel, ensure, eventually};

use super::{Credentials, World, client};
use crate::controller::support::SOON;

/// Each of these servers lets the user of the Secret in.
async fn all_have_it<'a>(secret: &Credentials, servers: impl IntoIterator<Item = &'a Redis>) -> Result {
    let servers: Vec<&Redis> = servers.into_iter().collect();
    eventually("each server to have the user", SOON, async || {
        for server in &servers {
            let mut connection = server.connection().await?;
            let mut auth = redis::cmd("AUTH");
            auth.arg(&secret["username"]).arg(&secret["password"]);
            let answer = auth.exec_async(&mut connection).await;
            ensure!(answer.is_ok(), "port {}: {answer:?}", server.port());
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn each_node_of_a_cluster_has_the_users_also_after_its_restart() -> Result {
    let cluster = Cluster::start().await?;
    let url = cluster.url_of_all();
    let mut world = World::at("access-cluster", cluster, url, 1, &[]).await?;
    let namespace = world.namespaces[0].clone();
    let secret = world.grant(&namespace).await?;
    all_have_it(&secret, world.redis.nodes()).await?;
    // Locks on each of the masters, for which a client asks for the map of the slots.
    let holder = client(&secret).await?;
    for number in 0..20 {
        holder
            .lock(format!("x{number}"))?
            .acquire()
            .await?
            .release()
            .await?;
    }
    let replica = world.redis.replica_of(0).await?;
    world.redis.kill9(replica)?;
    world.redis.start_again(replica).await?;
    all_have_it(&secret, world.redis.nodes()).await
}

#[tokio::test]
async fn a_replica_that_is_promoted_lets_the_holders_of_a_namespace_in() -> Result {
    let builder = Sentinel::builder().down_after(Duration::from_millis(500));
    let sentinel = builder.start().await?;
    let url = sentinel.url();
    let mut world = World::at("access-sentinels", sentinel, url, 1, &[]).await?;
    let namespace = world.namespaces[0].clone();
    let secret = world.grant(&namespace).await?;
    all_have_it(&secret, [world.redis.server(0), world.redis.server(1)]).await?;
    let holder = client(&secret).await?;
    let keep = Options::new().lease(Duration::from_secs(30));
    let lease = holder.lock("x")?.with(keep).acquire().await?;
    let master = world.redis.master().await?;
    world.redis.replicated().await?;
    world.redis.kill9(master)?;
    world.redis.promoted(master).await?;
    eventually("a renewal at the new master", SOON, async || {
        Ok(lease.renew().await?)
    })
    .await?;
    lease.release().await?;
    Ok(())
}

/// Users are neither replicated nor kept, so that a server that starts again has none.
#[tokio::test]
async fn a_replica_that_was_made_anew_gets_the_users_and_so_does_an_old_master() -> Result {
    let builder = Sentinel::builder().down_after(Duration::from_millis(500));
    let sentinel = builder.start().await?;
    let url = sentinel.url();
    let mut world = World::at("access-anew", sentinel, url, 1, &[]).await?;
    let namespace = world.namespaces[0].clone();
    let secret = world.grant(&namespace).await?;
    all_have_it(&secret, [world.redis.server(0), world.redis.server(1)]).await?;
    world.redis.kill9(1)?;
    world.redis.start_again(1).await?;
    world.redis.demoted(1).await?;
    all_have_it(&secret, [world.redis.server(0), world.redis.server(1)]).await?;
    world.redis.replicated().await?;
    world.redis.kill9(0)?;
    let master = world.redis.promoted(0).await?;
    world.redis.start_again(0).await?;
    // Sentinels do the same, but have taken longer than a minute for it on a busy machine.
    let port = world.redis.server(master).port().to_string();
    let old = world.redis.server(0);
    old.cli(&["REPLICAOF", "127.0.0.1", &port]).await?;
    world.redis.demoted(0).await?;
    all_have_it(&secret, [world.redis.server(0), world.redis.server(1)]).await
}

/// The dead shard shows as a remark, and the others have the users.
#[tokio::test]
async fn a_dead_shard_does_not_make_the_controller_unready() -> Result {
    let builder = Cluster::builder().no_replicas().partial_coverage();
    let cluster = builder.start().await?;
    let url = cluster.url_of_all();
    let mut world = World::at("access-shard", cluster, url, 2, &[]).await?;
    let (ends, namespace) = (world.namespaces[0].clone(), world.namespaces[1].clone());
    let ended = world.grant(&ends).await?;
    let secret = world.grant(&namespace).await?;
    world.redis.kill9(0)?;
    world.label(&ends, None).await?;
    world.no_secret(&ends, SOON).await?;
    eventually("the end of the user where Redis answers", SOON, async || {
        for server in &world.redis.nodes()[1..] {
            let users = server.cli(&["ACL", "USERS"]).await?;
            ensure!(
                !users.contains(&ended["username"]) && users.contains(&secret["username"]),
                "{users}"
            );
        }
        Ok(())
    })
    .await?;
    let (code, text) = world.controller.get("/readyz?verbose").await?;
    ensure!(
        code == 200 && text.contains("\"access\":{\"ok\":true,\"message\":"),
        "{text}"
    );
    world.redis.start_again(0).await?;
    all_have_it(&secret, world.redis.nodes()).await?;
    let (_, text) = world.controller.get("/readyz?verbose").await?;
    ensure!(text.contains("\"access\":{"), "{text}");
    Ok(())
}
