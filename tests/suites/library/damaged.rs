//! Overwritten keys: the error names their object, and no other object is affected.

use std::time::Duration;

use tenure::{Error, LeaseState, Options};
use tenure_tests::{Context, Redis, Result, ensure};
use tokio::time::{sleep, timeout};

use super::support::{SOON, World};

const LEASE: Duration = Duration::from_secs(2);

#[tokio::test]
async fn of_twenty_leases_the_one_whose_key_is_overwritten_is_lost_alone() -> Result {
    let redis = Redis::start().await?;
    for (part, command) in [
        ("obj", &["5"][..]),
        ("obj", &["HSET", "state", "many"]),
        ("holders", &["5"]),
        ("expiry", &["LPUSH", "a"]),
        ("entry", &["garbage"]),
    ] {
        let world = World::on(&redis, "damaged");
        let client = world.client().await?;
        let mut leases = Vec::new();
        for number in 0..20 {
            let lock = client
                .lock(format!("x{number}"))?
                .with(Options::new().lease(LEASE));
            leases.push(lock.acquire().await?);
        }
        // Looking unfolds them into all their keys.
        let victim = client.lock("x7")?;
        ensure!(victim.is_locked().await?, "not held");
        let stem = format!("tenure:{{{}}}:", victim.object());
        match (part, command) {
            ("entry", [value]) => {
                let holders = redis
                    .cli(&["ZRANGE", &format!("{stem}holders"), "0", "-1"])
                    .await?;
                let field = format!("t:{}", holders.trim());
                redis.cli(&["HSET", &format!("{stem}obj"), &field, value]).await?;
            }
            (part, [value]) => {
                redis.cli(&["SET", &format!("{stem}{part}"), value]).await?;
            }
            (part, [command, rest @ ..]) => {
                let key = format!("{stem}{part}");
                if *command != "HSET" {
                    redis.cli(&["DEL", &key]).await?;
                }
                redis.cli(&[&[command, key.as_str()], rest].concat()).await?;
            }
            _ => {}
        }
        let cause = timeout(SOON, leases[7].lost()).await?;
        ensure!(
            cause.contains("x7") && cause.contains("damaged"),
            "{part} {command:?}: {cause}"
        );
        sleep(LEASE).await; // others would have been lost by now
        for (number, lease) in leases.iter().enumerate().filter(|(number, _)| *number != 7) {
            let state = lease.state();
            ensure!(
                state == LeaseState::Held,
                "{part} {command:?}: lease {number} is {state:?}"
            );
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_damaged_key_is_named_with_the_command_that_repairs_it() -> Result {
    let redis = Redis::start().await?;
    let world = World::on(&redis, "damaged");
    let client = world.client().await?;
    let lock = client.lock("x")?;
    let key = format!("tenure:{{{}}}:queue", lock.object());
    redis.cli(&["SET", &key, "5"]).await?;
    let _held = lock.acquire().await?;
    let error = match lock.try_acquire().await {
        Err(error) => error,
        Ok(lease) => tenure_tests::bail!("{lease:?}"),
    };
    ensure!(matches!(error, Error::Damaged { .. }), "{error:?}");
    let text = error.to_string();
    ensure!(text.contains(&key) && !text.contains("user_script"), "{text}");
    let (_, command) = text
        .split_once("redis-cli -u URL unlink ")
        .context("no command")?;
    let keys: Vec<&str> = command.split(' ').map(|key| key.trim_matches('\'')).collect();
    ensure!(keys.contains(&&*key), "{command}");
    redis.cli(&[&["UNLINK"][..], &keys].concat()).await?;
    ensure!(lock.try_acquire().await?.is_some(), "it is not mended");
    Ok(())
}
