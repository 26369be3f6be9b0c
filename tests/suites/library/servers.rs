//! Servers that are not as they should be, or not the usual ones: full, evicting, read-only, without RESP3; Valkey.

use std::time::Duration;

use tenure::{Client, Error, Kind, LeaseState, Options, control::Server};
use tenure_tests::{Context, Redis, Result, ensure, eventually};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::support::{SOON, World, gone, got, look, named, waiting};

/// docs/protocol.md#oom-1: the rest is refused.
#[tokio::test]
async fn a_full_server_refuses_new_leases_and_serves_those_that_there_are() -> Result {
    let redis = Redis::start().await?;
    let world = World::on(&redis, "full");
    let client = world.client().await?;
    let lease = client.lock("x")?.acquire().await?;
    let writing = client.rw_lock("y")?.write().await?;
    let lock = world.client().await?.lock("x")?;
    let next = tokio::spawn(async move { lock.acquire().await });
    waiting(&client, lease.object(), 1).await?;
    redis.cli(&["CONFIG", "SET", "maxmemory", "1"]).await?;
    let error = client.lock("z")?.acquire().await.unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    assert!(error.to_string().contains("OOM"), "{error}");
    lease.renew().await?;
    writing.downgrade().await?.release().await?;
    // The handoff too: the waiter was there before.
    lease.release().await?;
    tokio::time::timeout(SOON, next).await???.release().await?;
    redis.cli(&["CONFIG", "SET", "maxmemory", "0"]).await?;
    client.lock("z")?.acquire().await?.release().await?;
    gone(&client, &world.object(Kind::Lock, "x")?).await
}

/// Not supported, and the client warns of it when it connects. Effect: the lease is gone, and its holder is notified.
#[tokio::test]
async fn an_evicted_lease_is_lost_and_its_holder_is_notified() -> Result {
    let redis = Redis::builder()
        .args(&["--maxmemory-policy", "allkeys-lru"])
        .start()
        .await?;
    let world = World::on(&redis, "evicted");
    let client = world.client().await?;
    let options = Options::new().lease(Duration::from_secs(2));
    let lease = client.lock("x")?.with(options).acquire().await?;
    redis.cli(&["CONFIG", "SET", "maxmemory", "1"]).await?;
    tokio::time::timeout(SOON, lease.lost()).await?;
    redis.cli(&["CONFIG", "SET", "maxmemory", "0"]).await?;
    let next = client.lock("x")?.acquire().await?;
    ensure!(
        next.fencing_token() > lease.fencing_token(),
        "{next:?} after {lease:?}"
    );
    Ok(())
}

#[tokio::test]
async fn a_replica_is_named_as_such_and_waited_for() -> Result {
    let master = Redis::start().await?;
    let replica = Redis::builder().replica_of(&master).start().await?;
    let world = World::on(&replica, "replica");
    let builder = world.builder();
    let impatient = builder.clone().connect_timeout(Duration::from_millis(300));
    let error = impatient.connect().await.unwrap_err();
    ensure!(
        error.is_unreachable() && error.to_string().contains("replica"),
        "{error}"
    );

    let patient = tokio::spawn(async move { builder.connect().await });
    replica.cli(&["REPLICAOF", "NO", "ONE"]).await?;
    let client = patient.await??;
    let lease = client
        .lock("x")?
        .with(Options::new().lease(Duration::from_secs(15)))
        .acquire()
        .await?;
    // Demoted while we hold, as by an operator's mistake: the data stays, as the link to the master is dead.
    replica.cli(&["REPLICAOF", "127.0.0.1", "1"]).await?;
    let error = client
        .lock("y")?
        .acquire_timeout(Duration::from_millis(500))
        .await
        .unwrap_err();
    ensure!(
        error.is_unreachable() && error.to_string().contains("replica"),
        "{error}"
    );
    let server = client.control().server();
    let told =
        matches!(&server, Server::Disconnected { error, transient: true } if error.contains("replica"));
    ensure!(told, "{server:?}");
    lease.check()?;
    replica.cli(&["REPLICAOF", "NO", "ONE"]).await?;
    eventually("the lease to be renewed", SOON, async || {
        lease.renew().await?;
        ensure!(lease.state() == LeaseState::Held, "{lease:?}");
        Ok(())
    })
    .await?;
    lease.release().await?;
    client.lock("y")?.acquire().await?.release().await?;
    Ok(())
}

