//! Servers that change their roles: Sentinel and Redis Cluster.

use std::collections::BTreeSet;
use std::time::Duration;

use tenure_tests::cluster::MASTERS;
use tenure_tests::{Cluster, Context, Redis, Result, Sentinel, ensure, eventually};

use super::SOON;

#[tokio::test]
async fn sentinels_put_a_replica_in_the_place_of_a_dead_master() -> Result {
    let mut sentinel = Sentinel::builder().replicas(2).start().await?;
    assert_eq!(sentinel.master().await?, 0);
    sentinel.server(0).cli(&["SET", "key", "a"]).await?;
    sentinel.replicated().await?;
    sentinel.kill9(0)?;
    let new = sentinel.promoted(0).await?;
    assert_eq!(sentinel.server(new).cli(&["GET", "key"]).await?, "a\n");
    sentinel.start_again(0).await?;
    sentinel.demoted(0).await?;
    assert_eq!(sentinel.server(0).cli(&["GET", "key"]).await?, "a\n");
    Ok(())
}

#[tokio::test]
async fn sentinels_do_without_one_of_them_and_fail_over_on_request() -> Result {
    let mut sentinel = Sentinel::builder()
        .password("sesame")
        .sentinel_password("simsim")
        .start()
        .await?;
    sentinel.kill9_sentinel(0)?;
    let new = sentinel.fail_over().await?;
    assert_eq!(new, 1);
    sentinel.demoted(0).await?;
    // A master that only sleeps considers itself master until it is reconfigured.
    sentinel.pause(1)?;
    assert_eq!(sentinel.promoted(1).await?, 0);
    sentinel.resume(1)?;
    sentinel.demoted(1).await
}

async fn set(cluster: &Cluster, key: &str) -> Result<usize> {
    let owner = cluster.owner_of(key).await?;
    cluster.node(owner).cli(&["SET", key, key]).await?;
    Ok(owner)
}

#[tokio::test]
async fn a_cluster_serves_every_key_at_one_master() -> Result {
    let cluster = Cluster::shared().await?;
    assert_eq!(cluster.masters().await?, BTreeSet::from([0, 1, 2]));
    let mut owners = BTreeSet::new();
    for i in 0..50 {
        let key = format!("harness:{i}");
        let owner = set(cluster, &key).await?;
        assert_eq!(cluster.node(owner).cli(&["DEL", &key]).await?, "1\n");
        owners.insert(owner);
    }
    assert_eq!(owners.len(), MASTERS);
    assert_eq!(cluster.replica_of(1).await?, 4);
    assert!(
        cluster
            .url_of_all()
            .contains(&format!(",127.0.0.1:{}", cluster.node(5).port()))
    );
    Ok(())
}

#[tokio::test]
async fn a_replica_takes_over_from_a_dead_master_and_hands_back() -> Result {
    let mut cluster = Cluster::start().await?;
    let owner = set(&cluster, "key").await?;
    let replica = cluster.replica_of(owner).await?;
    cluster.replicated(owner).await?;
    cluster.kill9(owner)?;
    cluster.promoted(replica).await?;
    assert_eq!(cluster.owner_of("key").await?, replica);
    assert_eq!(cluster.node(replica).cli(&["GET", "key"]).await?, "key\n");
    cluster.start_again(owner).await?;
    cluster.demoted(owner).await?;
    assert_eq!(cluster.replica_of(replica).await?, owner);
    cluster.fail_over(owner).await?;
    assert_eq!(cluster.node(owner).cli(&["GET", "key"]).await?, "key\n");
    Ok(())
}

#[tokio::test]
async fn a_paused_master_comes_back_as_a_replica() -> Result {
    let mut cluster = Cluster::start().await?;
    let replica = cluster.replica_of(0).await?;
    cluster.pause(0)?;
    cluster.promoted(replica).await?;
    cluster.resume(0)?;
    cluster.demoted(0).await?;
    assert_eq!(cluster.replica_of(replica).await?, 0);
    Ok(())
}

#[tokio::test]
async fn slots_move_key_by_key_and_all_at_once() -> Result {
    let cluster = Cluster::builder().no_replicas().start().await?;
    let keys = ["{x}a".to_owned(), "{x}b".to_owned()];
    let from = set(&cluster, &keys[0]).await?;
    set(&cluster, &keys[1]).await?;
    let to = (from + 1) % MASTERS;
    let mut moved = cluster.begin_move(&[cluster.slot("x").await?], to).await?;
    assert_eq!(
        BTreeSet::from_iter(moved.left().await?),
        keys.iter().cloned().collect()
    );
    moved.carry(&keys[..1]).await?;
    assert_eq!(moved.left().await?, keys[1..]);
    for (command, answer) in [
        (&["GET", "{x}a"][..], "ASK"),
        (&["GET", "{x}b"], ""),
        (&["MGET", "{x}a", "{x}b"], "TRYAGAIN"),
    ] {
        let error = cluster.node(from).cli(command).await.err();
        let error = error.map(|error| format!("{error:#}")).unwrap_or_default();
        assert!(
            error.to_uppercase().replace(' ', "").contains(answer),
            "{command:?}: {error}"
        );
    }
    moved.finish().await?;
    cluster.settled().await?;
    assert_eq!(cluster.owner_of("{x}a").await?, to);
    assert_eq!(
        cluster.node(to).cli(&["MGET", "{x}a", "{x}b"]).await?,
        "{x}a\n{x}b\n"
    );

    let others: Vec<_> = (0..MASTERS).filter(|index| *index != to).collect();
    cluster.reshard_all(to, &others).await?;
    assert_eq!(cluster.masters().await?, others.iter().copied().collect());
    Ok(())
}

#[tokio::test]
async fn a_cluster_without_a_node_goes_down_or_continues_as_configured() -> Result {
    for partial in [false, true] {
        let builder = Cluster::builder()
            .no_replicas()
            .node_timeout(Duration::from_secs(1));
        let builder = if partial {
            builder.partial_coverage()
        } else {
            builder
        };
        let mut cluster = builder.start().await?;
        let owner = cluster.owner_of("key").await?;
        let gone = (owner + 1) % MASTERS;
        cluster.kill9(gone)?;
        eventually("the loss to be known", SOON, async || {
            let nodes = cluster.node(owner).cli(&["CLUSTER", "NODES"]).await?;
            let failed = nodes.lines().any(|line| line.contains("master,fail "));
            ensure!(failed, "{nodes}");
            let answer = cluster.node(owner).cli(&["SET", "key", "a"]).await;
            ensure!(answer.is_ok() == partial, "{answer:?}");
            Ok(())
        })
        .await?;
        cluster.start_again(gone).await?;
        cluster.settled().await?;
    }
    Ok(())
}

#[tokio::test]
async fn all_of_it_is_there_as_valkey() -> Result {
    let sentinel = Sentinel::builder().valkey().start().await?;
    let cluster = Cluster::builder().valkey().no_replicas().start().await?;
    for redis in [sentinel.server(1), &sentinel.sentinels()[2], cluster.node(2)] {
        let version: &Redis = redis;
        let about = version.cli(&["INFO", "server"]).await?;
        about
            .lines()
            .find(|line| line.starts_with("valkey_version:8"))
            .context(about.clone())?;
    }
    sentinel.fail_over().await?;
    cluster
        .reshard(&[cluster.slot("key").await?], 2)
        .await
        .or_else(|error| {
            ensure!(format!("{error:#}").contains("has them"), "{error:#}");
            Ok(())
        })
}
