//! Nodes that die, sleep and hand over.

use tenure::{
    Lease, LeaseState,
    control::{Capacity, Declaration},
};
use tenure_tests::eventually;
use tokio::time::Instant;

use super::*;
use crate::library::support::{declaration, look, recovers_both, waiting};

/// A client with a lease at each master, and a waiter for the one at the first.
struct Held {
    client: Client,
    leases: Vec<Lease>,
    next: JoinHandle<std::result::Result<Lease, tenure::Error>>,
    names: [Vec<String>; 3],
}

impl Held {
    async fn start(cluster: &Cluster, world: &World) -> Result<Self> {
        let quick = Duration::from_millis(700);
        let client = world.client_with_timeout(quick).await?;
        let names = names(cluster, world, Kind::Lock, 2).await?;
        let mut leases = Vec::new();
        for names in &names {
            leases.push(client.lock(&names[0])?.acquire().await?);
        }
        let lock = world.client_with_timeout(quick).await?.lock(&names[0][0])?;
        let next = tokio::spawn(async move { lock.acquire().await });
        waiting(&client, leases[0].object(), 1).await?;
        for master in 0..3 {
            cluster.replicated(master).await?;
        }
        Ok(Self {
            client,
            leases,
            next,
            names,
        })
    }

    /// Checks that all is as it was, at any nodes.
    async fn goes_on(&self) -> Result {
        for lease in &self.leases {
            eventually("a renewal", FAILED_OVER, async || Ok(lease.renew().await?)).await?;
            ensure!(lease.state() == LeaseState::Held, "{lease:?}");
            let seen = look(&self.client, lease.object()).await?;
            ensure!(seen.holders[0].fence == lease.fencing_token(), "{seen:?}");
        }
        ensure!(!self.next.is_finished(), "held by two");
        Ok(())
    }

    async fn end(mut self) -> Result {
        let lease = self.leases.remove(0);
        let fence = lease.fencing_token();
        lease.release().await?;
        let next = timeout(FAILED_OVER, self.next).await???;
        ensure!(next.fencing_token() > fence, "{next:?} after {fence}");
        next.release().await?;
        for lease in self.leases {
            lease.release().await?;
        }
        Ok(())
    }
}

/// Promise 5 too: leases that the replica has continue, and fencing tokens grow.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_masters_leases_go_on_at_its_replica_and_other_masters_work_meanwhile() -> Result {
    // Otherwise all nodes would report the cluster as down until the replica has taken over.
    let mut cluster = Cluster::builder().partial_coverage().start().await?;
    let world = World::at(cluster.url_of_all(), "killed-master");
    let held = Held::start(&cluster, &world).await?;
    let others = [held.names[1][1].clone(), held.names[2][1].clone()];
    let traffic = Traffic::start(&world, &others, 4).await?;
    traffic.rounds(20).await?;
    let replica = cluster.replica_of(0).await?;
    cluster.kill9(0)?;
    let killed = Instant::now();
    traffic.rounds(200).await?;
    let others_took = killed.elapsed();
    cluster.promoted(replica).await?;
    ensure!(
        others_took < killed.elapsed(),
        "the others have waited for the dead one, {others_took:?}"
    );
    held.goes_on().await?;
    // A new client finds the dead node first in its URL.
    let late = world.client().await?.lock(&held.names[0][0])?;
    ensure!(late.try_acquire().await?.is_none(), "held by two");
    traffic.end().await?;
    held.end().await
}

/// All nodes reply CLUSTERDOWN from when the death is known until the replica has taken over: an acquire waits for that.
#[tokio::test]
async fn a_cluster_that_is_down_for_a_while_is_waited_for() -> Result {
    let mut cluster = Cluster::start().await?;
    let world = World::at(cluster.url_of_all(), "down-for-a-while");
    let held = Held::start(&cluster, &world).await?;
    let (client, names) = (held.client.clone(), held.names.concat());
    let replica = cluster.replica_of(0).await?;
    cluster.kill9(0)?;
    let work = tokio::spawn(async move {
        for name in names.iter().skip(1).step_by(2) {
            got(client.lock(name)?.acquire_timeout(FAILED_OVER).await?)?
                .release()
                .await?;
        }
        Result::Ok(())
    });
    cluster.promoted(replica).await?;
    timeout(FAILED_OVER, work).await???;
    held.goes_on().await?;
    cluster.start_again(0).await?;
    cluster.demoted(0).await?;
    held.goes_on().await?;
    held.end().await
}

/// Nothing is lost in an orderly handover, so that no client may notice it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_orderly_handover_disturbs_no_client() -> Result {
    let cluster = Cluster::start().await?;
    let world = World::at(cluster.url(), "handover");
    let held = Held::start(&cluster, &world).await?;
    let names: Vec<_> = held.names.iter().map(|names| names[1].clone()).collect();
    let traffic = Traffic::start(&world, &names, 20).await?;
    traffic.rounds(100).await?;
    let replica = cluster.replica_of(0).await?;
    cluster.fail_over(replica).await?;
    traffic.rounds(100).await?;
    held.goes_on().await?;
    cluster.demoted(0).await?;
    cluster.fail_over(0).await?;
    traffic.rounds(100).await?;
    traffic.end().await?;
    held.goes_on().await?;
    held.end().await
}

