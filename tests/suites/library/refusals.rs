//! Servers that answer with an error reply for a while: a full disk, no replicas, rights that were taken away.

use std::{fs, time::Duration};

use tenure::{Client, Error, Options};
use tenure_tests::{Context, Redis, Result, ensure, eventually, redis::Persistence};
use tokio::time::timeout;

use super::support::{SOON, World, look, scripts_called, waiting};

/// Duration that is longer than the test waits for anything.
const LONG: Duration = Duration::from_secs(600);

/// A state in which a server refuses to write, how it is brought about, and how it is mended.
#[derive(Clone, Copy, Debug)]
enum Refusal {
    DiskFull,
    NoReplicas,
    NoPermission,
    /// Connections are refused, and those that were there have broken.
    NoConnection,
}

impl Refusal {
    const ALL: [Self; 4] = [
        Self::DiskFull,
        Self::NoReplicas,
        Self::NoPermission,
        Self::NoConnection,
    ];

    /// The code of the error reply.
    fn code(self) -> &'static str {
        match self {
            Self::DiskFull => "MISCONF",
            Self::NoReplicas => "NOREPLICAS",
            Self::NoPermission | Self::NoConnection => "NOPERM",
        }
    }

    async fn begin(self, redis: &Redis) -> Result {
        match self {
            Self::DiskFull => {
                // A snapshot cannot take the place of a folder.
                fs::create_dir(redis.data().join("dump.rdb"))?;
                redis.cli(&["BGSAVE"]).await?;
                eventually("the snapshot to fail", SOON, async || {
                    let status = redis.info("rdb_last_bgsave_status").await?;
                    ensure!(status == "err", "{status}");
                    Ok(())
                })
                .await
            }
            Self::NoReplicas => set(redis, "min-replicas-to-write", "1").await,
            Self::NoPermission => acl(redis, "-evalsha").await,
            Self::NoConnection => {
                acl(redis, "-subscribe").await?;
                for kind in ["normal", "pubsub"] {
                    redis.cli(&["CLIENT", "KILL", "TYPE", kind]).await?;
                }
                Ok(())
            }
        }
    }

    async fn end(self, redis: &Redis) -> Result {
        match self {
            Self::DiskFull => {
                fs::remove_dir(redis.data().join("dump.rdb"))?;
                eventually("a snapshot", SOON, async || {
                    redis.cli(&["BGSAVE"]).await?;
                    let status = redis.info("rdb_last_bgsave_status").await?;
                    ensure!(status == "ok", "{status}");
                    Ok(())
                })
                .await
            }
            Self::NoReplicas => set(redis, "min-replicas-to-write", "0").await,
            Self::NoPermission => acl(redis, "+evalsha").await,
            Self::NoConnection => acl(redis, "+subscribe").await,
        }
    }

    /// Number of commands that it has refused.
    async fn count(self, redis: &Redis) -> Result<u64> {
        let about = redis.cli(&["INFO", "errorstats"]).await?;
        let prefix = format!("errorstat_{}:count=", self.code());
        let count = about.lines().find_map(|line| line.strip_prefix(&*prefix));
        count.map_or(Ok(0), |count| Ok(count.trim().parse()?))
    }

    async fn refused(self, redis: &Redis, more_than: u64) -> Result {
        eventually(&format!("{self:?}"), SOON, async || {
            let count = self.count(redis).await?;
            ensure!(count > more_than, "{count} refusals");
            Ok(())
        })
        .await
    }
}

async fn set(redis: &Redis, name: &str, value: &str) -> Result {
    redis.cli(&["CONFIG", "SET", name, value]).await.map(drop)
}

async fn acl(redis: &Redis, rule: &str) -> Result {
    redis.cli(&["ACL", "SETUSER", "default", rule]).await.map(drop)
}

async fn server() -> Result<Redis> {
    Redis::builder().persistence(Persistence::Rdb).start().await
}

async fn held(
    world: &World,
    client: &Client,
) -> Result<(
    tenure::Lease,
    tokio::task::JoinHandle<std::result::Result<tenure::Lease, Error>>,
)> {
    let options = Options::new().lease(LONG);
    let lease = client.lock("x")?.with(options).acquire().await?;
    let lock = world.client().await?.lock("x")?;
    let next = tokio::spawn(async move { lock.acquire().await });
    waiting(client, lease.object(), 1).await?;
    Ok((lease, next))
}

