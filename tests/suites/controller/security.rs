//! Redis over TLS, with an authority of one's own and a certificate to show.

use tenure_crds::Semaphore;
use tenure_tests::{Result, ensure, tls};

use super::support::{SOON, World, condition, expect, file};

#[tokio::test]
async fn a_redis_that_requires_a_certificate_gets_it_and_a_missing_one_is_reported() -> Result {
    let authority = tls::Authority::new()?;
    let (redis, port) = tls::redis(&authority).await?;
    let (certificate, key) = authority.sign("controller")?;
    let (_ca, ca) = file(&authority.pem())?;
    let (_certificate, certificate) = file(&certificate)?;
    let (_key, key) = file(&key)?;
    let url = format!("rediss://localhost:{port}");
    let args = [
        "--redis-url",
        &url,
        "--redis-ca-file",
        &ca,
        "--redis-client-cert-file",
        &certificate,
        "--redis-client-key-file",
        &key,
    ];
    let world = World::with("tls", redis, &args).await?;
    world.semaphore("calls", 2, "").await?;
    // Holders of this test come without TLS, by the server's other port.
    let client = world.client("holder").await?;
    let lease = client.semaphore("calls")?.acquire().await?;
    let held = world.until::<Semaphore>("calls", "held", SOON, |s| {
        let holders = s.status.as_ref().map_or(0, |status| status.holders.len());
        ensure!(holders == 1, "{holders} hold");
        Ok(())
    });
    held.await?;
    lease.release().await?;
    Ok(())
}

#[tokio::test]
async fn a_redis_of_an_unknown_authority_is_not_talked_to() -> Result {
    let (theirs, ours) = (tls::Authority::new()?, tls::Authority::new()?);
    let (redis, port) = tls::redis(&theirs).await?;
    let (_ca, ca) = file(&ours.pem())?;
    let url = format!("rediss://localhost:{port}");
    let world = World::with(
        "tls-stranger",
        redis,
        &["--redis-url", &url, "--redis-ca-file", &ca],
    )
    .await?;
    world.apply_semaphore("calls", 2, "").await?;
    let away = world.until::<Semaphore>("calls", "cut off", SOON, |s| {
        expect(s, "BackendReachable", "False", "BackendUnreachable")
    });
    let message = condition(&away.await?, "BackendReachable")?.message;
    ensure!(message.contains(&port.to_string()), "{message}");
    Ok(())
}
