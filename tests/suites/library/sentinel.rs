//! Redis behind Sentinel: leases and waiters continue at the current master. Promises 2, 5, 6 and 9 over real failovers;
//! `fencing.rs` and `data_loss.rs` have the same on one server.

use std::{sync::Arc, time::Duration};

use tenure::{
    Client, Error, LeaseState, Options,
    control::{Capacity, Declaration},
};
use tenure_tests::{Result, Sentinel, ensure, eventually};
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};

use super::support::{SOON, World, declaration, got, handed_over, look, recovers_both, waiting};

mod sentinels;

/// Time limit: longer than it takes to find out that the master is dead, to agree on another, and to be informed of it.
const FAILED_OVER: Duration = Duration::from_secs(60);

/// A client that does not wait for long for a server that is paused.
async fn quick(world: &World) -> Result<Client> {
    world.client_with_timeout(Duration::from_millis(700)).await
}

#[tokio::test]
async fn a_lock_is_taken_renewed_and_given_back_at_the_master() -> Result {
    let sentinel = Sentinel::shared().await?;
    let world = World::at(sentinel.url(), "at-the-master");
    let client = world.client().await?;
    let short = Options::new().lease(Duration::from_secs(1));
    let lease = client.lock("x")?.with(short).acquire().await?;
    let first = lease.deadline();
    let lock = world.client().await?.lock("x")?;
    let next = tokio::spawn(async move { lock.acquire().await });
    waiting(&client, lease.object(), 1).await?;
    eventually("renewals beyond the first lease", SOON, async || {
        ensure!(lease.deadline() > first + Duration::from_secs(2), "not yet");
        Ok(())
    })
    .await?;
    let keys = format!("*{}*", world.namespace);
    ensure!(
        !sentinel.server(0).cli(&["KEYS", &keys]).await?.is_empty(),
        "not there"
    );
    handed_over(lease, next, SOON).await?;
    Ok(())
}

#[tokio::test]
async fn a_database_is_chosen_behind_the_service() -> Result {
    let sentinel = Sentinel::shared().await?;
    let world = World::at(sentinel.url(), "database");
    let here = world.client().await?.lock("x")?.acquire().await?;
    let url = format!("{}/3", sentinel.url());
    let other = Client::builder(&url)
        .namespace(&world.namespace)
        .connect()
        .await?;
    let there = got(other.lock("x")?.try_acquire().await?)?;
    let keyspace = sentinel.server(0).cli(&["INFO", "keyspace"]).await?;
    ensure!(keyspace.contains("db3:"), "{keyspace}");
    here.release().await?;
    there.release().await?;
    Ok(())
}

/// Leases that the replica has continue under the same fencing token, and the queue with it.
#[tokio::test]
async fn a_lease_and_its_queue_outlive_a_killed_master() -> Result {
    let mut sentinel = Sentinel::start().await?;
    let world = World::at(sentinel.url(), "killed-master");
    let client = world.client().await?;
    let lease = client.lock("x")?.acquire().await?;
    let lock = world.client().await?.lock("x")?;
    let next = tokio::spawn(async move { lock.acquire().await });
    waiting(&client, lease.object(), 1).await?;
    sentinel.replicated().await?;

    sentinel.kill9(0)?;
    sentinel.promoted(0).await?;
    eventually("a renewal at the new master", FAILED_OVER, async || {
        lease.renew().await?;
        ensure!(lease.state() == LeaseState::Held, "{lease:?}");
        Ok(())
    })
    .await?;
    let seen = look(&client, lease.object()).await?;
    ensure!(seen.holders[0].fence == lease.fencing_token(), "{seen:?}");
    ensure!(seen.waiting == 1 && !next.is_finished(), "{seen:?}");
    // The old master starts again, empty. Until it is reconfigured it considers itself master, and no client uses it.
    sentinel.start_again(0).await?;
    sentinel.demoted(0).await?;
    lease.renew().await?;
    ensure!(!next.is_finished(), "held by two");
    handed_over(lease, next, SOON).await?;
    Ok(())
}