/// Otherwise the next holder would wait for the whole lease.
#[tokio::test]
async fn a_release_is_tried_until_the_server_takes_it() -> Result {
    for refusal in Refusal::ALL {
        for dropped in [false, true] {
            let redis = server().await?;
            let world = World::on(&redis, "release-refused");
            let client = world.client().await?;
            let (lease, next) = held(&world, &client).await?;
            refusal.begin(&redis).await?;
            let before = refusal.count(&redis).await?;
            let release = tokio::spawn(async move {
                if dropped {
                    drop(lease);
                    return Ok(());
                }
                lease.release().await
            });
            refusal.refused(&redis, before).await?;
            refusal.end(&redis).await?;
            timeout(SOON, release)
                .await??
                .with_context(|| format!("{refusal:?}"))?;
            let next = timeout(SOON, next).await;
            next.with_context(|| format!("{refusal:?}, dropped: {dropped}"))???
                .release()
                .await?;
        }
    }
    Ok(())
}

/// The queue entry is removed as soon as the server takes it, though the wait is over.
#[tokio::test]
async fn leaving_the_queue_is_tried_on_in_the_background() -> Result {
    let redis = server().await?;
    let world = World::on(&redis, "leave-refused");
    let client = world.client().await?;
    let lease = client
        .lock("x")?
        .with(Options::new().lease(LONG))
        .acquire()
        .await?;
    let other = world.client_with_timeout(Duration::from_millis(200)).await?;
    let lock = other.lock("x")?;
    let wait = tokio::spawn(async move { lock.acquire_timeout(Duration::from_secs(2)).await });
    waiting(&client, lease.object(), 1).await?;
    let refusal = Refusal::DiskFull;
    refusal.begin(&redis).await?;
    let outcome = timeout(SOON, wait).await??;
    ensure!(
        outcome.as_ref().is_err_and(Error::is_unreachable) || matches!(outcome, Ok(None)),
        "{outcome:?}"
    );
    refusal.end(&redis).await?;
    waiting(&client, lease.object(), 0).await?;
    lease.release().await?;
    Ok(())
}

/// A server that refuses is asked about once a second by each client, however many calls wait for it; and all continue soon
/// after it has recovered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_server_refuses_it_is_asked_seldom() -> Result {
    const WAITERS: usize = 1_000;
    const LOOK: Duration = Duration::from_secs(3);
    for refusal in [Refusal::NoReplicas, Refusal::DiskFull] {
        let redis = server().await?;
        let world = World::on(&redis, "seldom");
        let client = world.client().await?;
        // So that all scripts are there.
        client.lock("x")?.acquire().await?.release().await?;
        refusal.begin(&redis).await?;
        let mut waits = Vec::new();
        for i in 0..WAITERS {
            let lock = client.lock(format!("x{i}"))?;
            waits.push(tokio::spawn(async move { lock.acquire().await }));
        }
        refusal.refused(&redis, 0).await?;
        // The delay between two calls has to grow first.
        tokio::time::sleep(LOOK).await;
        let before = scripts_called(&redis).await?;
        tokio::time::sleep(LOOK).await;
        let calls = scripts_called(&redis).await? - before;
        ensure!(calls <= 20, "{refusal:?}: {calls} scripts in {LOOK:?}");
        ensure!(calls > 0, "{refusal:?}: it is not asked at all");
        refusal.end(&redis).await?;
        for wait in waits {
            let lease = timeout(SOON, wait).await.context("it does not go on")???;
            lease.release().await?;
        }
    }
    Ok(())
}

/// The script grants, and fails when it sets the end of the keys: Redis keeps the effects of a script that fails.
#[tokio::test]
async fn an_error_after_the_grant_leaves_no_lease_behind() -> Result {
    let redis = server().await?;
    let world = World::on(&redis, "late-error");
    let client = world.client().await?;
    let semaphore = client.semaphore("x")?.or_permits(2)?;
    let rules = ["reset", "on", ">secret", "~*", "&*", "+@all", "-pexpire"];
    redis
        .cli(&[&["ACL", "SETUSER", "narrow"], &rules[..]].concat())
        .await?;
    let narrow = world
        .builder()
        .username("narrow")
        .password("secret")
        .connect()
        .await?;
    // The lease of another holder keeps the object, so that the release need not set its end.
    let held = semaphore.acquire().await?;
    for waits in [false, true] {
        let newest = look(&client, held.object()).await?.last_fence;
        let refused = narrow.semaphore("x")?.or_permits(2)?;
        let outcome = if waits {
            refused.acquire().await.map(Some)
        } else {
            refused.try_acquire().await
        };
        ensure!(
            matches!(&outcome, Err(Error::Refused { reason }) if reason.contains("script: ")),
            "waits: {waits}: {outcome:?}"
        );
        let seen = look(&client, held.object()).await?;
        ensure!(
            seen.last_fence > newest,
            "waits: {waits}: the refused call granted nothing: {seen:?}"
        );
        // A lease that was left behind would last for 30 s.
        let next = semaphore.acquire_timeout(Duration::from_secs(5)).await?;
        let next = next.with_context(|| format!("waits: {waits}: the lease was left behind"))?;
        next.release().await?;
    }
    held.release().await?;
    Ok(())
}
