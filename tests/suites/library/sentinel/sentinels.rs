//! The Sentinels themselves: dead, silent, behind the times, or asked for what they do not know.

use tenure_tests::{Redis, sent::Counter};

use super::*;

#[tokio::test]
async fn two_sentinels_of_three_are_enough() -> Result {
    let mut sentinel = Sentinel::start().await?;
    // The one that is asked first.
    sentinel.kill9_sentinel(0)?;
    let world = World::at(sentinel.url(), "two-sentinels");
    let lease = world.client().await?.lock("x")?.acquire().await?;
    sentinel.replicated().await?;
    sentinel.kill9(0)?;
    sentinel.promoted(0).await?;
    eventually("a renewal at the new master", FAILED_OVER, async || {
        Ok(lease.renew().await?)
    })
    .await?;
    lease.release().await?;
    Ok(())
}

#[tokio::test]
async fn a_sentinel_that_does_not_answer_is_passed_over() -> Result {
    let mut sentinel = Sentinel::start().await?;
    sentinel.pause_sentinel(0)?;
    let world = World::at(sentinel.url(), "silent-sentinel");
    let client = quick(&world).await?;
    client.lock("x")?.acquire().await?.release().await?;
    Ok(())
}

/// Cut off together with an old master, which still takes writes: a client that believed it would hold leases of others.
#[tokio::test]
async fn a_sentinel_that_was_cut_off_with_an_old_master_is_outvoted() -> Result {
    let sentinel = Sentinel::shared().await?;
    let old = Redis::start().await?;
    let stray = Sentinel::stray(&old).await?;
    let first = format!("redis+sentinel://127.0.0.1:{},", stray.port());
    let world = World::at(
        sentinel.url().replace("redis+sentinel://", &first),
        "cut-off-sentinel",
    );
    let mut counter = Counter::start(&old).await?;
    for i in 0..20 {
        let client = world.client().await?;
        client.lock(format!("x{i}"))?.acquire().await?.release().await?;
    }
    let sent = counter.take().await?;
    ensure!(!sent.contains_key("evalsha"), "the old one was used: {sent:?}");
    Ok(())
}

/// It names a dead server forever.
#[tokio::test]
async fn a_sentinel_that_names_a_dead_master_blocks_no_client() -> Result {
    let sentinel = Sentinel::shared().await?;
    let mut dead = Redis::start().await?;
    let stray = Sentinel::stray(&dead).await?;
    dead.kill9()?;
    let first = format!("redis+sentinel://127.0.0.1:{},", stray.port());
    let url = sentinel.url().replace("redis+sentinel://", &first);
    let client = World::at(url, "dead-master").client().await?;
    client.lock("x")?.acquire().await?.release().await?;
    Ok(())
}

#[tokio::test]
async fn without_sentinels_a_client_continues_and_a_new_one_names_those_that_do_not_answer() -> Result {
    let mut sentinel = Sentinel::start().await?;
    let world = World::at(sentinel.url(), "no-sentinels");
    let client = world.client().await?;
    let short = Options::new().lease(Duration::from_secs(1));
    let lease = client.lock("x")?.with(short).acquire().await?;
    for index in 0..3 {
        sentinel.kill9_sentinel(index)?;
    }
    let killed = lease.deadline();
    eventually("renewals beyond the lease", SOON, async || {
        ensure!(lease.deadline() > killed + Duration::from_secs(2), "not yet");
        Ok(())
    })
    .await?;
    lease.release().await?;
    client.lock("x")?.acquire().await?.release().await?;

    let impatient = world.builder().connect_timeout(Duration::from_secs(1));
    let asked = Instant::now();
    let error = impatient.connect().await.unwrap_err();
    ensure!(asked.elapsed() < Duration::from_secs(5), "{error}");
    ensure!(error.is_unreachable(), "{error:?}");
    for redis in sentinel.sentinels() {
        let address = format!("127.0.0.1:{}", redis.port());
        ensure!(error.to_string().contains(&address), "{error} has no {address}");
    }
    Ok(())
}

#[tokio::test]
async fn an_unknown_service_is_named() -> Result {
    let sentinel = Sentinel::shared().await?;
    let client = Client::builder(sentinel.url_of("no-such-service"));
    let error = client
        .connect_timeout(Duration::from_secs(1))
        .connect()
        .await
        .unwrap_err();
    ensure!(error.to_string().contains("no-such-service"), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_url_that_names_no_service_is_refused_without_its_password() -> Result {
    for url in [
        "redis+sentinel://:sesame@127.0.0.1",
        "redis+sentinel://:sesame@127.0.0.1/",
        "redis+sentinel://:sesame@/primary",
        "redis+sentinel://:sesame@127.0.0.1,/primary",
        "redis+sentinel://:sesame@127.0.0.1:none/primary",
        "redis+sentinel://:sesame@127.0.0.1/primary/first",
        "redis+sentinel://:sesame@127.0.0.1/primary/0/0",
    ] {
        let error = Client::connect(url).await.unwrap_err();
        ensure!(
            matches!(error, Error::InvalidInput { field: "url", .. }),
            "{url}: {error:?}"
        );
        ensure!(!error.to_string().contains("sesame"), "{error}");
    }
    Ok(())
}

#[tokio::test]
async fn the_servers_password_stands_in_the_url() -> Result {
    let sentinel = Sentinel::builder().password("sesame").start().await?;
    let world = World::at(sentinel.url(), "password");
    let client = world.client().await?;
    let lease = client.lock("x")?.acquire().await?;
    sentinel.fail_over().await?;
    lease.renew().await?;
    lease.release().await?;

    let wrong = sentinel.url().replace("sesame", "simsim");
    let error = Client::connect(&wrong).await.unwrap_err();
    let master = sentinel.master().await?;
    let address = format!("127.0.0.1:{}", sentinel.server(master).port());
    ensure!(matches!(error, Error::Authentication { .. }), "{error:?}");
    ensure!(error.to_string().contains(&address), "{error}");
    Ok(())
}

/// They guard themselves: with a password that is not the servers'.
#[tokio::test]
async fn the_sentinels_password_is_their_own() -> Result {
    let sentinel = Sentinel::builder()
        .password("sesame")
        .sentinel_password("simsim")
        .start()
        .await?;
    let world = World::at(sentinel.url(), "sentinel-password");
    let client = world
        .builder()
        .sentinel_credentials(None, "simsim")
        .connect()
        .await?;
    let lease = client.lock("x")?.acquire().await?;
    sentinel.fail_over().await?;
    lease.renew().await?;
    lease.release().await?;

    let without = world.builder();
    let wrong = world.builder().sentinel_credentials(None, "sesame");
    for builder in [without, wrong] {
        let error = builder.connect().await.unwrap_err();
        ensure!(matches!(error, Error::Authentication { .. }), "{error:?}");
        let named = sentinel.sentinels().iter().any(|redis| {
            let address = format!("127.0.0.1:{}", redis.port());
            error.to_string().contains(&address)
        });
        ensure!(named, "{error} names no Sentinel");
    }
    Ok(())
}
