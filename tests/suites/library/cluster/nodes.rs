//! A client and the nodes: the number of its connections, its commands, and the error for a wrong URL.

use tenure::{Error, Options};
use tenure_tests::{Redis, eventually};
use tokio::time::Instant;

use super::*;
use crate::library::support::waiting;

/// Number of connections of this ACL user at a node.
async fn connections(node: &Redis, user: &str) -> Result<usize> {
    let clients = node.cli(&["CLIENT", "LIST"]).await?;
    let user = format!(" user={user} ");
    Ok(clients.lines().filter(|line| line.contains(&user)).count())
}

/// Each connection uses the credentials of the URL. Replicas have none.
#[tokio::test]
async fn a_client_has_one_connection_for_each_master_however_many_locks() -> Result {
    let cluster = Cluster::shared().await?;
    let world = World::at(cluster.url(), "connections");
    let names = names(cluster, &world, Kind::Lock, 20).await?.concat();
    let user = world.namespace.as_str();
    for node in cluster.nodes() {
        node.cli(&["ACL", "SETUSER", user, "on", ">sesame", "~*", "&*", "+@all"])
            .await?;
    }
    let client = world
        .builder()
        .username(user)
        .password("sesame")
        .connect()
        .await?;
    let mut leases = Vec::new();
    for name in &names {
        leases.push(client.lock(name)?.acquire().await?);
    }
    let masters = cluster.masters().await?;
    eventually("one connection for each master", SOON, async || {
        for (index, node) in cluster.nodes().iter().enumerate() {
            let count = connections(node, user).await?;
            let wanted = usize::from(masters.contains(&index));
            ensure!(count == wanted, "{count} at {index}");
        }
        Ok(())
    })
    .await?;
    for lease in leases {
        lease.release().await?;
    }
    client.close().await;
    eventually("no connection any more", SOON, async || {
        for (index, node) in cluster.nodes().iter().enumerate() {
            let count = connections(node, user).await?;
            ensure!(count == 0, "{count} at {index}");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_leases_of_all_nodes_are_renewed() -> Result {
    let cluster = Cluster::shared().await?;
    let world = World::at(cluster.url(), "renewals");
    let client = world.client().await?;
    let lease = Duration::from_millis(1500);
    let mut leases = Vec::new();
    for name in names(cluster, &world, Kind::Lock, 10).await?.concat() {
        let lock = client.lock(&name)?.with(Options::new().lease(lease));
        leases.push(lock.acquire().await?);
    }
    let beyond = Instant::now() + 4 * lease;
    eventually("renewals beyond four leases", SOON, async || {
        for lease in &leases {
            lease.check()?;
            ensure!(lease.deadline() > beyond, "not yet: {lease:?}");
        }
        Ok(())
    })
    .await?;
    for lease in leases {
        lease.release().await?;
    }
    Ok(())
}

/// Promises 1 and 2: a waiter sends nothing, and the grant comes as a push, from any node.
#[tokio::test]
async fn waiters_of_all_nodes_are_pushed_and_do_not_ask() -> Result {
    const EACH: usize = 10;
    let cluster = Cluster::builder().no_replicas().start().await?;
    let world = World::at(cluster.url(), "pushes");
    let (holder, waiter) = (world.client().await?, world.client().await?);
    let names = names(&cluster, &world, Kind::Lock, EACH).await?.concat();
    // Nothing is renewed while this is looked at.
    let long = Options::new().lease(Duration::from_secs(300));
    let mut gates = Vec::new();
    let mut waits = Vec::new();
    for name in &names {
        let gate = holder.lock(name)?.with(long.clone()).acquire().await?;
        let lock = waiter.lock(name)?.with(long.clone());
        waits.push(tokio::spawn(async move {
            let lease = lock.acquire().await?;
            let granted = Instant::now();
            lease.release().await?;
            Result::Ok(granted)
        }));
        waiting(&holder, gate.object(), 1).await?;
        gates.push(gate);
    }
    let mut counters = Counters::start(&cluster).await?;
    // The test observes that nothing happens, for longer than any poll interval.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let sent = counters.take().await?;
    ensure!(!sent.contains_key("evalsha"), "{sent:?} while all clients wait");
    for gate in gates {
        gate.release().await?;
    }
    let released = Instant::now();
    for wait in waits {
        let granted = timeout(SOON, wait).await???;
        // A lost push would cost a third of that lease.
        let cost = granted.saturating_duration_since(released);
        ensure!(
            cost < Duration::from_secs(5),
            "granted {cost:?} after the release"
        );
    }
    let scripts = counters.take().await?.get("evalsha").copied().unwrap_or_default();
    // A release, the grant's first renewal, and a release.
    ensure!(
        scripts <= 3 * names.len() as u64,
        "{scripts} scripts for {} locks",
        names.len()
    );
    Ok(())
}

#[tokio::test]
async fn any_node_leads_to_all_of_them() -> Result {
    let cluster = Cluster::shared().await?;
    let world = World::at(cluster.url_of_all(), "any-node");
    let names = names(cluster, &world, Kind::Lock, 1).await?.concat();
    let mut held = Vec::new();
    // Replicas too: what they know is who the masters are.
    for url in cluster
        .nodes()
        .iter()
        .map(Redis::url)
        .chain([cluster.url_of_all()])
    {
        let client = Client::builder(&url)
            .namespace(&world.namespace)
            .connect()
            .await?;
        for name in &names {
            match client.lock(name)?.try_acquire().await? {
                Some(lease) => held.push(lease),
                None => ensure!(held.len() == names.len(), "{name} is taken"),
            }
        }
    }
    ensure!(held.len() == names.len(), "{held:?}");
    Ok(())
}

#[tokio::test]
async fn a_cluster_has_one_database_and_a_server_as_many_as_configured() -> Result {
    // A cluster of Valkey 9 has as many as are configured, of which one is the default.
    let one_alone = ["leave the database out", "`cluster-databases`"];
    for (url, named, fixes) in [
        (
            format!("{}2", Cluster::shared().await?.url()),
            "has database 2",
            &one_alone[..],
        ),
        (
            format!("{}99", Redis::shared().await?.url()),
            "has database 99",
            &["a smaller number"],
        ),
    ] {
        let error = Client::connect(&url).await.unwrap_err();
        ensure!(
            matches!(error, Error::InvalidInput { field: "url", .. }),
            "{error:?}"
        );
        let text = error.to_string();
        let fixed = fixes.iter().any(|fix| text.contains(fix));
        ensure!(text.contains(named) && fixed, "{text}");
    }
    Ok(())
}