/// A server that refuses to speak RESP3, as very old ones and some proxies do: such a one cannot be installed here.
#[tokio::test]
async fn a_server_without_resp3_is_named() -> Result {
    for refusal in [
        "-ERR unknown command `HELLO`, with args beginning with: `3`, \r\n",
        "-ERR unknown command 'HELLO', with args beginning with: '3' \r\n",
        "-NOPROTO unsupported protocol version\r\n",
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("redis://{}", listener.local_addr()?);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 4096];
                while stream.read(&mut request).await.is_ok_and(|read| read > 0) {
                    if stream.write_all(refusal.as_bytes()).await.is_err() {
                        break;
                    }
                }
            }
        });
        let error = Client::builder(&url)
            .connect_timeout(Duration::from_secs(2))
            .connect()
            .await
            .unwrap_err();
        ensure!(
            matches!(error, Error::UnsupportedServer { .. }),
            "{refusal}: {error:?}"
        );
        ensure!(error.to_string().contains("RESP3"), "{error}");
    }
    Ok(())
}

/// A part of every promise on Valkey. `make matrix` runs the library's suites on it.
#[tokio::test]
async fn valkey_does_what_redis_does() -> Result {
    let valkey = Redis::builder().valkey().start().await?;
    let world = World::on(&valkey, "valkey");
    let server = world.client().await?.control().server();
    ensure!(
        matches!(&server, Server::Connected { version, .. } if version.starts_with("Valkey ")),
        "{server:?}"
    );
    a_part_of_every_promise(&valkey, &world).await
}

pub(crate) async fn a_part_of_every_promise(redis: &Redis, world: &World) -> Result {
    let client = world.client().await?;
    // Handoff by push, in turn.
    let gate = client.lock("x")?.acquire().await?;
    let mut waits = Vec::new();
    for i in 0..5 {
        let lock = world.client().await?.lock("x")?;
        waits.push(tokio::spawn(async move {
            let lease = lock.acquire().await?;
            let fence = lease.fencing_token();
            lease.release().await.map(|()| fence)
        }));
        waiting(&client, gate.object(), i + 1).await?;
    }
    let mut newest = gate.fencing_token();
    gate.release().await?;
    for wait in waits {
        let fence = tokio::time::timeout(SOON, wait).await???;
        ensure!(fence > newest, "{fence} after {newest}");
        newest = fence;
    }
    // Conditions and read-write locks.
    let lock = client.lock("x")?;
    let (lease, woken) = lock
        .condvar("changed")?
        .wait_timeout(lock.acquire().await?, Duration::from_millis(50))
        .await?;
    ensure!(!woken, "woken without a notification");
    lease.release().await?;
    client
        .rw_lock("y")?
        .write()
        .await?
        .downgrade()
        .await?
        .release()
        .await?;
    // Declared objects, and the loss of all data.
    world.declare_semaphore(&client, "x", 2).await?;
    client.semaphore("x")?.acquire_many(2).await?.release().await?;
    let object = world.object(Kind::Pool, "x")?;
    let declared = tenure::control::Declaration {
        lease: Duration::from_secs(2),
        ..super::support::declaration(named(&["a", "b"]))
    };
    client.control().declare(&object, &declared).await?;
    let seat = client.lock_pool("x")?.acquire().await?;
    redis.cli(&["FLUSHALL"]).await?;
    let again = tenure::control::Declaration {
        recovery: Some(Duration::ZERO),
        floor: seat.fencing_token() + 1000,
        ..declared
    };
    ensure!(
        client.control().declare(&object, &again).await?,
        "it has to recover"
    );
    eventually("the holder to be let in again", SOON, async || {
        ensure!(look(&client, &object).await?.held == 1, "not yet");
        Ok(())
    })
    .await?;
    let other = got(client.lock_pool("x")?.acquire_timeout(SOON).await?)?;
    ensure!(other.resource() != seat.resource(), "granted twice");
    // A broken connection.
    redis.cli(&["CLIENT", "KILL", "TYPE", "pubsub"]).await?;
    other.release().await?;
    seat.release().await.context("its seat was kept")?;
    Ok(())
}
