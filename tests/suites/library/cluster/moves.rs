//! Slots that move while their objects are held and waited for. Redis serves no script some of whose keys are elsewhere, so
//! that the objects of a slot on its way have to wait until it has arrived, unless all of an object's keys are at one
//! place.

use tenure::{
    LeaseState, Options, Semaphore,
    control::{Capacity, Declaration, Event},
};
use tenure_tests::{bail, eventually};

use super::*;
use crate::library::support::{declaration, handed_over, look, waiting};

/// Length of a lease, and of the waiter's queue entry.
const LEASE: Duration = Duration::from_secs(9);

async fn own() -> Result<Cluster> {
    Cluster::builder().no_replicas().start().await
}

/// Another master than the slot's.
async fn elsewhere(cluster: &Cluster, slot: u16) -> Result<usize> {
    Ok((cluster.owner(slot).await? + 1) % 3)
}

/// A semaphore, all four keys of which exist while it is held and waited for.
fn semaphore(client: &Client) -> Result<Semaphore> {
    let options = Options::new().lease(LEASE);
    Ok(client.semaphore("x")?.or_permits(1)?.with(options))
}

/// Number of such answers of a node.
async fn answers(cluster: &Cluster, index: usize, answer: &str) -> Result<u64> {
    let stats = cluster.node(index).cli(&["INFO", "errorstats"]).await?;
    let line = stats.lines().find_map(|line| {
        line.strip_prefix("errorstat_")?
            .strip_prefix(answer)?
            .strip_prefix(":count=")
    });
    Ok(line.map_or(Ok(0), |count| count.trim_end().parse())?)
}

#[tokio::test]
async fn a_semaphore_whose_keys_are_there_before_their_slot_is_asked_for_where_they_are() -> Result {
    let cluster = own().await?;
    let world = World::at(cluster.url(), "ask");
    let client = world.client().await?;
    let lease = semaphore(&client)?.acquire().await?;
    let other = semaphore(&world.client().await?)?;
    let waits = other.clone();
    let next = tokio::spawn(async move { waits.acquire().await });
    waiting(&client, lease.object(), 1).await?;

    let slot = slot(&cluster, lease.object()).await?;
    let from = cluster.owner(slot).await?;
    let mut moving = cluster
        .begin_move(&[slot], elsewhere(&cluster, slot).await?)
        .await?;
    let keys = moving.left().await?;
    ensure!(keys.len() == 4, "{keys:?}");
    moving.carry(&keys).await?;
    lease.renew().await?;
    ensure!(other.try_acquire().await?.is_none(), "held by two");
    let seen = look(&client, lease.object()).await?;
    ensure!(
        seen.holders[0].fence == lease.fencing_token() && seen.waiting == 1,
        "{seen:?}"
    );
    ensure!(
        answers(&cluster, from, "ASK").await? > 0,
        "no client was redirected"
    );
    moving.finish().await?;

    lease.renew().await?;
    ensure!(lease.state() == LeaseState::Held, "{lease:?}");
    let seen = look(&client, lease.object()).await?;
    ensure!(
        seen.holders[0].fence == lease.fencing_token() && seen.waiting == 1,
        "{seen:?}"
    );
    ensure!(!next.is_finished(), "held by two");
    // By push, from the other node: not when its queue entry is renewed.
    handed_over(lease, next, LEASE / 3).await?;
    Ok(())
}

/// docs/protocol.md#keys-3: the call waits for all keys.
#[tokio::test]
async fn a_semaphore_whose_keys_are_at_two_places_is_waited_for() -> Result {
    let cluster = own().await?;
    let world = World::at(cluster.url(), "try-again");
    let client = world.client().await?;
    let lease = Arc::new(semaphore(&client)?.acquire().await?);
    let other = semaphore(&world.client().await?)?;
    let waits = other.clone();
    let next = tokio::spawn(async move { waits.acquire().await });
    waiting(&client, lease.object(), 1).await?;

    let slot = slot(&cluster, lease.object()).await?;
    let from = cluster.owner(slot).await?;
    let mut moving = cluster
        .begin_move(&[slot], elsewhere(&cluster, slot).await?)
        .await?;
    let keys = moving.left().await?;
    moving.carry(&keys[..2]).await?;
    let renewed = lease.clone();
    let renewal = tokio::spawn(async move { renewed.renew().await });
    eventually("it to be tried again", SOON, async || {
        let tries = answers(&cluster, from, "TRYAGAIN").await?;
        ensure!(tries >= 3, "{tries} tries");
        Ok(())
    })
    .await?;
    // Its state is unknown: that is another answer than busy.
    let error = other
        .acquire_timeout(Duration::from_millis(300))
        .await
        .unwrap_err();
    ensure!(
        error.is_unreachable() && error.to_string().contains("rehashing of slot"),
        "{error}"
    );
    moving.finish().await?;
    timeout(SOON, renewal).await???;
    ensure!(lease.state() == LeaseState::Held, "{lease:?}");
    ensure!(!next.is_finished(), "held by two");
    let lease = Arc::into_inner(lease).unwrap();
    handed_over(lease, next, LEASE / 3).await?;
    Ok(())
}