/// Half-open connections to one of the nodes; and when it wakes up it is a master of the past.
#[tokio::test]
async fn a_sleeping_master_is_left_and_does_no_harm_when_it_wakes_up() -> Result {
    let mut cluster = Cluster::start().await?;
    let world = World::at(cluster.url(), "sleeping-master");
    let held = Held::start(&cluster, &world).await?;
    let replica = cluster.replica_of(0).await?;
    cluster.pause(0)?;
    cluster.promoted(replica).await?;
    held.goes_on().await?;
    cluster.resume(0)?;
    // A request at this time may be answered with either.
    let late = world.client_with_timeout(Duration::from_millis(700)).await?;
    let late = late.lock(&held.names[0][0])?.try_acquire().await?;
    ensure!(late.is_none(), "held by two");
    cluster.demoted(0).await?;
    held.goes_on().await?;
    held.end().await
}

/// Promise 6: the replica may not know the newest leases, so that nothing new is granted before it is declared again.
#[tokio::test]
async fn a_declared_semaphore_recovers_at_the_replica() -> Result {
    let mut cluster = Cluster::start().await?;
    let world = World::at(cluster.url_of_all(), "declared");
    let client = world.client().await?;
    let name = names(&cluster, &world, Kind::Semaphore, 1).await?[0][0].clone();
    let object = world.object(Kind::Semaphore, &name)?;
    let declared = Declaration {
        lease: Duration::from_secs(20),
        ..declaration(Capacity::Permits(2))
    };
    client.control().declare(&object, &declared).await?;
    let semaphore = client.semaphore(&name)?;
    let known = semaphore.acquire().await?;
    cluster.replicated(0).await?;
    // From here on the replica receives nothing.
    let replica = cluster.replica_of(0).await?;
    cluster.pause(replica)?;
    cluster
        .node(0)
        .cli(&["CLIENT", "KILL", "TYPE", "replica"])
        .await?;
    let unknown = semaphore.acquire().await?;
    cluster.kill9(0)?;
    cluster.resume(replica)?;
    cluster.promoted(replica).await?;

    let other = world.client().await?.semaphore(&name)?;
    ensure!(
        other.try_acquire().await?.is_none(),
        "granted before it is declared again"
    );
    recovers_both(&client, declared, (known, unknown), &other, FAILED_OVER).await
}

/// No replica takes over from the dead node: calls for unreachable objects fail in time, and calls for served ones continue
/// if they may.
#[tokio::test]
async fn an_unserved_object_is_unreachable_in_time() -> Result {
    const PATIENCE: Duration = Duration::from_secs(2);
    for partial in [false, true] {
        let builder = Cluster::builder().no_replicas();
        let builder = if partial {
            builder.partial_coverage()
        } else {
            builder
        };
        let mut cluster = builder.start().await?;
        let world = World::at(cluster.url_of_all(), "not-served");
        let client = world.client().await?;
        let names = names(&cluster, &world, Kind::Lock, 1).await?;
        let lease = client.lock(&names[1][0])?.acquire().await?;
        cluster.kill9(0)?;
        eventually("the loss to be known", SOON, async || {
            let nodes = cluster.node(1).cli(&["CLUSTER", "NODES"]).await?;
            ensure!(nodes.lines().any(|line| line.contains("master,fail ")), "{nodes}");
            Ok(())
        })
        .await?;
        let asked = Instant::now();
        let error = client
            .lock(&names[0][0])?
            .acquire_timeout(PATIENCE)
            .await
            .unwrap_err();
        ensure!(
            asked.elapsed() < 2 * PATIENCE,
            "{partial}: it took {:?}",
            asked.elapsed()
        );
        ensure!(error.is_unreachable(), "{partial}: {error:?}");
        let elsewhere = client.lock(&names[2][0])?.acquire_timeout(PATIENCE).await;
        if partial {
            got(elsewhere?)?.release().await?;
            lease.renew().await?;
            // A new client is content with what is served.
            let late = timeout(PATIENCE * 2, world.client()).await??;
            let at_live = late.lock(&names[2][0])?.acquire_timeout(PATIENCE).await?;
            got(at_live)?.release().await?;
            let server = late.control().server();
            let degraded = matches!(server, tenure::control::Server::Degraded { .. });
            ensure!(degraded, "{server:?}");
            for (names, reachable) in names.iter().zip([false, true, true]) {
                let server = late.control().server_of(&world.object(Kind::Lock, &names[0])?);
                let connected = matches!(server, tenure::control::Server::Connected { .. });
                ensure!(connected == reachable, "{names:?}: {server:?}");
            }
        } else {
            let error = elsewhere.unwrap_err();
            ensure!(
                error.is_unreachable() && error.to_string().contains("cluster is down"),
                "{error:?}"
            );
        }
        cluster.start_again(0).await?;
        cluster.settled().await?;
        for names in &names {
            let lock = client.lock(&names[0])?;
            if lock.object() != lease.object() {
                got(lock.acquire_timeout(FAILED_OVER).await?)?.release().await?;
            }
        }
        lease.release().await?;
    }
    Ok(())
}
