//! Lists for people: objects, requests of waiters, servers.

use std::collections::BTreeSet;

use tenure::{Client, Control, Kind, ObjectRef, control::Resource};
use tenure_tests::{Cluster, Context, Redis, Result, ensure, eventually, unique};

use super::support::SOON;

/// Objects of a namespace, beside those of another one with the same start.
async fn lists(client: &Client, other: &Client, namespace: &str) -> Result {
    let mut leases = Vec::new();
    for name in ["a", "b/c", "d}"] {
        if let Ok(lock) = client.lock(name) {
            leases.push(lock.acquire().await?);
        }
    }
    for number in 0..50 {
        leases.push(client.lock(format!("many-{number}"))?.acquire().await?);
        leases.push(other.lock(format!("other-{number}"))?.acquire().await?);
    }
    leases.push(client.semaphore("api")?.or_permits(2)?.acquire().await?);
    client.register("no-object")?.set(1).await?;
    let objects = client.control().objects(namespace).await?;
    let names: BTreeSet<_> = objects.iter().map(ToString::to_string).collect();
    ensure!(objects.len() == 53 && names.len() == 53, "{names:?}");
    for name in ["lock/a", "lock/b/c", "lock/many-49", "semaphore/api"] {
        ensure!(
            names.contains(&format!("{namespace}/{name}")),
            "{name}: {names:?}"
        );
    }
    for lease in leases {
        lease.release().await?;
    }
    ensure!(
        client.control().objects(namespace).await?.is_empty(),
        "something is left"
    );
    Ok(())
}

async fn servers(control: &Control, number: usize) -> Result {
    let servers = control.server_fields().await?;
    ensure!(servers.len() == number, "{servers:?}");
    for server in servers {
        ensure!(
            server.fields?.contains_key("maxmemory_policy"),
            "{}",
            server.server
        );
    }
    Ok(())
}

#[tokio::test]
async fn all_objects_and_servers_are_listed() -> Result {
    let redis = Redis::start().await?;
    let cluster = Cluster::builder().no_replicas().start().await?;
    for (url, number) in [(redis.url(), 1), (cluster.url(), 3)] {
        let namespace = unique("listing");
        let connect = async |namespace: &str| Client::builder(&url).namespace(namespace).connect().await;
        let (client, other) = (
            connect(&namespace).await?,
            connect(&format!("{namespace}-b")).await?,
        );
        lists(&client, &other, &namespace).await?;
        servers(&client.control(), number).await?;
    }
    Ok(())
}

#[tokio::test]
async fn the_requests_of_waiters_are_those_that_they_made() -> Result {
    let namespace = unique("requests");
    let url = Redis::shared().await?.url();
    let client = Client::builder(url).namespace(&namespace).connect().await?;
    let seats = client.lock_pool("seats")?;
    let resources = ["a", "b"].map(|name| Resource::new(name).property("zone", "x y"));
    seats.extend(resources).await?;
    let all = seats.clone().named(["a", "b"])?.acquire().await?;
    let requests = [
        seats.clone(),
        seats.clone().named(["b"])?,
        seats.clone().matching([("zone", "x y")])?,
    ];
    let waiting: Vec<_> = requests
        .into_iter()
        .map(|pool| tokio::spawn(async move { pool.acquire().await }))
        .collect();
    let object = ObjectRef::new(Kind::Pool, &namespace, "seats")?;
    let control = client.control();
    let seen = eventually("the queue", SOON, async || {
        let seen = control.look(&object, 10).await?.context("no pool")?;
        ensure!(seen.waiting == 3, "{} wait", seen.waiting);
        Ok(seen)
    })
    .await?;
    let requests = control.requests(&object, 10).await?;
    ensure!(requests.len() == 2, "{requests:?}");
    ensure!(
        requests
            .keys()
            .all(|token| seen.waiters.iter().any(|waiter| waiter.token == *token)),
        "{seen:?}"
    );
    let is_one = |name: &str| requests.values().any(|request| request.resources == [name]);
    ensure!(is_one("b"), "{requests:?}");
    ensure!(
        requests
            .values()
            .any(|request| request.properties.get("zone").is_some_and(|zone| zone == "x y")),
        "{requests:?}"
    );
    for task in waiting {
        task.abort();
    }
    all.release().await?;
    Ok(())
}
