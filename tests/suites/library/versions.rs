//! A rolling upgrade: on one server, objects that clients of another version have made.

use std::time::Duration;

use tenure::{Error, LeaseState, Options};
use tenure_tests::{Redis, Result, bail, ensure};
use tokio::time::sleep;

use super::support::World;

const ACQUIRE: &str = include_str!("../../../lua/dist/acquire.lua");

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
