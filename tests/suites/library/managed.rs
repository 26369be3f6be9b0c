//! Services that refuse commands, as managed ones do: a strict proxy stands before the server. `TENURE_TEST_STRICT=1` puts it
//! before every server of all suites.

use std::time::{Duration, Instant};

use tenure::{Error, LeaseState, Options};
use tenure_tests::{Redis, Result, Strict, ensure, eventually};

use super::{
    servers::a_part_of_every_promise,
    support::{SOON, World, got},
};

#[tokio::test]
async fn what_the_library_does_without_may_be_refused() -> Result {
    let redis = Redis::start().await?;
    let (proxy, world) = World::on(&redis, "strict")
        .behind_strict_proxy(&redis, Strict::NEEDLESS)
        .await?;
    a_part_of_every_promise(&redis, &world).await?;
    // Each client has tried whether it may end a connection.
    ensure!(proxy.refused() > 0, "nothing was refused");
    Ok(())
}

#[tokio::test]
async fn what_it_cannot_do_without_is_named_at_connect_with_its_cost() -> Result {
    let redis = Redis::start().await?;
    for (strict, expected) in [
        (
            Strict {
                resp3: true,
                ..Strict::NOTHING
            },
            ["RESP3", "hears of grants"],
        ),
        (
            Strict {
                run_id: true,
                ..Strict::NOTHING
            },
            ["run_id", "granted a second time"],
        ),
    ] {
        let world = World::on(&redis, "missing");
        let (_proxy, far) = world.behind_strict_proxy(&redis, strict).await?;
        let error = far.builder().connect().await.unwrap_err();
        ensure!(matches!(error, Error::UnsupportedServer { .. }), "{error:?}");
        let text = error.to_string();
        ensure!(expected.iter().all(|part| text.contains(part)), "{text}");
    }
    Ok(())
}

#[tokio::test]
async fn a_call_with_too_many_keys_ends_with_the_reply_of_the_service() -> Result {
    let redis = Redis::start().await?;
    let strict = Strict {
        keys: Some(0),
        ..Strict::NOTHING
    };
    let (_proxy, far) = World::on(&redis, "keys")
        .behind_strict_proxy(&redis, strict)
        .await?;
    let error = far.client().await?.lock("x")?.acquire().await.unwrap_err();
    ensure!(matches!(error, Error::Refused { .. }), "{error:?}");
    ensure!(error.to_string().contains("MORE-THAN-0"), "{error}");
    Ok(())
}

/// The cost: the late copy of a request holds the object, until its lease expires.
#[tokio::test]
async fn without_client_kill_a_late_request_holds_no_longer_than_a_lease() -> Result {
    let redis = Redis::start().await?;
    let world = World::on(&redis, "no-kill");
    let strict = Strict {
        client_kill: true,
        ..Strict::NOTHING
    };
    let (proxy, far) = world.behind_strict_proxy(&redis, strict).await?;
    let client = far.client_with_timeout(Duration::from_millis(500)).await?;
    let short = Options::new().lease(Duration::from_secs(4));
    let lock = client.lock("x")?.with(short);
    got(lock.try_acquire().await?)?.release().await?;
    proxy.hold_back();
    // Sent once more over a new connection, as there is no answer.
    let lease = got(lock.acquire_timeout(SOON).await?)?;
    ensure!(lease.state() == LeaseState::Held, "{lease:?}");
    lease.release().await?;
    proxy.pass_on();
    let beside = world.client().await?.lock("x")?;
    eventually("the late copy to hold the lock", SOON, async || {
        ensure!(beside.is_locked().await?, "it is free");
        Ok(())
    })
    .await?;
    let begun = Instant::now();
    got(beside.acquire_timeout(SOON).await?)?.release().await?;
    ensure!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    Ok(())
}

#[tokio::test]
async fn a_missing_client_kill_is_logged_at_connect_with_its_cost() -> Result {
    let redis = Redis::start().await?;
    for client_kill in [true, false] {
        let world = World::on(&redis, "logged");
        let strict = Strict {
            client_kill,
            ..Strict::NOTHING
        };
        let (_proxy, far) = world.behind_strict_proxy(&redis, strict).await?;
        let worker = far.worker(&[])?;
        let lock = world.client().await?.lock("x")?;
        eventually("the worker to hold the lock", SOON, async || {
            ensure!(lock.is_locked().await?, "it is free: {}", worker.tail());
            Ok(())
        })
        .await?;
        let log = worker.output()? + &worker.log()?;
        let logged = log.contains("refuses CLIENT KILL") && log.contains("until that lease expires");
        ensure!(logged == client_kill, "{log}");
    }
    Ok(())
}
