//! Promise 7: retries are safe. Whatever is sent twice is done once.

use std::{sync::Arc, time::Duration};

use tenure::{Kind, Options};
use tenure_tests::{Redis, Result, ensure};
use tokio::sync::Mutex;

use super::support::{SOON, World, gone, got};

#[tokio::test]
async fn scripts_are_loaded_again_when_the_server_has_forgotten_them() -> Result {
    let redis = Redis::start().await?;
    let world = World::on(&redis, "script-flush");
    let client = world.client().await?;
    let options = Options::new().lease(Duration::from_millis(900));
    for _ in 0..5 {
        let lease = client.lock("x")?.with(options.clone()).acquire().await?;
        redis.cli(&["SCRIPT", "FLUSH"]).await?;
        let deadline = lease.deadline();
        tenure_tests::eventually("a renewal", SOON, async || {
            ensure!(lease.deadline() > deadline, "not yet");
            Ok(())
        })
        .await?;
        redis.cli(&["SCRIPT", "FLUSH"]).await?;
        lease.release().await?;
        redis.cli(&["SCRIPT", "FLUSH"]).await?;
    }
    gone(&client, &world.object(Kind::Lock, "x")?).await
}

/// Connections are cut at random while clients acquire and release: replies get lost after their scripts have run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_connections_neither_double_nor_lose_a_lease() -> Result {
    let redis = Arc::new(Redis::start().await?);
    let world = World::on(&redis, "cuts");
    let newest = Arc::new(Mutex::new(0));
    let mut tasks = Vec::new();
    for _ in 0..4 {
        let (lock, newest) = (world.client().await?.lock("x")?, newest.clone());
        tasks.push(tokio::spawn(async move {
            for _ in 0..50 {
                let lease = got(lock.acquire_timeout(SOON).await?)?;
                let mut newest = newest.try_lock()?; // fails when somebody else is in here
                ensure!(
                    lease.fencing_token() > *newest,
                    "{} after {newest}",
                    lease.fencing_token()
                );
                *newest = lease.fencing_token();
                drop(newest);
                lease.release().await?;
            }
            Ok(())
        }));
    }
    let cutter = {
        let redis = redis.clone();
        tokio::spawn(async move {
            let mut pause = tokio::time::interval(Duration::from_millis(110));
            while redis
                .cli(&["CLIENT", "KILL", "TYPE", "pubsub", "SKIPME", "yes"])
                .await
                .is_ok()
            {
                pause.tick().await;
            }
        })
    };
    for task in tasks {
        task.await??;
    }
    cutter.abort();
    gone(&world.client().await?, &world.object(Kind::Lock, "x")?).await
}