/// An object that does not exist yet belongs to neither node while its slot migrates.
#[tokio::test]
async fn a_new_object_in_a_migrating_slot_is_made_after_the_migration() -> Result {
    let cluster = own().await?;
    let world = World::at(cluster.url(), "new");
    let client = world.client().await?;
    let (lock, register) = (client.lock("x")?, client.register("x")?);
    let objects = [lock.object().clone(), register.object().clone()];
    let mut moving = Vec::new();
    for object in &objects {
        let slot = slot(&cluster, object).await?;
        moving.push(
            cluster
                .begin_move(&[slot], elsewhere(&cluster, slot).await?)
                .await?,
        );
    }
    let acquired = tokio::spawn(async move { lock.acquire().await });
    let set = tokio::spawn(async move { register.set(1).await });
    eventually("both to be tried again", SOON, async || {
        let mut tries = 0;
        for index in 0..3 {
            tries += answers(&cluster, index, "TRYAGAIN").await?;
        }
        ensure!(tries >= 3, "{tries} tries");
        Ok(())
    })
    .await?;
    for moving in moving {
        moving.finish().await?;
    }
    timeout(SOON, set).await???;
    timeout(SOON, acquired).await???.release().await?;
    ensure!(client.register("x")?.get().await? == Some(1.into()), "not set");
    Ok(())
}

/// The run id of the new node is not the one that it was declared with: nothing new before it is declared again, as after
/// any loss that may have been.
#[tokio::test]
async fn a_declared_semaphore_keeps_its_holders_when_its_slot_moves() -> Result {
    let cluster = own().await?;
    let world = World::at(cluster.url(), "declared");
    let client = world.client().await?;
    let object = world.object(Kind::Semaphore, "x")?;
    let declared = Declaration {
        lease: Duration::from_secs(4),
        ..declaration(Capacity::Permits(2))
    };
    client.control().declare(&object, &declared).await?;
    let semaphore = client.semaphore("x")?;
    let lease = semaphore.acquire().await?;
    let slot = slot(&cluster, &object).await?;
    cluster.reshard(&[slot], elsewhere(&cluster, slot).await?).await?;
    lease.renew().await?;
    let again = Declaration {
        recovery: Some(Duration::ZERO),
        floor: lease.fencing_token() + 1000,
        ..declared
    };
    client.control().declare(&object, &again).await?;
    let next = got(semaphore.acquire_timeout(SOON).await?)?;
    ensure!(
        next.fencing_token() > again.floor,
        "{next:?} is below {}",
        again.floor
    );
    ensure!(semaphore.try_acquire().await?.is_none(), "more than two permits");
    let seen = look(&client, &object).await?;
    ensure!(
        seen.holders[0].fence == lease.fencing_token() && seen.held == 2,
        "{seen:?}"
    );
    lease.release().await?;
    next.release().await?;
    Ok(())
}

/// No two at once, no error, no client hangs, and waiters are notified by the new node.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_slots_of_a_master_move_away_while_locks_are_taken_and_given_back() -> Result {
    let cluster = own().await?;
    let world = World::at(cluster.url(), "all-slots");
    let names = names(&cluster, &world, Kind::Lock, 5).await?;
    let traffic = Traffic::start(&world, &[&names[0][..], &names[1][..]].concat(), 20).await?;
    traffic.rounds(100).await?;
    cluster.reshard_all(0, &[1, 2]).await?;
    ensure!(cluster.masters().await? == BTreeSet::from([1, 2]), "not moved");
    traffic.rounds(100).await?;
    // And back, into a node that had none.
    let slots = cluster.slots_of(1).await?;
    cluster.reshard(&slots[..slots.len() / 2], 0).await?;
    traffic.rounds(100).await?;
    traffic.end().await
}

/// The controller has to declare it at its new node, and would not observe an object that does not change.
#[tokio::test]
async fn the_controller_is_notified_of_a_declared_semaphore_that_has_moved_without_a_holder() -> Result {
    let cluster = own().await?;
    let world = World::at(cluster.url(), "moved-idle");
    let (client, controller) = (
        world.client().await?,
        world.builder().with_events().connect().await?,
    );
    let object = world.declare_semaphore(&client, "x", 1).await?;
    let mut events = controller.control().events()?;
    controller.control().observe(&object, 1).await?;
    let slot = slot(&cluster, &object).await?;
    cluster.reshard(&[slot], elsewhere(&cluster, slot).await?).await?;
    ensure!(
        client.semaphore("x")?.try_acquire().await?.is_none(),
        "granted by a server that may have lost leases"
    );
    let told = async {
        while let Some(event) = events.next().await {
            if event == Event::Changed(object.clone()) {
                return Ok(());
            }
        }
        bail!("no event")
    };
    timeout(SOON, told).await?
}
