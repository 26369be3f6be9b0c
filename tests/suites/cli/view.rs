//! `tenure get`, `holders`, `queue` and `why`.

use std::time::Duration;

use serde_json::Value;
use tenure::{Client, Identity, Options, control::Resource};
use tenure_tests::{Context, Redis, Result, ensure, eventually};

use super::{Bench, SOON, code, output, text};

async fn shown(bench: &Bench, args: &str) -> Result<String> {
    let ended = output(bench.tenure(args)?).await?;
    ensure!(code(&ended)? == 0, "{args}: {ended:?}");
    Ok(text(&ended.stdout))
}

/// A client that is a pod.
async fn pod(bench: &Bench, name: &str) -> Result<Client> {
    let mut identity = Identity::from_env();
    identity.pod = Some(name.to_owned());
    identity.namespace.clone_from(&bench.namespace);
    Ok(Client::builder(&bench.url)
        .namespace(&bench.namespace)
        .identity(identity)
        .connect()
        .await?)
}

#[tokio::test]
async fn why_names_position_holder_reason_and_resources_that_do_not_match() -> Result {
    let bench = Bench::shared().await?;
    let seats = [("seat-a", "a"), ("seat-b", "b"), ("seat-c", "b")];
    let seats = seats.map(|(name, zone)| Resource::new(name).property("zone", zone));
    bench.client.lock_pool("seats")?.extend(seats).await?;
    let holder = pod(&bench, "nightly-7").await?;
    let options = Options::new().reason("nightly training");
    let held = holder
        .lock_pool("seats")?
        .with(options)
        .named(["seat-a"])?
        .acquire()
        .await?;
    let mut tasks = Vec::new();
    for (name, number) in [("first-x7k2p", 1), ("training-abcde", 2)] {
        let client = pod(&bench, name).await?;
        let seats = client.lock_pool("seats")?.matching([("zone", "a")])?;
        tasks.push(tokio::spawn(async move { seats.acquire().await }));
        eventually("the queue", SOON, async || {
            let seen = bench
                .look(tenure::Kind::Pool, "seats")
                .await?
                .context("no pool")?;
            ensure!(seen.waiting == number, "{} wait", seen.waiting);
            Ok(())
        })
        .await?;
    }
    for args in ["why job/training", "why pod/training-abcde lp/seats"] {
        let lines = shown(&bench, args).await?;
        for part in [
            "training-abcde waits for lockpool/seats",
            "position 2 of 2 in the queue, and requests zone=a",
            "before it in the queue: first-x7k2p.",
            "do not match its request: seat-b, seat-c.",
            "Held by nightly-7 (seat-a) for ",
            ": nightly training.",
        ] {
            ensure!(lines.contains(part), "{args}: {part}: {lines}");
        }
        ensure!(!lines.contains("No resource matches"), "{lines}");
    }
    ensure!(
        shown(&bench, "why pod/nightly-7")
            .await?
            .contains("nightly-7 holds lockpool/seats (seat-a)"),
        "why"
    );
    let unknown = output(bench.tenure("why pod/unknown")?).await?;
    ensure!(code(&unknown)? == 75, "{unknown:?}");

    let queue = shown(&bench, "queue lp/seats -o wide").await?;
    ensure!(queue.lines().count() == 3 && queue.contains("zone=a"), "{queue}");
    let holders = shown(&bench, "holders").await?;
    ensure!(
        holders.contains("nightly-7") && holders.contains("seat-a"),
        "{holders}"
    );
    held.release().await?;
    for task in tasks {
        task.await??.release().await?;
    }
    Ok(())
}

