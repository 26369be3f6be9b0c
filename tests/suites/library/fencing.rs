//! Promise 5: fencing tokens strictly grow. For declared objects from the floor that is kept outside of Redis, for others
//! by the server's clock.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tenure::{
    Client, Kind, LeaseState, ObjectRef,
    control::{Capacity, Declaration, Kept, plan},
};
use tenure_tests::{Context, Proxy, Redis, Result, ensure, eventually, redis::Persistence};

use super::support::{SOON, World, declaration, got, look, named};

#[tokio::test]
async fn an_unheld_lock_still_counts_on() -> Result {
    let redis = Redis::start().await?;
    let client = World::on(&redis, "lock").client().await?;
    let lock = client.lock("x")?;
    let mut newest = 0;
    for round in 0..50 {
        if round % 10 == 9 {
            redis.cli(&["FLUSHALL"]).await?;
        }
        let lease = lock.acquire().await?;
        assert!(
            lease.fencing_token() > newest,
            "{} after {newest}",
            lease.fencing_token()
        );
        newest = lease.fencing_token();
        lease.release().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_declared_object_counts_on_from_its_floor_after_any_loss_of_data() -> Result {
    let redis = Redis::start().await?;
    let world = World::on(&redis, "floor");
    let client = world.client().await?;
    let object = world.declare_semaphore(&client, "x", 1).await?;
    let semaphore = client.semaphore("x")?;
    let first = semaphore.acquire().await?;
    assert_eq!(first.fencing_token(), 1001, "the first after the floor");
    first.release().await?;
    redis.cli(&["FLUSHALL"]).await?;
    let floor = 5_000_000_000;
    let declared = declaration(Capacity::Permits(1));
    // As new: no recovery, so that the next token can be seen at once.
    client
        .control()
        .declare(
            &object,
            &tenure::control::Declaration {
                floor,
                ..declared.clone()
            },
        )
        .await?;
    let lease = semaphore.acquire().await?;
    assert_eq!(lease.fencing_token(), floor + 1);
    lease.release().await?;
    // A floor that lags behind takes nothing back.
    client.control().declare(&object, &declared).await?;
    assert_eq!(look(&client, &object).await?.last_fence, floor + 1);
    assert_eq!(got(semaphore.try_acquire().await?)?.fencing_token(), floor + 2);
    Ok(())
}

/// State that a controller keeps of an object outside of Redis.
#[derive(Default)]
struct Floor(Option<Kept>);

impl Floor {
    async fn declare(&mut self, client: &Client, object: &ObjectRef, capacity: Capacity) -> Result<bool> {
        let (control, lease) = (client.control(), Duration::from_secs(2));
        let now = SystemTime::now();
        let seen = control
            .inspect(object, 10, self.0.map_or(0, |kept| kept.floor))
            .await?;
        let plan = plan(self.0.as_ref(), &seen, "another", lease, now);
        let plan = plan.context("nothing to be declared")?;
        self.0 = Some(Kept {
            floor: plan.floor,
            current_at: Some(plan.current_at),
            newest: 0,
            longest_lease: plan.longest_lease,
        });
        let declared = Declaration {
            floor: plan.floor,
            recovery: plan.declared_before.then_some(plan.longest_lease),
            lease,
            ..declaration(capacity)
        };
        Ok(control.declare_in(&seen.life, object, &declared).await?)
    }
}

#[tokio::test]
async fn a_failback_to_a_server_that_has_lived_on_is_a_loss() -> Result {
    let (first, second) = (Redis::start().await?, Redis::start().await?);
    let proxy = Proxy::start(first.port()).await?;
    let world = World::at(proxy.url(), "failback");
    let (holder, client) = (world.client().await?, world.client().await?);
    let object = world.object(Kind::Semaphore, "x")?;
    let (mut floor, one) = (Floor::default(), Capacity::Permits(1));
    floor.declare(&client, &object, one.clone()).await?;
    let knows = client.semaphore("x")?;
    knows.acquire().await?.release().await?;

    proxy.point_to(second.port());
    proxy.cut_all();
    ensure!(floor.declare(&client, &object, one.clone()).await?, "it recovers");
    knows.acquire().await?.release().await?;
    let held = holder.semaphore("x")?.acquire().await?;

    proxy.point_to(first.port());
    proxy.cut_all();
    // Also before the controller has looked, one who has seen a newer token is granted nothing.
    ensure!(knows.try_acquire().await?.is_none(), "granted beside {held:?}");
    ensure!(
        floor.declare(&client, &object, one).await?,
        "the data is older than the floor"
    );
    ensure!(
        client.semaphore("x")?.try_acquire().await?.is_none(),
        "granted beside {held:?}"
    );
    eventually("the holder to be let in again", SOON, async || {
        let seen = look(&client, &object).await?;
        let fences: Vec<_> = seen.holders.iter().map(|holder| holder.fence).collect();
        ensure!(
            fences == [held.fencing_token()] && held.state() == LeaseState::Held,
            "{seen:?} {held:?}"
        );
        Ok(())
    })
    .await?;
    let newest = held.fencing_token();
    held.release().await?;
    let next = client.semaphore("x")?.acquire().await?;
    ensure!(next.fencing_token() > newest, "{next:?} after {newest}");
    Ok(())
}

#[tokio::test]
async fn an_old_snapshot_restored_twice_takes_no_fencing_token_back() -> Result {
    let mut redis = Redis::builder().persistence(Persistence::Rdb).start().await?;
    let world = World::on(&redis, "snapshot");
    let client = world.client().await?;
    let object = world.object(Kind::Semaphore, "x")?;
    let semaphore = client.semaphore("x")?;
    let mut floor = Floor::default();
    floor.declare(&client, &object, Capacity::Permits(2)).await?;
    semaphore.acquire().await?.release().await?;
    redis.cli(&["SAVE"]).await?;
    let snapshot = std::fs::read(redis.data().join("dump.rdb"))?;
    // It is held all the time, and the snapshot does not know it.
    let kept = semaphore.acquire().await?;
    let mut newest = kept.fencing_token();
    for restored in 1..=2 {
        for _ in 0..20 {
            let lease = eventually("a permit", SOON, async || got(semaphore.try_acquire().await?)).await?;
            ensure!(
                lease.fencing_token() > newest,
                "{restored}: {lease:?} after {newest}"
            );
            newest = lease.fencing_token();
            lease.release().await?;
        }
        redis.kill9()?;
        std::fs::write(redis.data().join("dump.rdb"), &snapshot)?;
        redis.start_again().await?;
        eventually(
            "nothing to be granted before it is declared again",
            SOON,
            async || {
                ensure!(semaphore.try_acquire().await?.is_none(), "granted");
                Ok(())
            },
        )
        .await?;
        ensure!(
            floor.declare(&client, &object, Capacity::Permits(2)).await?,
            "it has to recover"
        );
        eventually("the holder to be let in again", SOON, async || {
            let held = look(&client, &object).await?;
            ensure!(
                held.held == 1 && kept.state() == LeaseState::Held,
                "{held:?} {kept:?}"
            );
            ensure!(held.holders[0].fence == kept.fencing_token(), "{held:?}");
            Ok(())
        })
        .await?;
    }
    let last = semaphore.acquire().await?;
    ensure!(last.fencing_token() > newest, "{last:?} after {newest}");
    ensure!(semaphore.try_acquire().await?.is_none(), "more than two permits");
    kept.release().await?;
    Ok(())
}

#[tokio::test]
async fn a_failover_to_a_lagging_replica_keeps_holders_and_fencing_tokens() -> Result {
    let mut master = Redis::start().await?;
    let replica = Redis::builder().replica_of(&master).start().await?;
    let proxy = Proxy::start(master.port()).await?;
    let world = World::at(proxy.url(), "failover");
    let (holder, client) = (world.client().await?, world.client().await?);
    let object = world.object(Kind::Pool, "x")?;
    let mut floor = Floor::default();
    floor.declare(&client, &object, named(&["a", "b", "c"])).await?;
    let known = holder.lock_pool("x")?.acquire().await?;
    eventually("the replica to have it", SOON, async || {
        let lag = redis::Client::open(master.url())?;
        let mut lag = lag.get_multiplexed_async_connection().await?;
        let synced: u64 = redis::cmd("WAIT").arg(1).arg(1000).query_async(&mut lag).await?;
        ensure!(synced == 1, "{synced} replicas");
        Ok(())
    })
    .await?;
    // It lags: what is granted from here on it will not know.
    replica.cli(&["REPLICAOF", "127.0.0.1", "1"]).await?;
    let unknown = holder.lock_pool("x")?.acquire().await?;
    let newest = unknown.fencing_token();
    client.lock_pool("x")?.acquire().await?.release().await?;

    master.kill9()?;
    replica.cli(&["REPLICAOF", "NO", "ONE"]).await?;
    proxy.point_to(replica.port());
    proxy.cut_all();
    ensure!(
        client.lock_pool("x")?.try_acquire().await?.is_none(),
        "granted before it is declared again"
    );
    ensure!(
        floor.declare(&client, &object, named(&["a", "b", "c"])).await?,
        "it has to recover"
    );
    eventually("both holders to be let in", SOON, async || {
        let seen = look(&client, &object).await?;
        let fences: Vec<_> = seen.holders.iter().map(|holder| holder.fence).collect();
        ensure!(fences == [known.fencing_token(), newest], "{seen:?}");
        ensure!(
            known.state() == LeaseState::Held && unknown.state() == LeaseState::Held,
            "{known:?} {unknown:?}"
        );
        Ok(())
    })
    .await?;
    let next = client.lock_pool("x")?.acquire().await?;
    ensure!(
        next.fencing_token() > newest + 1,
        "{} after {newest}",
        next.fencing_token()
    );
    let mut names = [known.resource(), unknown.resource(), next.resource()];
    names.sort_unstable();
    assert_eq!(names, ["a", "b", "c"]);
    ensure!(
        client.lock_pool("x")?.try_acquire().await?.is_none(),
        "granted twice"
    );
    Ok(())
}

/// An undeclared object counts on from the clock only, and loses leases that the replica did not have.
#[tokio::test]
async fn a_failover_loses_an_undeclared_lock_and_its_fencing_tokens_grow_on() -> Result {
    let mut master = Redis::start().await?;
    let replica = Redis::builder().replica_of(&master).start().await?;
    let proxy = Proxy::start(master.port()).await?;
    let world = World::at(proxy.url(), "failover-lock");
    let client = world.client().await?;
    replica.cli(&["REPLICAOF", "127.0.0.1", "1"]).await?;
    let lease = client.lock("x")?.acquire().await?;
    let granted = Instant::now();
    master.kill9()?;
    replica.cli(&["REPLICAOF", "NO", "ONE"]).await?;
    proxy.point_to(replica.port());
    proxy.cut_all();
    let cause = tokio::time::timeout(SOON, lease.lost()).await?;
    // Notified by the first renewal on the new master, not by the end of the lease.
    ensure!(granted.elapsed() < Duration::from_secs(10), "{cause}");
    let next = client.lock("x")?.acquire().await?;
    ensure!(
        next.fencing_token() > lease.fencing_token(),
        "{next:?} after {lease:?}"
    );
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros();
    ensure!(u128::from(next.fencing_token()) <= now, "it is not of the clock");
    Ok(())
}
