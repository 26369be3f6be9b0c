//! The read-write lock: many readers or one writer, first come, first served, neither starves.

use tenure::Kind;
use tenure_tests::{Result, ensure, eventually};

use super::support::{SOON, World, gone, got, look, on_both, waiting};

async fn readers_share_and_a_writer_is_alone(world: World) -> Result {
    let (one, two) = (
        world.client().await?.rw_lock("x")?,
        world.client().await?.rw_lock("x")?,
    );
    let first = one.read().await?;
    let second = got(two.try_read().await?)?;
    assert!(two.try_write().await?.is_none());
    first.release().await?;
    assert!(two.try_write().await?.is_none());
    second.release().await?;
    let writing = got(two.try_write().await?)?;
    assert!(one.try_read().await?.is_none() && one.try_write().await?.is_none());
    writing.release().await?;
    got(one.try_read().await?)?.release().await?;
    gone(&world.client().await?, one.object()).await
}

async fn a_waiting_writer_is_not_overtaken_and_the_readers_behind_it_come_in_together(
    world: World,
) -> Result {
    let client = world.client().await?;
    let lock = client.rw_lock("x")?;
    let object = world.object(Kind::RwLock, "x")?;
    let reading = lock.read().await?;
    let writer = lock.clone();
    let writer = tokio::spawn(async move { writer.write().await });
    waiting(&client, &object, 1).await?;
    assert!(lock.try_read().await?.is_none(), "a reader overtook the writer");
    let mut readers = Vec::new();
    for i in 0..3 {
        let reader = world.client().await?.rw_lock("x")?;
        readers.push(tokio::spawn(async move { reader.read().await }));
        waiting(&client, &object, 2 + i).await?;
    }
    reading.release().await?;
    let writing = writer.await??;
    assert_eq!(look(&client, &object).await?.waiting, 3);
    writing.release().await?;
    let mut leases = Vec::new();
    for reader in readers {
        leases.push(reader.await??);
    }
    assert_eq!(look(&client, &object).await?.held, 3);
    Ok(())
}

async fn a_writer_that_downgrades_lets_readers_in_and_no_writer_between(world: World) -> Result {
    let client = world.client().await?;
    let lock = client.rw_lock("x")?;
    let object = world.object(Kind::RwLock, "x")?;
    let writing = lock.write().await?;
    let fence = writing.fencing_token();
    let reader = world.client().await?.rw_lock("x")?;
    let reader = tokio::spawn(async move { reader.read().await });
    waiting(&client, &object, 1).await?;
    let writer = world.client().await?.rw_lock("x")?;
    let writer = tokio::spawn(async move { writer.write().await });
    waiting(&client, &object, 2).await?;
    let reading = writing.downgrade().await?;
    assert_eq!(reading.fencing_token(), fence);
    let other = reader.await??;
    assert!(!writer.is_finished());
    reading.release().await?;
    other.release().await?;
    writer.await??.release().await?;
    Ok(())
}

async fn a_downgrade_of_a_lost_lease_is_an_error(world: World) -> Result {
    let client = world.client().await?;
    let writing = client.rw_lock("x")?.write().await?;
    let object = world.object(Kind::RwLock, "x")?;
    let token = look(&client, &object).await?.holders[0].token.clone();
    client
        .control()
        .reclaim(&object, &[token], "for the test")
        .await?;
    eventually("the loss to be told", SOON, async || {
        ensure!(writing.check().is_err(), "not yet");
        Ok(())
    })
    .await?;
    let error = writing.downgrade().await.unwrap_err();
    assert!(error.to_string().contains("for the test"), "{error}");
    Ok(())
}

on_both! {
    readers_share_and_a_writer_is_alone,
    a_waiting_writer_is_not_overtaken_and_the_readers_behind_it_come_in_together,
    a_writer_that_downgrades_lets_readers_in_and_no_writer_between,
    a_downgrade_of_a_lost_lease_is_an_error,
}
