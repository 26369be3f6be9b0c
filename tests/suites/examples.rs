//! The programs of `examples/`, as any user would run them.

use std::{process::Command, time::Duration};

use serde_json::Value;
use tenure::{Client, Kind, ObjectRef};
use tenure_tests::{Context, Process, Redis, Result, binaries, ensure, eventually, process::folder, unique};

const SOON: Duration = Duration::from_secs(60);

/// A program with a Redis of its own and a namespace.
struct Example {
    redis: Redis,
    namespace: String,
    process: Process,
}

impl Example {
    async fn start(program: &str, args: &[&str]) -> Result<Self> {
        let (redis, namespace) = (Redis::start().await?, unique(program));
        let mut command = Command::new(binaries::find(program)?);
        command
            .args(["--redis-url", &redis.url()])
            .args(args)
            .env("POD_NAMESPACE", &namespace);
        let process = Process::spawn(program, &folder(program)?, &command)?;
        Ok(Self {
            redis,
            namespace,
            process,
        })
    }

    /// Waits until it has printed a line with `before`, and returns what comes after.
    async fn printed(&mut self, before: &str) -> Result<String> {
        let process = &mut self.process;
        eventually(before, SOON, async || {
            let output = process.output()?;
            let line = output
                .lines()
                .find_map(|line| Some(line.split_once(before)?.1.to_owned()));
            line.with_context(|| format!("printed: {output}{}", process.tail()))
        })
        .await
    }
}

/// The service, and the answer to `GET /gather_stats?query`.
async fn gather() -> Result<(Example, String)> {
    let mut service = Example::start("tenure-gather", &["--listen", "127.0.0.1:0"]).await?;
    let address = service.printed("listening on ").await?;
    Ok((service, format!("http://{address}/gather_stats")))
}

async fn get(url: &str) -> Result<(u16, Value)> {
    let response = reqwest::get(url).await?;
    let status = response.status().as_u16();
    Ok((status, serde_json::from_str(&response.text().await?)?))
}

#[tokio::test]
async fn gather_stats_measures_real_load_and_every_promise_holds() -> Result {
    let (service, url) = gather().await?;
    let query = "nodes=3&workers=6&rounds=8&hold_ms=1&permits=4&resources=2";
    let (code, stats) = get(&format!("{url}?{query}")).await?;
    ensure!(code == 200 && stats["ok"] == true, "{code}: {stats:#}");
    for (object, permits) in [("lock", 1), ("semaphore", 4), ("pool", 2)] {
        let of = &stats[object];
        let total = &of["total"];
        ensure!(
            total["acquired"] == 3 * 6 * 8 && total["errors"] == 0,
            "{object}: {of:#}"
        );
        ensure!(
            of["overlaps"] == 0 && of["fences_out_of_order"] == 0,
            "{object}: {of:#}"
        );
        // All of it was in use, or there was no load.
        ensure!(
            of["max_concurrency"] == permits && of["permits"] == permits,
            "{object}: {of:#}"
        );
        for node in ["node-0", "node-1", "node-2"] {
            ensure!(of["nodes"][node]["acquired"] == 6 * 8, "{object}, {node}: {of:#}");
        }
        // The times are those of the holds, and of the waits for them: they grow with the load, and fit each other.
        let ms = |what: &str, rank: &str| total[what][rank].as_f64().context("no number");
        let (p50, p95, p99) = (
            ms("acquire_ms", "p50")?,
            ms("acquire_ms", "p95")?,
            ms("acquire_ms", "p99")?,
        );
        ensure!(0.0 < p50 && p50 <= p95 && p95 <= p99, "{object}: {of:#}");
        ensure!(ms("hold_ms", "p50")? >= 1.0, "{object}: {of:#}");
        ensure!(total["per_second"].as_f64() > Some(0.0), "{object}: {of:#}");
    }
    // Eighteen wait for a lock that is held for a millisecond each.
    ensure!(
        stats["lock"]["total"]["acquire_ms"]["p50"].as_f64() > Some(10.0),
        "{stats:#}"
    );
    let condition = &stats["condition"];
    ensure!(
        condition["waits"] == 3 * 6 * 8 && condition["woken"] == 3 * 6 * 8,
        "{condition}"
    );
    for wrong in ["lost", "duplicate", "miscounted", "kept"] {
        ensure!(condition[wrong] == 0, "{condition}");
    }
    ensure!(
        service.redis.cli(&["KEYS", "*"]).await?.is_empty(),
        "keys were left"
    );
    Ok(())
}

