//! A client that outlives the runtime in which it was made: every call fails at once, from any runtime.

use std::time::Duration;

use tenure::{Client, Error, Kind, LeaseState, Memory, Options, control::Declaration};
use tokio::{
    runtime::{Builder, Runtime},
    time::timeout,
};

use super::{Result, client, object, semaphore};

/// Much less than anything here would wait for otherwise.
const AT_ONCE: Duration = Duration::from_secs(5);

fn runtime() -> Result<Runtime> {
    Ok(Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?)
}

/// The call fails at once with the error that the client is closed.
async fn closed<T>(what: &str, call: impl Future<Output = std::result::Result<T, Error>>) -> Result {
    match timeout(AT_ONCE, call).await {
        Err(_) => Err(format!("{what} hangs").into()),
        Ok(Ok(_)) => Err(format!("{what} works").into()),
        Ok(Err(Error::Closed)) => Ok(()),
        Ok(Err(error)) => Err(format!("{what}: {error}").into()),
    }
}

async fn every_call(client: &Client) -> Result {
    let lock = client.lock("y")?;
    closed("acquire", lock.acquire()).await?;
    closed("acquire_timeout", lock.acquire_timeout(AT_ONCE * 2)).await?;
    closed("try_acquire", lock.try_acquire()).await?;
    closed("take_over", lock.take_over("why")).await?;
    closed("holder", lock.holder()).await?;
    closed("is_locked", lock.is_locked()).await?;
    closed("status", lock.status(AT_ONCE * 2)).await?;
    closed("reentrant", client.reentrant_lock("y")?.acquire()).await?;
    closed("keyed", client.keyed_lock("y", [("id", 1)])?.acquire()).await?;
    let many = client.lock_set([("y", [("id", 1)]), ("y", [("id", 2)])])?;
    closed("many", many.acquire()).await?;
    closed("many in time", many.acquire_timeout(AT_ONCE * 2)).await?;
    let rw = client.rw_lock("y")?;
    closed("read", rw.read()).await?;
    closed("write", rw.write()).await?;
    let semaphore_handle = client.semaphore("y")?;
    closed("permits", semaphore_handle.acquire_many(2)).await?;
    closed("available", semaphore_handle.available_permits()).await?;
    let pool = client.lock_pool("y")?;
    closed("resource", pool.acquire()).await?;
    closed("list", pool.list()).await?;
    closed("health", pool.health()).await?;
    closed("clear", pool.clear()).await?;
    let register = client.register("y")?;
    closed("get", register.get()).await?;
    closed("set", register.set(1)).await?;
    closed("advance", register.advance(1)).await?;
    let control = client.control();
    let y = object(Kind::Semaphore, "y")?;
    let declaration: Declaration = semaphore(1);
    closed("declare", control.declare(&y, &declaration)).await?;
    closed("look", control.look(&y, 1)).await?;
    closed("observe", control.observe(&y, 1)).await?;
    closed("reclaim", control.reclaim(&y, &["t".to_owned()], "why")).await?;
    closed("now", control.now_micros()).await?;
    Ok(())
}

#[test]
fn every_call_of_a_client_that_outlives_its_runtime_ends_at_once() -> Result {
    let memory = Memory::new();
    let (home, other) = (runtime()?, runtime()?);
    let (client, leases, events) = home.block_on(async {
        let client = memory.client().namespace("test").with_events().connect().await?;
        let mut leases = Vec::new();
        for name in ["x", "renewed", "released", "dropped"] {
            let options = Options::new().lease(Duration::from_secs(600));
            leases.push(client.lock(name)?.with(options).acquire().await?);
        }
        let events = client.control().events()?;
        Ok::<_, Error>((client, leases, events))
    })?;
    // They wait in the other runtime: in the queue, for a notification, and for an event.
    let waiting = client.lock("x")?;
    let waiting = other.spawn(async move { waiting.acquire().await });
    let mut events = events;
    let listening = other.spawn(async move { while events.next().await.is_some() {} });
    other.block_on(async {
        let observer = super::client(&memory, "observer").await?;
        timeout(AT_ONCE, async {
            loop {
                let snapshot = observer.control().look(&object(Kind::Lock, "x")?, 1).await?;
                if snapshot.is_some_and(|snapshot| snapshot.waiting == 1) {
                    return Result::Ok(());
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await?
    })?;
    drop(home);
    other.block_on(async {
        closed("a waiting acquire", async {
            waiting.await.unwrap_or(Err(Error::Closed))
        })
        .await?;
        timeout(AT_ONCE, listening).await??;
        every_call(&client).await?;
        let mut leases = leases.into_iter();
        let mut next = || leases.next().ok_or("no lease");
        let held = next()?;
        assert!(matches!(held.state(), LeaseState::Unsure { .. }), "{held:?}");
        held.check()?;
        closed("renew", next()?.renew()).await?;
        closed("release", next()?.release()).await?;
        drop(next()?);
        timeout(AT_ONCE, client.close()).await?;
        Ok(())
    })
}

/// Objects that were made in a runtime that has ended may be dropped anywhere, and at any time.
#[test]
fn nothing_panics_that_is_dropped_after_its_runtime() -> Result {
    let memory = Memory::new();
    for _ in 0..20 {
        let home = runtime()?;
        let (client, lease, wait) = home.block_on(async {
            let client = client(&memory, "a").await?;
            let lease = client.lock("x")?.acquire().await?;
            let lock = client.lock("x")?;
            let mut wait = Box::pin(async move { lock.acquire().await });
            assert!(timeout(Duration::from_millis(1), &mut wait).await.is_err());
            Result::Ok((client, lease, wait))
        })?;
        drop(home);
        drop(wait);
        drop(lease);
        drop(client);
        memory.flush_all();
    }
    Ok(())
}
