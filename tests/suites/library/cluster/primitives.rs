//! Every primitive, once. On one server they have their own modules; here they have to find their nodes.

use tenure::{Compare, Outcome, RegisterValue, control::Event};
use tenure_tests::eventually;

use super::*;
use crate::library::support::{handed_over, look, waiting};

async fn world(test: &str) -> Result<World> {
    Ok(World::at(Cluster::shared().await?.url(), test))
}

#[tokio::test]
async fn a_lock_on_each_node_is_handed_to_its_waiter() -> Result {
    let world = world("lock").await?;
    let (client, other) = (world.client().await?, world.client().await?);
    for name in names(Cluster::shared().await?, &world, Kind::Lock, 2)
        .await?
        .concat()
    {
        let lease = client.lock(&name)?.acquire().await?;
        ensure!(other.lock(&name)?.try_acquire().await?.is_none(), "held by two");
        let lock = other.lock(&name)?;
        let next = tokio::spawn(async move { lock.acquire().await });
        waiting(&client, lease.object(), 1).await?;
        handed_over(lease, next, SOON).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_reentrant_lock() -> Result {
    let world = world("reentrant").await?;
    let client = world.client().await?;
    let owner = client.reentrant_lock("x")?;
    let (outer, inner) = (owner.acquire().await?, owner.acquire().await?);
    inner.release().await?;
    ensure!(
        client.lock("x")?.try_acquire().await?.is_none(),
        "given back early"
    );
    outer.release().await?;
    got(client.lock("x")?.try_acquire().await?)?.release().await?;
    Ok(())
}

#[tokio::test]
async fn a_read_write_lock() -> Result {
    let client = world("rw-lock").await?.client().await?;
    let index = client.rw_lock("x")?;
    let (one, other) = (index.read().await?, index.read().await?);
    ensure!(index.try_write().await?.is_none(), "written while it is read");
    one.release().await?;
    other.release().await?;
    index.write().await?.downgrade().await?.release().await?;
    Ok(())
}

#[tokio::test]
async fn a_semaphore_of_its_users_and_a_declared_one() -> Result {
    let world = world("semaphore").await?;
    let client = world.client().await?;
    let own = client.semaphore("own")?.or_permits(2)?;
    let lease = own.acquire_many(2).await?;
    ensure!(own.try_acquire().await?.is_none(), "more than two");
    lease.release().await?;

    world.declare_semaphore(&client, "declared", 3).await?;
    let declared = client.semaphore("declared")?;
    let lease = declared.acquire_many(2).await?;
    let permits = declared.available_permits().await?;
    ensure!((permits.available, permits.total) == (1, 3), "not one of three");
    lease.release().await?;
    Ok(())
}

#[tokio::test]
async fn a_condition() -> Result {
    let world = world("condition").await?;
    let lock = world.client().await?.lock("x")?;
    let condition = lock.condvar("changed")?;
    let waits = world.client().await?.lock("x")?;
    let lease = waits.acquire().await?;
    let woken = tokio::spawn(async move {
        let lease = waits.condvar("changed")?.wait(lease).await?;
        lease.release().await
    });
    // It waits when the lock can be had.
    let lease = lock.acquire().await?;
    ensure!(condition.notify_all(&lease).await? == 1, "there is no waiter");
    lease.release().await?;
    timeout(SOON, woken).await???;
    Ok(())
}

#[tokio::test]
async fn a_pool() -> Result {
    let world = world("pool").await?;
    let client = world.client().await?;
    let object = world.declare_pool(&client, "x", &["a", "b"]).await?;
    let pool = client.lock_pool("x")?;
    let (one, other) = (pool.acquire().await?, pool.acquire().await?);
    ensure!(one.resource() != other.resource(), "granted twice");
    ensure!(pool.try_acquire().await?.is_none(), "a third one");
    ensure!(look(&client, &object).await?.held == 2, "not two");
    one.release().await?;
    other.release().await?;
    Ok(())
}

/// Their locks lie at several nodes, so that no script sees all of them: no client may hold some and wait for others' in
/// another order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keyed_locks_of_several_nodes_are_held_together_or_not_at_all() -> Result {
    let world = world("lock-many").await?;
    let client = world.client().await?;
    let ids: Vec<i64> = (0..12).collect();
    let accounts = |ids: &[i64]| {
        ids.iter()
            .map(|id| ("account", [("id", *id)]))
            .collect::<Vec<_>>()
    };
    let mut at = BTreeSet::new();
    for id in &ids {
        let lock = client.keyed_lock("account", [("id", *id)])?;
        let cluster = Cluster::shared().await?;
        at.insert(cluster.owner(slot(cluster, lock.object()).await?).await?);
    }
    ensure!(at.len() == 3, "all of them at {at:?}");

    let one = client.keyed_lock("account", [("id", 7)])?.acquire().await?;
    ensure!(
        client.lock_set(accounts(&ids))?.try_acquire().await?.is_none(),
        "half of them"
    );
    let rest: Vec<_> = ids.iter().copied().filter(|id| *id != 7).collect();
    let all = got(client.lock_set(accounts(&rest))?.acquire_timeout(SOON).await?)?;
    all.release().await?;
    one.release().await?;

    let backwards: Vec<_> = ids.iter().copied().rev().collect();
    let mut tasks = Vec::new();
    for order in [ids, backwards] {
        let many = world.client().await?.lock_set(accounts(&order))?;
        tasks.push(tokio::spawn(async move {
            for _ in 0..10 {
                many.acquire().await?.release().await?;
            }
            Result::Ok(())
        }));
    }
    for task in tasks {
        timeout(FAILED_OVER, task).await???;
    }
    Ok(())
}

#[tokio::test]
async fn a_register() -> Result {
    let client = world("register").await?.client().await?;
    for i in 0..6 {
        let register = client.register(format!("x{i}"))?;
        register.set(1).await?;
        ensure!(
            register.set_if(Compare::gt(2), 2).await? == Outcome::Applied,
            "kept"
        );
        ensure!(register.get().await? == Some(RegisterValue::Int(2)), "not two");
        ensure!(register.delete().await?, "not there");
    }
    Ok(())
}

/// The calls of a controller, for objects of all nodes over one client: declare, watch, receive events, reclaim.
#[tokio::test]
async fn a_controller_hears_of_the_objects_of_all_nodes() -> Result {
    let world = world("controller").await?;
    let controller = world.builder().with_events().connect().await?;
    let control = controller.control();
    let mut events = control.events()?;
    let client = world.client().await?;
    ensure!(control.now_micros().await? > 0, "no time");
    let mut watched = BTreeSet::new();
    for name in names(Cluster::shared().await?, &world, Kind::Semaphore, 2)
        .await?
        .concat()
    {
        let object = world.declare_semaphore(&client, &name, 1).await?;
        control.observe(&object, 10).await?;
        watched.insert(object);
    }
    let mut leases = Vec::new();
    for object in &watched {
        leases.push(client.semaphore(object.name())?.acquire().await?);
    }
    let mut quiet = watched.clone();
    while !quiet.is_empty() {
        if let Some(Event::Changed(object)) = timeout(SOON, events.next()).await? {
            quiet.remove(&object);
        }
    }
    for (object, lease) in watched.iter().zip(leases) {
        let seen = look(&controller, object).await?;
        ensure!(seen.holders[0].fence == lease.fencing_token(), "{seen:?}");
        let tokens = [seen.holders[0].token.clone()];
        ensure!(
            control.reclaim(object, &tokens, "for the test").await? == 1,
            "not one"
        );
        eventually("the holder to be told", SOON, async || {
            ensure!(lease.check().is_err(), "{lease:?}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}