/// An administrator reclaims leases, and they are granted to others while their holders continue.
#[tokio::test]
async fn gather_stats_sees_when_two_hold_at_the_same_time() -> Result {
    let (service, url) = gather().await?;
    let url = format!("{url}?nodes=2&workers=2&rounds=1&hold_ms=2000");
    let answer = tokio::spawn(async move { get(&url).await });
    let client = Client::builder(service.redis.url())
        .namespace(&service.namespace)
        .connect()
        .await?;
    let control = client.control();
    let (lock, holder) = eventually("the lock to be held", SOON, async || {
        let keys = service.redis.cli(&["KEYS", "*/lock/gather-*:obj"]).await?;
        let name = keys
            .split_once("/lock/")
            .and_then(|(_, rest)| rest.split_once('}'));
        let (name, _) = name.context("there is no lock")?;
        let lock = ObjectRef::new(Kind::Lock, &service.namespace, name)?;
        let seen = control.look(&lock, 1).await?.context("it is gone")?;
        let holder = seen.holders.first().context("there is no holder")?.token.clone();
        Ok((lock, holder))
    })
    .await?;
    ensure!(
        control.reclaim(&lock, &[holder], "for the test").await? == 1,
        "it was not held"
    );
    let (code, stats) = answer.await??;
    ensure!(code == 200 && stats["ok"] == false, "{code}: {stats:#}");
    let of = &stats["lock"];
    ensure!(of["overlaps"] == 1 && of["max_concurrency"] == 2, "{of:#}");
    ensure!(
        of["total"]["errors"] == 1 && of["fences_out_of_order"] == 0,
        "{of:#}"
    );
    let error = stats["errors"][0].as_str().context("no error")?;
    ensure!(error.contains("for the test"), "{error}");
    ensure!(stats["semaphore"]["overlaps"] == 0, "{stats:#}");
    Ok(())
}

#[tokio::test]
async fn gather_stats_refuses_a_size_that_is_none_and_names_the_fix() -> Result {
    let (_service, url) = gather().await?;
    for (query, named, fix) in [
        ("nodes=0", "nodes", "from 1 to 16"),
        ("permits=65", "permits", "from 1 to 64"),
        ("rounds=many", "rounds", "invalid digit"),
        ("round=1", "round", "expected one of"),
        ("rounds=1000&hold_ms=1000", "hold_ms", "at most 300000"),
    ] {
        let (status, answer) = get(&format!("{url}?{query}")).await?;
        let error = answer["error"].as_str().with_context(|| answer.to_string())?;
        ensure!(status == 400, "{query}: {status}: {error}");
        ensure!(error.contains(named) && error.contains(fix), "{query}: {error}");
    }
    Ok(())
}

#[tokio::test]
async fn updates_are_lost_without_a_fence_and_none_with_it() -> Result {
    let mut example = Example::start("tenure-fence", &[]).await?;
    let without = example.printed("without fence: ").await?;
    let with = example.printed("   with fence: ").await?;
    let lost = |line: &str| -> Result<u32> {
        let (before, _) = line
            .split_once(" lost")
            .context("it does not say what was lost")?;
        Ok(before.rsplit(' ').next().context("no number")?.parse()?)
    };
    for line in [&without, &with] {
        ensure!(line.starts_with("40 updates made, "), "{line}");
    }
    ensure!(lost(&without)? > 0, "without: {without}");
    ensure!(lost(&with)? == 0, "with: {with}");
    ensure!(with.contains("the counter is at 40"), "with: {with}");
    ensure!(example.process.wait(SOON).await?.success(), "it failed");
    Ok(())
}
