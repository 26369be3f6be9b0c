//! Promise 5: fencing tokens strictly grow. For declared objects from the floor that is kept outside of Redis, for others
//! by the server's clock.

use tenure::control::Capacity;
use tenure_tests::{Redis, Result};

use super::support::{World, declaration, got, look};

#[tokio::test]
async fn a_lock_that_nobody_keeps_still_counts_on() -> Result {
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
async fn a_declared_object_counts_on_from_its_floor_whatever_redis_forgot() -> Result {
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