/// Granted by a master whose replica receives it no more: the only server that knows the lease will be dead.
async fn cut_off(sentinel: &mut Sentinel) -> Result {
    sentinel.replicated().await?;
    sentinel.pause(1)?;
    sentinel
        .server(0)
        .cli(&["CLIENT", "KILL", "TYPE", "replica"])
        .await?;
    Ok(())
}

async fn kill_and_promote(sentinel: &mut Sentinel) -> Result {
    sentinel.kill9(0)?;
    sentinel.resume(1)?;
    ensure!(sentinel.promoted(0).await? == 1, "another one");
    Ok(())
}

/// Promises 5 and 9. An undeclared object has only the state of the replica.
#[tokio::test]
async fn a_lease_that_no_replica_had_is_reported_lost_and_fencing_tokens_keep_growing() -> Result {
    let mut sentinel = Sentinel::start().await?;
    let world = World::at(sentinel.url(), "unknown-lease");
    let client = world.client().await?;
    cut_off(&mut sentinel).await?;
    let lease = client.lock("x")?.acquire().await?;
    kill_and_promote(&mut sentinel).await?;
    let promoted = Instant::now();
    let cause = timeout(FAILED_OVER, lease.lost()).await?;
    // By the first renewal at the new master, and not by its end.
    ensure!(promoted.elapsed() < Duration::from_secs(15), "{cause}");
    let next = client.lock("x")?.acquire().await?;
    ensure!(
        next.fencing_token() > lease.fencing_token(),
        "{next:?} after {lease:?}"
    );
    Ok(())
}

/// Promise 6: exclusion of what is declared survives, also where the replica did not know of it.
#[tokio::test]
async fn a_declared_semaphore_readmits_only_its_holders() -> Result {
    let mut sentinel = Sentinel::start().await?;
    let world = World::at(sentinel.url(), "declared");
    let client = world.client().await?;
    let declared = Declaration {
        lease: Duration::from_secs(20),
        ..declaration(Capacity::Permits(2))
    };
    let object = world.object(tenure::Kind::Semaphore, "x")?;
    client.control().declare(&object, &declared).await?;
    let semaphore = client.semaphore("x")?;
    let known = semaphore.acquire().await?;
    cut_off(&mut sentinel).await?;
    let unknown = semaphore.acquire().await?;
    kill_and_promote(&mut sentinel).await?;

    let other = world.client().await?.semaphore("x")?;
    eventually("an answer of the new master", SOON, async || {
        ensure!(other.try_acquire().await?.is_none(), "granted twice");
        Ok(())
    })
    .await?;
    recovers_both(&client, declared, (known, unknown), &other, FAILED_OVER).await
}

/// Promise 2: no client hangs, and the order stays the same.
#[tokio::test]
async fn ten_waiters_get_their_turns_at_the_new_master() -> Result {
    let mut sentinel = Sentinel::builder().replicas(2).start().await?;
    let world = World::at(sentinel.url(), "ten-waiters");
    let client = world.client().await?;
    let gate = client.lock("x")?.acquire().await?;
    let turns = Arc::new(Mutex::new(Vec::new()));
    let mut waits = Vec::new();
    for i in 0..10_u64 {
        let (lock, turns) = (world.client().await?.lock("x")?, turns.clone());
        waits.push(tokio::spawn(async move {
            let lease = lock.acquire().await?;
            turns.lock().await.push((i, lease.fencing_token()));
            lease.release().await
        }));
        waiting(&client, gate.object(), i + 1).await?;
    }
    sentinel.replicated().await?;
    sentinel.kill9(0)?;
    sentinel.promoted(0).await?;
    let mut newest = gate.fencing_token();
    gate.release().await?;
    for wait in waits {
        timeout(FAILED_OVER, wait).await???;
    }
    let turns = turns.lock().await;
    for (place, &(i, fence)) in turns.iter().enumerate() {
        ensure!(i == place as u64 && fence > newest, "{turns:?}");
        newest = fence;
    }
    Ok(())
}

