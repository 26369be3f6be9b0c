//! Instructions of the server and of a client, counted by callgrind. They repeat, where times on a shared machine do not.
//!
//! Each figure is the difference between two runs, of which the second does twice as much, divided by the work of the first:
//! starting, connecting and loading the scripts count for nothing.

use std::time::Duration;

use tenure::{
    Client, Kind,
    control::{Capacity, Declaration},
};
use tenure_tests::{
    Process, Redis, Result, ensure,
    process::folder,
    redis::{counted, instructions},
};
use tokio::task::JoinSet;

use crate::{
    NAMESPACE, connect, object,
    raw::COMPARE_AND_DELETE,
    report::{Goal, Report},
    uncontended::pair,
};

/// The first argument of a run of this program that is the client whose instructions are counted.
pub(crate) const CLIENT: &str = "counted-client";
const RENEW: &str = include_str!("../../../lua/dist/renew.lua");
/// Tokens in one renewal, as the library sends them.
const BATCH: u32 = 100;
const CLIENTS: u32 = 20;

pub(crate) async fn of_the_server(report: &mut Report) -> Result {
    let plain = per_unit(500, plain_lock).await?;
    let mut row = |name: &str, value: f64, most: f64, unit: &str| {
        let made_of = format!("{unit}; SET NX and compare-and-delete, a pair: {plain:.0}");
        report.figure(name, value, Goal::AtMost(most), &made_of);
    };
    row(
        "instructions_pair",
        per_unit(500, pairs).await?,
        75_000.0,
        "a pair",
    );
    let semaphore = per_unit(300, semaphore_pairs).await?;
    row(
        "instructions_semaphore_pair",
        semaphore,
        160_000.0,
        "a pair beside a held permit",
    );
    let contended = per_unit(600, contended).await?;
    row(
        "instructions_contended20",
        contended,
        200_000.0,
        "an acquisition with its hand-off",
    );
    let renewal = per_unit(20 * BATCH, renewals).await?;
    row(
        "instructions_renewal",
        renewal,
        20_000.0,
        "one of 100 lone leases in a call",
    );
    Ok(())
}

async fn per_unit(units: u32, work: impl AsyncFn(&Redis, u32) -> Result) -> Result<f64> {
    let count = async |units: u32| {
        let redis = Redis::builder().counted().start().await?;
        work(&redis, units).await?;
        redis.instructions().await
    };
    let (once, twice) = (count(units).await?, count(2 * units).await?);
    Ok(each_of(units, once, twice))
}

fn each_of(units: u32, once: u64, twice: u64) -> f64 {
    #[allow(clippy::cast_precision_loss)] // far less than 2^52
    let difference = twice.saturating_sub(once) as f64;
    difference / f64::from(units)
}

/// Instructions of a client in a process of its own, with its runtime and its driver.
pub(crate) async fn of_a_client(report: &mut Report) -> Result {
    const PAIRS: u32 = 1000;
    let redis = Redis::start().await?;
    let count = async |pairs: u32| {
        let folder = folder("client")?;
        let mut command = counted(&std::env::current_exe()?, &folder);
        command.arg(CLIENT).arg(redis.url()).arg(pairs.to_string());
        let mut client = Process::spawn("client", &folder, &command)?;
        let status = client.wait(Duration::from_secs(120)).await?;
        ensure!(
            status.success(),
            "the client ended with {status}: {}",
            client.tail()
        );
        instructions(&folder)
    };
    let (once, twice) = (count(PAIRS).await?, count(2 * PAIRS).await?);
    report.figure(
        "instructions_client_pair",
        each_of(PAIRS, once, twice),
        Goal::AtMost(35_000.0),
        "a pair, in a process of its own",
    );
    Ok(())
}

/// The client that [`of_a_client`] counts.
pub(crate) async fn client(url: String, count: u32) -> Result {
    let client = Client::builder(url).namespace(NAMESPACE).connect().await?;
    // On a worker of the runtime, as in a service.
    tokio::spawn(async move { acquire_and_release(&client, count).await }).await?
}

async fn acquire_and_release(client: &Client, count: u32) -> Result {
    let lock = client.lock("x")?;
    for _ in 0..count {
        pair(&lock).await?;
    }
    Ok(())
}

async fn pairs(redis: &Redis, count: u32) -> Result {
    acquire_and_release(&connect(redis).await?, count).await
}

/// The way without a library.
async fn plain_lock(redis: &Redis, count: u32) -> Result {
    let mut connection = redis.connection().await?;
    let delete = redis::Script::new(COMPARE_AND_DELETE);
    for _ in 0..count {
        let mut set = redis::cmd("SET");
        set.arg("x").arg("token").arg("NX").arg("PX").arg(30_000);
        let () = set.query_async(&mut connection).await?;
        let _: u64 = delete.key("x").arg("token").invoke_async(&mut connection).await?;
    }
    Ok(())
}

async fn semaphore_pairs(redis: &Redis, count: u32) -> Result {
    let client = connect(redis).await?;
    let two = Declaration::new(Capacity::Permits(2));
    client
        .control()
        .declare(&object(Kind::Semaphore, "s")?, &two)
        .await?;
    let semaphore = client.semaphore("s")?;
    let held = semaphore.acquire().await?;
    for _ in 0..count {
        semaphore.acquire().await?.release().await?;
    }
    Ok(held.release().await?)
}

async fn contended(redis: &Redis, count: u32) -> Result {
    let mut tasks = JoinSet::new();
    for _ in 0..CLIENTS {
        let lock = connect(redis).await?.lock("x")?;
        tasks.spawn(async move {
            for _ in 0..count / CLIENTS {
                let lease = lock.acquire().await?;
                // All others wait by now.
                tokio::time::sleep(Duration::from_millis(20)).await;
                lease.release().await?;
            }
            Result::Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}

async fn renewals(redis: &Redis, count: u32) -> Result {
    let client = connect(redis).await?;
    let mut leases = Vec::new();
    let mut connection = redis.connection().await?;
    let script = redis::Script::new(RENEW);
    let mut call = script.prepare_invoke();
    let mut arguments = vec!["2 run".to_owned()];
    for i in 0..BATCH {
        let name = format!("r{i}");
        leases.push(client.lock(&name)?.acquire().await?);
        let key = format!("tenure:{{{}}}:obj", object(Kind::Lock, &name)?);
        let alone: String = redis::cmd("GET").arg(&key).query_async(&mut connection).await?;
        arguments.push(alone.split(' ').nth(1).unwrap_or_default().to_owned());
        call.key(key);
    }
    call.arg(arguments);
    for _ in 0..count / BATCH {
        // A number for each lease that is held on.
        let _: Vec<u64> = call.invoke_async(&mut connection).await?;
    }
    Ok(())
}
