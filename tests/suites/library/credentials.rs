//! Credentials that change under a client that lives: rotated files, tokens that run out, a server that learns of them late.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tenure::{Client, Credentials, Error, FileCredentials, control::Server};
use tenure_tests::{Context, Redis, Result, Sentinel, ensure, eventually};

use super::support::{SOON, got};

fn file(password: &str) -> Result<tempfile::NamedTempFile> {
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), password)?;
    Ok(file)
}

fn bare(redis: &Redis) -> String {
    format!("redis://127.0.0.1:{}", redis.port())
}

/// Changes a password as an administrator who removes the old one at once.
async fn rotate(redis: &Redis, user: &str, password: &str) -> Result {
    let add = format!(">{password}");
    let rights = ["ACL", "SETUSER", user, "reset", "on", &add, "~*", "&*", "+@all"];
    redis.cli(&rights).await.map(drop)
}

async fn cut(redis: &Redis, user: &str) -> Result {
    redis.cli(&["CLIENT", "KILL", "USER", user]).await.map(drop)
}

#[tokio::test]
async fn a_rotated_file_is_read_at_the_next_connect() -> Result {
    let redis = Redis::start().await?;
    rotate(&redis, "worker", "first").await?;
    let secret = file("first\n")?;
    let provider = FileCredentials::new(secret.path()).username("worker");
    let client = Client::builder(bare(&redis))
        .credentials(provider)
        .connect()
        .await?;
    let lease = client.lock("x")?.acquire().await?;
    // Redis first, as it happens: a client that connects is denied until the file follows.
    rotate(&redis, "worker", "second").await?;
    cut(&redis, "worker").await?;
    eventually("the denial", SOON, async || {
        let server = client.control().server();
        ensure!(
            matches!(&server, Server::Disconnected { transient: false, error } if error.contains("credentials")),
            "{server:?}"
        );
        Ok(())
    })
    .await?;
    let lock = client.lock("y")?;
    let error = lock
        .acquire_timeout(Duration::from_millis(300))
        .await
        .unwrap_err();
    ensure!(matches!(error, Error::Authentication { .. }), "{error:?}");
    let waits = tokio::spawn(async move { lock.acquire_timeout(SOON).await });
    std::fs::write(secret.path(), "second\n")?;
    got(waits.await??)?.release().await?;
    lease.release().await?;
    Ok(())
}

#[tokio::test]
async fn a_connection_that_lives_is_authenticated_with_a_rotated_file() -> Result {
    let redis = Redis::start().await?;
    rotate(&redis, "one", "first").await?;
    rotate(&redis, "two", "second").await?;
    let (user, secret) = (file("one")?, file("first")?);
    let provider = FileCredentials::new(secret.path()).username_file(user.path());
    let client = Client::builder(bare(&redis))
        .credentials(provider)
        .connect()
        .await?;
    let lease = client.lock("x")?.acquire().await?;
    let clients = async || redis.cli(&["CLIENT", "LIST"]).await;
    let connection = async |user: &str| -> Result<String> {
        let list = clients().await?;
        let line = list.lines().find(|line| line.contains(&format!("user={user} ")));
        let id = line.and_then(|line| line.split(' ').next()).unwrap_or_default();
        ensure!(!id.is_empty(), "no connection of {user}: {list}");
        Ok(id.to_owned())
    };
    let before = connection("one").await?;
    std::fs::write(secret.path(), "second")?;
    std::fs::write(user.path(), "two")?;
    eventually("the other user", SOON, async || {
        let after = connection("two").await?;
        ensure!(after == before, "another connection: {after}");
        Ok(())
    })
    .await?;
    lease.release().await?;
    Ok(())
}

/// A token that is good for one connect alone, from a provider that fails now and then.
#[tokio::test]
async fn a_closure_is_asked_for_a_token_at_each_connect() -> Result {
    let redis = Redis::start().await?;
    rotate(&redis, "worker", "token-0").await?;
    let (asked, token) = (
        Arc::new(AtomicU64::new(0)),
        Arc::new(Mutex::new("token-0".to_owned())),
    );
    let provider = {
        let (asked, token) = (asked.clone(), token.clone());
        move || {
            let fails = asked.fetch_add(1, Ordering::SeqCst) % 3 == 2;
            let token = token.lock().map(|token| token.clone()).unwrap_or_default();
            async move {
                if fails {
                    return Err("the identity service is busy");
                }
                Ok(Credentials::new(Some("worker"), &token))
            }
        }
    };
    let client = Client::builder(bare(&redis))
        .credentials(provider)
        .connect()
        .await?;
    for round in 1..4 {
        let next = format!("token-{round}");
        rotate(&redis, "worker", &next).await?;
        if let Ok(mut token) = token.lock() {
            *token = next;
        }
        let before = asked.load(Ordering::SeqCst);
        cut(&redis, "worker").await?;
        let lease = got(client.lock("x")?.acquire_timeout(SOON).await?)?;
        lease.release().await?;
        ensure!(asked.load(Ordering::SeqCst) > before, "not asked");
    }
    Ok(())
}

#[tokio::test]
async fn a_wrong_file_is_reported_after_the_time_to_connect() -> Result {
    let redis = Redis::builder().password("right").start().await?;
    let secret = file("wrong")?;
    let builder = Client::builder(bare(&redis)).connect_timeout(Duration::from_millis(500));
    let connect = builder.credentials(FileCredentials::new(secret.path())).connect();
    let error = connect.await.unwrap_err();
    ensure!(matches!(error, Error::Authentication { .. }), "{error:?}");
    ensure!(!format!("{error:?}").contains("wrong\""), "{error:?}");
    Ok(())
}

#[tokio::test]
async fn behind_sentinels_the_master_gets_the_credentials_of_the_provider() -> Result {
    let sentinel = Sentinel::builder().start().await?;
    // No password is asked for, so that any will do for the default user.
    let secret = file("any")?;
    let builder = Client::builder(sentinel.url());
    let client = builder
        .credentials(FileCredentials::new(secret.path()))
        .sentinel_credentials_provider(FileCredentials::new(secret.path()))
        .connect()
        .await?;
    client.lock("x")?.acquire().await?.release().await?;
    Ok(())
}

/// As with a password in the environment of a pod, which its rotation does not change.
#[tokio::test]
async fn a_wait_ends_with_the_denial_where_no_other_credentials_can_come() -> Result {
    let redis = Redis::start().await?;
    rotate(&redis, "worker", "first").await?;
    rotate(&redis, "holder", "h").await?;
    let client = |user: &str, password: &str| {
        let url = format!("redis://{user}:{password}@127.0.0.1:{}", redis.port());
        Client::builder(url).connect()
    };
    let (holder, worker) = (client("holder", "h").await?, client("worker", "first").await?);
    let lease = holder.lock("x")?.acquire().await?;
    let lock = worker.lock("x")?;
    let waiting = tokio::spawn(async move { lock.acquire().await.map(drop) });
    eventually("the waiter", SOON, async || {
        let seen = holder
            .control()
            .look(lease.object(), 0)
            .await?
            .context("no lock")?;
        ensure!(seen.waiting == 1, "nothing waits");
        Ok(())
    })
    .await?;
    rotate(&redis, "worker", "second").await?;
    cut(&redis, "worker").await?;
    let outcome = tokio::time::timeout(3 * SOON, waiting)
        .await
        .context("it waits on")??;
    ensure!(
        matches!(outcome, Err(Error::Authentication { .. })),
        "{outcome:?}"
    );
    lease.release().await?;
    Ok(())
}