/// The old master keeps its connections, and answers READONLY to clients that stay connected.
#[tokio::test]
async fn a_master_that_has_become_a_replica_is_left_without_a_signal() -> Result {
    let sentinel = Sentinel::builder()
        .down_after(Duration::from_secs(15))
        .start()
        .await?;
    let world = World::at(sentinel.url(), "read-only");
    let client = world.client().await?;
    let lease = client.lock("x")?.acquire().await?;
    let lock = world.client().await?.lock("x")?;
    let next = tokio::spawn(async move { lock.acquire().await });
    waiting(&client, lease.object(), 1).await?;
    sentinel.replicated().await?;
    sentinel.swap(1).await?;
    let swapped = Instant::now();
    lease.renew().await?;
    client.lock("y")?.acquire().await?.release().await?;
    let took = swapped.elapsed();
    ensure!(took < Duration::from_secs(5), "it took {took:?}");
    ensure!(!next.is_finished(), "held by two");
    // Whose connection to the old master has nothing to send, and nothing to hear any more.
    handed_over(lease, next, SOON).await?;
    Ok(())
}

/// The Sentinels change the roles and close all connections to the old master.
#[tokio::test]
async fn a_handover_without_a_death_leads_to_the_new_master_at_once() -> Result {
    let sentinel = Sentinel::start().await?;
    let world = World::at(sentinel.url(), "handover");
    let client = world.client().await?;
    let lease = client.lock("x")?.acquire().await?;
    let mut tasks = Vec::new();
    let until = Arc::new(Mutex::new(false));
    for i in 0..10 {
        let (lock, until) = (client.lock(format!("y{}", i % 3))?, until.clone());
        tasks.push(tokio::spawn(async move {
            let mut newest = 0;
            while !*until.lock().await {
                let lease = got(lock.acquire_timeout(FAILED_OVER).await?)?;
                ensure!(lease.fencing_token() > newest, "{lease:?} after {newest}");
                newest = lease.fencing_token();
                match lease.release().await {
                    // The Sentinels wait for no replica to know what was granted last.
                    Ok(()) | Err(Error::Lost { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(())
        }));
    }
    sentinel.replicated().await?;
    sentinel.fail_over().await?;
    let promoted = Instant::now();
    lease.renew().await?;
    client.lock("z")?.acquire().await?.release().await?;
    let took = promoted.elapsed();
    ensure!(took < Duration::from_secs(5), "it took {took:?}");
    sentinel.demoted(0).await?;
    let seen = look(&client, lease.object()).await?;
    ensure!(seen.holders[0].fence == lease.fencing_token(), "{seen:?}");
    *until.lock().await = true;
    for task in tasks {
        timeout(SOON, task).await???;
    }
    // Back to the first one, which still has the old connections' other ends, if it has any.
    ensure!(sentinel.fail_over().await? == 0, "another one");
    eventually("the lease to be renewed", SOON, async || {
        Ok(lease.renew().await?)
    })
    .await?;
    lease.release().await?;
    Ok(())
}

/// Half-open connections: nothing is refused, and nothing is answered; and when the old master wakes up, it still takes
/// itself for one, with all that was sent to it meanwhile.
#[tokio::test]
async fn a_sleeping_master_is_left_and_does_no_harm_when_it_wakes_up() -> Result {
    let mut sentinel = Sentinel::start().await?;
    let world = World::at(sentinel.url(), "sleeping-master");
    let client = quick(&world).await?;
    let lease = client.lock("x")?.acquire().await?;
    let lock = quick(&world).await?.lock("x")?;
    let next = tokio::spawn(async move { lock.acquire().await });
    waiting(&client, lease.object(), 1).await?;
    sentinel.replicated().await?;

    sentinel.pause(0)?;
    sentinel.promoted(0).await?;
    eventually("a renewal at the new master", FAILED_OVER, async || {
        Ok(lease.renew().await?)
    })
    .await?;
    let seen = look(&client, lease.object()).await?;
    ensure!(seen.holders[0].fence == lease.fencing_token(), "{seen:?}");

    sentinel.resume(0)?;
    // A request at this time may be answered with either.
    let late = quick(&world).await?.lock("x")?;
    ensure!(late.try_acquire().await?.is_none(), "held by two");
    sentinel.demoted(0).await?;
    lease.renew().await?;
    ensure!(!next.is_finished(), "held by two");
    handed_over(lease, next, FAILED_OVER).await?;
    Ok(())
}
