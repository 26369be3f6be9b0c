//! `tenure doctor`.

use tenure::Kind;
use tenure_tests::{Redis, Result, ensure, redis::Persistence};

use super::{Bench, code, output, text};

#[tokio::test]
async fn a_sound_redis_has_no_problem() -> Result {
    let redis = Redis::builder().persistence(Persistence::Aof).start().await?;
    let bench = Bench::on(&redis).await?;
    let lease = bench.client.lock("x")?.acquire().await?;
    let ended = output(bench.tenure("doctor")?).await?;
    let shown = text(&ended.stdout);
    ensure!(code(&ended)? == 0 && !shown.contains("PROBLEM"), "{ended:?}");
    for part in ["master", "clocks", "may acquire", "1 of 1 are sound"] {
        ensure!(shown.contains(part), "{part}: {shown}");
    }
    lease.release().await?;
    Ok(())
}

#[tokio::test]
async fn problems_are_named_with_their_fix() -> Result {
    let args = ["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"];
    let redis = Redis::builder().args(&args).start().await?;
    let bench = Bench::on(&redis).await?;
    let object = bench.object(Kind::Lock, "damaged")?;
    let key = format!("tenure:{{{object}}}:obj");
    redis.cli(&["SET", &key, "no object"]).await?;
    let ended = output(bench.tenure("doctor --json")?).await?;
    let shown = text(&ended.stdout);
    ensure!(code(&ended)? == 70, "{ended:?}");
    for part in [
        "CONFIG SET maxmemory-policy noeviction",
        "CONFIG SET appendonly yes",
        "lock/damaged",
        "0 of 1 are sound",
    ] {
        ensure!(shown.contains(part), "{part}: {shown}");
    }
    Ok(())
}

#[tokio::test]
async fn without_a_connection_the_list_has_the_reason() -> Result {
    let bench = Bench::shared().await?;
    let mut nowhere = bench.tenure("doctor --connect-timeout 1s")?;
    nowhere.env("TENURE_REDIS_URL", "redis://127.0.0.1:1");
    let mut without_tls = bench.tenure("doctor --connect-timeout 2s")?;
    without_tls.env("TENURE_REDIS_URL", bench.url.replace("redis://", "rediss://"));
    for (command, part) in [
        (nowhere, "Connection refused"),
        (
            without_tls,
            "begins with rediss:// if Redis has TLS, and only then",
        ),
    ] {
        let ended = output(command).await?;
        let shown = text(&ended.stdout);
        ensure!(
            code(&ended)? == 74 && shown.starts_with("PROBLEM  connection: ") && shown.contains(part),
            "{part}: {ended:?}"
        );
    }
    Ok(())
}