#[tokio::test]
async fn objects_are_listed_and_shown_in_each_format() -> Result {
    let bench = Bench::shared().await?;
    let lock = bench
        .client
        .lock("a/b")?
        .with(Options::new().reason("by hand"))
        .acquire()
        .await?;
    let permit = bench.client.semaphore("api")?.or_permits(3)?.acquire().await?;
    ensure!(
        shown(&bench, "get -o name").await? == "lock/a/b\nsemaphore/api\n",
        "get"
    );
    ensure!(
        shown(&bench, "get locks -o name").await? == "lock/a/b\n",
        "get locks"
    );
    let table = shown(&bench, "get").await?;
    let lines: Vec<Vec<_>> = table
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    ensure!(
        lines[0] == ["OBJECT", "STATE", "HELD", "DRAINING", "TOTAL", "WAITING"],
        "{table}"
    );
    ensure!(
        lines[2] == ["semaphore/api", "Free", "1", "0", "3", "0"],
        "{table}"
    );
    let one: Value = serde_json::from_str(&shown(&bench, "get lock/a/b -o json").await?)?;
    ensure!(one["holders"][0]["reason"] == "by hand", "{one}");
    ensure!(one["holders"][0]["fencingToken"] == lock.fencing_token(), "{one}");
    let both: Value = serde_json::from_str(&shown(&bench, "get lock/a/b sem/api -o json").await?)?;
    ensure!(both[1]["free"] == 2, "{both}");
    // A kind is a list of any length.
    for (args, length) in [("get sem -o json", 1), ("get rwlocks -o json", 0)] {
        let list: Value = serde_json::from_str(&shown(&bench, args).await?)?;
        ensure!(list.as_array().map(Vec::len) == Some(length), "{args}: {list}");
    }
    ensure!(
        shown(&bench, "get lock/a/b lock/a/b locks -o name").await? == "lock/a/b\n",
        "an object twice"
    );
    for (args, what) in [
        ("get rwlocks", "objects"),
        ("queue", "waiters"),
        ("queue -o name", "waiters"),
        ("holders lock/free", "holders"),
    ] {
        let none = output(bench.tenure(args)?).await?;
        let said = text(&none.stderr);
        ensure!(
            code(&none)? == 0
                && none.stdout.is_empty()
                && said.contains(&format!("no {what} in the namespace")),
            "{args}: {none:?}"
        );
    }
    // kubectl reads the same arguments.
    for args in ["get semaphores.tenure.dev/api -o name", "get sem api -o name"] {
        ensure!(shown(&bench, args).await? == "semaphore/api\n", "{args}");
    }
    let bare = output(bench.tenure("get api")?).await?;
    ensure!(
        code(&bare)? == 77 && text(&bare.stderr).contains("write KIND/api"),
        "{bare:?}"
    );
    let limit = output(bench.tenure("get --limit 0")?).await?;
    ensure!(code(&limit)? == 77, "{limit:?}");
    let yaml = shown(&bench, "get lock/a/b -o yaml").await?;
    ensure!(
        yaml.contains("object: lock/a/b\n") && yaml.contains("reason: by hand\n"),
        "{yaml}"
    );
    let bounded = bench
        .client
        .lock("bounded")?
        .with(Options::new().max_hold(Duration::from_secs(3600)))
        .acquire()
        .await?;
    let one: Value = serde_json::from_str(&shown(&bench, "get lock/bounded -o json").await?)?;
    ensure!(one["holders"][0]["renewableUntil"].is_string(), "{one}");
    let wide = shown(&bench, "holders lock/bounded -o wide").await?;
    ensure!(wide.contains("RENEWABLE FOR") && wide.contains("59m"), "{wide}");
    bounded.release().await?;
    // A lock that no client uses is free, and needs no declaration.
    ensure!(
        shown(&bench, "get lock/free").await?.contains("Free"),
        "get lock/free"
    );
    let none = output(bench.tenure("get lp/none")?).await?;
    ensure!(code(&none)? == 75, "{none:?}");
    for lease in [lock, permit] {
        lease.release().await?;
    }
    Ok(())
}

#[tokio::test]
async fn thousands_wait_and_all_are_shown() -> Result {
    let bench = Bench::shared().await?;
    let held = bench.client.lock("crowded")?.acquire().await?;
    let crowd: Vec<_> = (0..1500)
        .map(|_| {
            let lock = bench.client.lock("crowded")?;
            Ok(tokio::spawn(async move { lock.acquire().await }))
        })
        .collect::<Result<_>>()?;
    bench.waiting("crowded", 1500).await?;
    let queue = shown(&bench, "queue lock/crowded").await?;
    ensure!(queue.lines().count() == 1501, "{} lines", queue.lines().count());
    for waiter in crowd {
        waiter.abort();
    }
    held.release().await?;
    Ok(())
}

/// The user of a namespace may not list what others have, and is shown what to do.
#[tokio::test]
async fn without_the_right_to_list_the_error_names_the_fix() -> Result {
    let redis = Redis::start().await?;
    let bench = Bench::on(&redis).await?;
    let user = tenure::control::acl::tenant_user("tenure", &bench.namespace)?;
    let rules = tenure::control::acl::tenant_rules("tenure", &bench.namespace)?;
    let mut command = vec!["ACL", "SETUSER", &user, "reset", "on", ">secret"];
    command.extend(rules.iter().map(String::as_str));
    redis.cli(&command).await?;
    let url = bench.url.replace("redis://", &format!("redis://{user}:secret@"));
    let mut list = bench.tenure("get")?;
    list.env("TENURE_REDIS_URL", &url);
    let ended = output(list).await?;
    ensure!(
        code(&ended)? == 76 && text(&ended.stderr).contains("Name them as KIND/NAME"),
        "{ended:?}"
    );
    // The cause of what another namespace's user may not do.
    for args in ["exec lock/x -- true", "doctor"] {
        let mut other = bench.tenure(args)?;
        other
            .env("TENURE_REDIS_URL", &url)
            .env("TENURE_NAMESPACE", "other");
        let ended = output(other).await?;
        let said = text(&ended.stdout) + &text(&ended.stderr);
        ensure!(
            code(&ended)? == 76 && said.contains(&format!("add --namespace {}", bench.namespace)),
            "{args}: {ended:?}"
        );
    }
    // All else works with the rights of a namespace.
    for args in [
        "get lock/x",
        "exec lock/x -- true",
        "once x -- true",
        "acquire sem/x --or-permits 2 --ttl 5s",
        "why process/x sem/x",
        "release sem/x --force --reason x --yes",
    ] {
        let mut command = bench.tenure(args)?;
        command.env("TENURE_REDIS_URL", &url);
        let ended = output(command).await?;
        let expected = if args.starts_with("why") { 75 } else { 0 };
        ensure!(code(&ended)? == expected, "{args}: {ended:?}");
    }
    Ok(())
}
