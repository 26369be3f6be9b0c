//! Bad input gets an error that names the field and the fix, and nothing is lost.

use std::time::Duration;

use tenure::{Client, Error, Kind, Options};
use tenure_tests::{Redis, Result, process::free_port};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpListener,
};

use super::support::{SOON, World, on_both};

#[tokio::test]
async fn an_unusable_url_names_the_expected_form_and_not_the_password() -> Result {
    for (url, expected) in [
        ("", "redis://[user]"),
        ("127.0.0.1:6379", "redis://[user]"),
        ("http://127.0.0.1", "redis://[user]"),
        ("redis://:secret@host:notaport", "redis://[user]"),
        ("rediss://:secret@host/#insecure", "remove #insecure"),
    ] {
        let error = Client::connect(url).await.unwrap_err();
        let text = error.to_string();
        assert!(
            matches!(error, Error::InvalidInput { field: "url", .. }),
            "{url}: {text}"
        );
        assert!(text.contains(expected), "{url}: {text}");
        assert!(!text.contains("secret"), "{text}");
    }
    Ok(())
}

#[tokio::test]
async fn a_wrong_password_is_said_at_once() -> Result {
    let redis = Redis::builder().password("right").start().await?;
    for password in ["wrong", ""] {
        let url = format!("redis://127.0.0.1:{}", redis.port());
        let error = Client::builder(&url)
            .password(password)
            .connect()
            .await
            .unwrap_err();
        assert!(matches!(error, Error::Authentication { .. }), "{error}");
        assert!(
            error.to_string().contains("check user name and password"),
            "{error}"
        );
    }
    Client::builder(format!("redis://127.0.0.1:{}", redis.port()))
        .password("right")
        .connect()
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_redis_that_is_not_there_yet_is_waited_for() -> Result {
    let mut redis = Redis::start().await?;
    let url = redis.url();
    let address = url
        .trim_start_matches("redis://")
        .trim_end_matches('/')
        .to_owned();
    redis.kill9()?;
    let impatient = Client::builder(&url)
        .connect_timeout(Duration::from_millis(100))
        .connect()
        .await
        .unwrap_err();
    assert!(
        impatient.is_unreachable() && impatient.to_string().contains(&address),
        "{impatient}"
    );
    let patient = tokio::spawn(async move { Client::builder(&url).connect_timeout(SOON).connect().await });
    redis.start_again().await?;
    patient.await??.lock("x")?.acquire().await?.release().await?;
    Ok(())
}

/// A server that is not among the packages that this suite can install. It replies as the real Redis 6.2.5 does: its `INFO` takes
/// no more than one section.
async fn other_server(info: &'static str) -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("redis://{}", listener.local_addr()?);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (read, mut write) = stream.split();
                let mut lines = BufReader::new(read).lines();
                let mut parts = 0;
                while let Ok(Some(line)) = lines.next_line().await {
                    if let Some(count) = line.strip_prefix('*') {
                        parts = count.parse().unwrap_or(0);
                    }
                    let answer = match line.to_ascii_uppercase().as_str() {
                        "HELLO" => "%1\r\n$5\r\nproto\r\n:3\r\n".to_owned(),
                        "INFO" if parts > 2 => "-ERR syntax error\r\n".to_owned(),
                        "INFO" => format!("${}\r\n{info}\r\n", info.len()),
                        _ => continue,
                    };
                    if write.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    Ok(url)
}

#[tokio::test]
async fn an_old_redis_and_an_unfit_fork_are_refused_by_name_with_what_is_needed() -> Result {
    for (info, expected) in [
        ("redis_version:6.2.0\r\nrun_id:0\r\n", ["Redis 6.2.0", "7.0"]),
        (
            "# Server\r\nredis_version:6.3.4\r\nrun_id:0\r\n\r\n# KeyDB\r\nmvcc_depth:0\r\n",
            ["KeyDB 6.3.4", "7.0"],
        ),
        (
            "# Server\r\nredis_version:7.4.0\r\ndragonfly_version:df-v1.27.1\r\n",
            ["Dragonfly df-v1.27.1", "run_id"],
        ),
    ] {
        let error = Client::connect(&other_server(info).await?).await.unwrap_err();
        assert!(matches!(error, Error::UnsupportedServer { .. }), "{error}");
        let text = error.to_string();
        assert!(expected.iter().all(|part| text.contains(part)), "{text}");
    }
    Ok(())
}

async fn an_undeclared_object_is_refused_with_the_way_to_declare_it(world: World) -> Result {
    let client = world.client().await?;
    let error = client.lock_pool("seats")?.try_acquire().await.unwrap_err();
    assert!(matches!(error, Error::NotDeclared { .. }), "{error}");
    let expected = format!("apply a LockPool named seats in namespace {}", world.namespace);
    assert!(error.to_string().contains(&expected), "{error}");
    // A waiting request gets it when it is declared a moment later.
    let late = client.semaphore("late")?;
    let late = tokio::spawn(async move { late.acquire().await });
    let mut events = world
        .builder()
        .with_events()
        .connect()
        .await?
        .control()
        .events()?;
    drop(events.next());
    world.declare_semaphore(&client, "late", 1).await?;
    late.await??.release().await?;
    Ok(())
}

async fn names_and_durations_are_checked_before_anything_is_sent(world: World) -> Result {
    let client = world.client().await?;
    for name in ["", "a b", "a}", "a{b}"] {
        assert!(
            matches!(client.lock(name), Err(Error::InvalidInput { field: "name", .. })),
            "{name:?}"
        );
    }
    let zero = Options::new().lease(Duration::ZERO);
    let error = client.lock("x")?.with(zero).acquire().await.unwrap_err();
    assert!(
        error.to_string().starts_with("lease is 0ns: use 100 ms"),
        "{error}"
    );
    let error = world
        .builder()
        .namespace("Not A Namespace")
        .connect()
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            Error::InvalidInput {
                field: "namespace",
                ..
            }
        ),
        "{error}"
    );
    let error = world.builder().key_prefix("a{b").connect().await.unwrap_err();
    assert!(
        matches!(
            error,
            Error::InvalidInput {
                field: "key_prefix",
                ..
            }
        ),
        "{error}"
    );
    let error = world
        .builder()
        .response_timeout(Duration::ZERO)
        .connect()
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            Error::InvalidInput {
                field: "response_timeout",
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(
        client.control().look(&world.object(Kind::Lock, "x")?, 1).await?,
        None
    );
    Ok(())
}

#[tokio::test]
async fn a_port_where_nothing_listens_is_named() -> Result {
    let port = free_port()?;
    let builder =
        Client::builder(format!("redis://127.0.0.1:{port}")).connect_timeout(Duration::from_millis(200));
    let error = builder.connect().await.unwrap_err().to_string();
    assert!(
        error.contains(&format!("127.0.0.1:{port}")) && error.contains("refused"),
        "{error}"
    );
    Ok(())
}

on_both! {
    an_undeclared_object_is_refused_with_the_way_to_declare_it,
    names_and_durations_are_checked_before_anything_is_sent,
}
