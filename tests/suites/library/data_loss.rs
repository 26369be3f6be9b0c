//! Promise 6: exclusion survives the loss of Redis' data for declared objects. Nothing new is granted for one lease, while
//! holders that renew with their token are readmitted under the same fencing token. And a restart with the data loses
//! nothing.

use std::time::Duration;

use tenure::{
    Kind, LeaseState, Options,
    control::{Capacity, Declaration},
};
use tenure_tests::{Redis, Result, ensure, eventually, redis::Persistence};

use super::support::{SOON, World, declaration, got, look, named, waiting};

fn again(capacity: Capacity) -> Declaration {
    Declaration {
        recovery: Some(Duration::ZERO),
        floor: 1_000_000,
        lease: Duration::from_secs(3),
        ..declaration(capacity)
    }
}

fn at_first(capacity: Capacity) -> Declaration {
    Declaration {
        lease: Duration::from_secs(3),
        ..declaration(capacity)
    }
}

#[tokio::test]
async fn known_holders_are_let_in_again_and_nothing_new_is_granted_meanwhile() -> Result {
    let redis = Redis::start().await?;
    let world = World::on(&redis, "flush");
    let client = world.client().await?;
    let control = client.control();
    let object = world.object(Kind::Pool, "x")?;
    control.declare(&object, &at_first(named(&["a", "b"]))).await?;
    let pool = client.lock_pool("x")?;
    let seat = pool.acquire().await?;
    redis.cli(&["FLUSHALL"]).await?;

    assert!(
        control.declare(&object, &again(named(&["a", "b"]))).await?,
        "it has to recover"
    );
    let other = world.client().await?.lock_pool("x")?;
    assert!(
        other.try_acquire().await?.is_none(),
        "granted, though its holder may be alive"
    );
    let next = tokio::spawn(async move { other.acquire().await });
    eventually("the holder to be let in again", SOON, async || {
        let snapshot = look(&client, &object).await?;
        ensure!(snapshot.held == 1, "{snapshot:?}");
        Ok(snapshot)
    })
    .await
    .map(|snapshot| {
        assert_eq!(snapshot.holders[0].fence, seat.fencing_token());
        assert_eq!(snapshot.holders[0].resources, [seat.resource()]);
        assert!(
            snapshot.recovering_until.is_some(),
            "and no new holder yet: {snapshot:?}"
        );
    })?;
    // When the recovery is over the free resource is granted, and not the held one.
    let next = next.await??;
    assert_ne!(next.resource(), seat.resource());
    assert!(next.fencing_token() > 1_000_000);
    assert_eq!(seat.state(), LeaseState::Held);
    assert!(look(&client, &object).await?.recovering_until.is_none());
    seat.release().await?;
    Ok(())
}

#[tokio::test]
async fn a_generated_resource_is_not_granted_twice_after_a_loss() -> Result {
    use tenure::control::Order;
    let redis = Redis::start().await?;
    let world = World::on(&redis, "generated");
    let client = world.client().await?;
    let object = world.object(Kind::Pool, "x")?;
    let seats = Capacity::Generated {
        order: Order::LeastRecentlyUsed,
        prefix: "s".into(),
        count: 3,
    };
    client
        .control()
        .declare(&object, &at_first(seats.clone()))
        .await?;
    let pool = client.lock_pool("x")?;
    let (_first, second) = (pool.acquire().await?.release().await?, pool.acquire().await?);
    redis.cli(&["FLUSHALL"]).await?;
    client.control().declare(&object, &again(seats)).await?;
    let (one, two) = (pool.acquire().await?, pool.acquire().await?);
    let mut names = [one.resource(), two.resource(), second.resource()];
    names.sort_unstable();
    assert_eq!(names, ["s0", "s1", "s2"]);
    assert!(pool.try_acquire().await?.is_none());
    second.release().await?;
    got(pool.try_acquire().await?)?.release().await?;
    Ok(())
}

#[tokio::test]
async fn a_killed_redis_that_kept_its_data_keeps_holders_and_waiters() -> Result {
    let mut redis = Redis::builder()
        .persistence(Persistence::Aof)
        .args(&["--appendfsync", "always"])
        .start()
        .await?;
    let world = World::on(&redis, "aof");
    let client = world.client().await?;
    let lease = client
        .lock("x")?
        .with(Options::new().lease(Duration::from_secs(20)))
        .acquire()
        .await?;
    let lock = world.client().await?.lock("x")?;
    let waiter = tokio::spawn(async move { lock.acquire().await });
    waiting(&client, &world.object(Kind::Lock, "x")?, 1).await?;
    redis.kill9()?;
    redis.start_again().await?;
    eventually("the lease to be held again", SOON, async || {
        let snapshot = look(&client, lease.object()).await?;
        ensure!(
            lease.state() == LeaseState::Held && snapshot.waiting == 1,
            "{:?} {snapshot:?}",
            lease.state()
        );
        ensure!(snapshot.holders[0].fence == lease.fencing_token(), "{snapshot:?}");
        Ok(())
    })
    .await?;
    assert!(world.client().await?.lock("x")?.try_acquire().await?.is_none());
    lease.release().await?;
    waiter.await??.release().await?;
    Ok(())
}

#[tokio::test]
async fn a_killed_redis_without_its_data_loses_undeclared_objects_and_reports_it() -> Result {
    let mut redis = Redis::start().await?;
    let world = World::on(&redis, "wiped");
    let client = world.client().await?;
    let lease = client
        .lock("x")?
        .with(Options::new().lease(Duration::from_secs(20)))
        .acquire()
        .await?;
    redis.kill9()?;
    redis.start_again().await?;
    let cause = tokio::time::timeout(SOON, lease.lost()).await?;
    assert!(lease.check().is_err(), "{cause}");
    let next = client.lock("x")?.acquire().await?;
    assert!(next.fencing_token() > lease.fencing_token());
    Ok(())
}

#[tokio::test]
async fn a_restart_grants_nothing_new_of_a_declared_object_before_it_is_declared_again() -> Result {
    let mut redis = Redis::builder().persistence(Persistence::Aof).start().await?;
    let world = World::on(&redis, "restart");
    let client = world.client().await?;
    let object = world.object(Kind::Semaphore, "x")?;
    client
        .control()
        .declare(&object, &at_first(Capacity::Permits(5)))
        .await?;
    let held = client.semaphore("x")?.acquire().await?;
    redis.kill9()?;
    redis.start_again().await?;
    // Its data may lack the last second: there may be leases that it does not know.
    assert!(client.semaphore("x")?.try_acquire().await?.is_none());
    assert!(
        client
            .control()
            .declare(&object, &again(Capacity::Permits(5)))
            .await?
    );
    assert!(client.semaphore("x")?.try_acquire().await?.is_none());
    let next = client.semaphore("x")?.acquire().await?;
    assert!(next.fencing_token() > 1_000_000);
    held.check()?;
    Ok(())
}
