//! A rolling upgrade: on one server, objects that clients of another version have made.

use std::time::Duration;

use tenure::{Error, LeaseState, Options};
use tenure_tests::{Redis, Result, bail, ensure};
use tokio::time::sleep;

use super::support::{SOON, World, got};

const ACQUIRE: &str = include_str!("../../../lua/dist/acquire.lua");

/// The script that acquires, of the last release with protocol 1. `conformance/upgrade.json` has the other scripts.
const OLD: &str = include_str!("../../../lib/testdata/protocol-1/acquire.lua");

/// The script that acquires, of a protocol that is to come.
fn newer() -> String {
    ACQUIRE
        .replace("local PROTOCOL = 2\n", "local PROTOCOL = 3\n")
        .replace("== '2 '", "== '3 '")
        .replace("'v2 ", "'v3 ")
        .replace("'^v2 ", "'^v3 ")
}

#[tokio::test]
async fn an_object_of_a_newer_version_is_named_with_the_side_to_upgrade_and_others_go_on() -> Result {
    let redis = Redis::start().await?;
    let world = World::on(&redis, "versions");
    let client = world.client().await?;
    let short = Options::new().lease(Duration::from_secs(2));
    let ours = client.lock("ours")?.with(short).acquire().await?;
    // One lies alone, as one lease does, and one in a hash.
    for (name, tokens) in [("alone", 1), ("hash", 2)] {
        let lock = client.lock(name)?;
        let key = format!("tenure:{{{}}}:obj", lock.object());
        let script = newer();
        for token in &["a", "b"][..tokens] {
            let arguments = ["3 run", token, "60000 1 1 60000 c {}"];
            let command = [&["EVAL", &script, "1", &key][..], &arguments].concat();
            redis.cli(&command).await?;
        }
        let before = redis.cli(&["DUMP", &key]).await?;
        for error in [
            lock.try_acquire().await.err(),
            lock.is_locked().await.err(),
            client.control().observe(lock.object(), 1).await.err(),
        ] {
            let Some(error) = error else {
                bail!("{name}: it is read")
            };
            ensure!(
                matches!(error, Error::VersionMismatch { written: 3, .. })
                    && error.to_string().contains("upgrade the client"),
                "{name}: {error}"
            );
        }
        ensure!(
            before == redis.cli(&["DUMP", &key]).await?,
            "{name}: it is changed"
        );
    }
    sleep(Duration::from_secs(3)).await;
    ensure!(ours.state() == LeaseState::Held, "{ours:?}");
    Ok(())
}

#[tokio::test]
async fn a_lock_that_an_older_client_holds_is_waited_for_and_then_refused_to_older_clients() -> Result {
    let redis = Redis::shared().await?;
    let world = World::on(redis, "upgrade");
    let client = world.client().await?;
    let lock = client.lock("x")?;
    let parts = ["obj", "holders", "queue", "expiry", "waits"];
    let keys = parts.map(|part| format!("tenure:{{{}}}:{part}", lock.object()));
    let old_client = async |token: &str| {
        let keys = keys.each_ref().map(String::as_str);
        let channels = ["run", "1@tenure:events", "lock"];
        let request = [token, "1", "1000", "0", "1", "0", "tenure:client:old", "{}"];
        let command = [&["EVAL", OLD, "5"], &keys[..], &channels, &request].concat();
        redis.cli(&command).await
    };
    let granted = old_client("a").await?;
    ensure!(granted.starts_with("granted"), "{granted}");
    ensure!(lock.try_acquire().await?.is_none(), "it is held");
    let lease = got(lock.acquire_timeout(SOON).await?)?;
    let Err(error) = old_client("b").await else {
        bail!("an older client reads the newer lease")
    };
    let error = format!("{error:#}");
    ensure!(error.contains("VERSION") && error.contains(" 2 1"), "{error}");
    lease.release().await?;
    let granted = old_client("b").await?;
    ensure!(granted.starts_with("granted"), "{granted}");
    Ok(())
}
