//! Properties that the other suites rely on.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tenure_tests::process::{folder, free_port};
use tenure_tests::redis::Persistence;
use tenure_tests::{Context, ControlPlane, Process, Redis, Result, ensure, eventually};
use tokio::time::timeout;

mod envtest;
mod topologies;

const SOON: Duration = Duration::from_secs(20);

#[tokio::test]
async fn nothing_outlives_a_killed_run() -> Result {
    let mut command = Command::new(env!("CARGO_BIN_EXE_servers"));
    let mut run = Process::spawn(
        "servers",
        &folder("servers")?,
        command.arg("redis").env_remove("TENURE_TEST_KEEP"),
    )?;
    let url = run
        .ready(SOON, async |run| {
            let output = run.output()?;
            let line = output
                .lines()
                .find_map(|line| line.strip_prefix("export TENURE_REDIS_URL="));
            line.map(str::to_owned).context("it has not printed the URL")
        })
        .await?;
    let mut connection = redis::Client::open(url)?
        .get_multiplexed_async_connection()
        .await?;
    let info: String = redis::cmd("INFO")
        .arg("server")
        .query_async(&mut connection)
        .await?;
    let setting: [String; 2] = redis::cmd("CONFIG")
        .arg("GET")
        .arg("dir")
        .query_async(&mut connection)
        .await?;
    let pid = info
        .lines()
        .find_map(|line| line.strip_prefix("process_id:"))
        .context("no process id")?;
    // Its program, as an ended process stays in the table until its exit status is collected.
    let (process, data) = (Path::new("/proc").join(pid).join("exe"), Path::new(&setting[1]));
    assert!(process.exists() && data.exists());

    // Its group, that is; its Redis leads another one.
    run.kill9()?;

    eventually("Redis and its folder to be gone", SOON, async || {
        ensure!(!process.exists(), "process {pid} is there");
        ensure!(!data.exists(), "{} is there", data.display());
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_process_that_does_not_start_reports_why() -> Result {
    let error = Redis::builder()
        .args(&["--no-such-setting", "1"])
        .start()
        .await
        .unwrap_err();
    let error = format!("{error:#}");
    assert!(error.contains("no-such-setting"), "{error}");

    let mut process = Process::spawn("ghost", &folder("ghost")?, &Command::new("/nowhere/ghost"))?;
    let error = process
        .ready(SOON, async |_| -> Result { Err(tenure_tests::anyhow!("no")) })
        .await
        .unwrap_err();
    let error = format!("{error:#}");
    assert!(
        error.contains("/nowhere/ghost") && error.contains("127"),
        "{error}"
    );
    Ok(())
}

#[tokio::test]
async fn an_unmet_condition_reports_the_observed_value() {
    let brief = Duration::from_millis(30);
    let error = eventually("the count to be 2", brief, async || -> Result {
        tenure_tests::bail!("the count is 1");
    })
    .await
    .unwrap_err();
    assert_eq!(
        format!("{error:#}"),
        "waited 30ms for the count to be 2: the count is 1"
    );

    let hangs = eventually("an answer", brief, async || -> Result {
        std::future::pending().await
    });
    let error = format!("{:#}", hangs.await.unwrap_err());
    assert_eq!(
        error,
        "waited 30ms for an answer: the first attempt did not return"
    );
}

#[tokio::test]
async fn all_tests_share_one_redis() -> Result {
    let (one, other) = (Redis::shared().await?, Redis::shared().await?);
    assert_eq!(one.port(), other.port());
    assert_eq!(one.cli(&["PING"]).await?, "PONG\n");
    Ok(())
}

#[tokio::test]
async fn a_killed_redis_keeps_the_data_of_its_persistence() -> Result {
    for (persistence, after_kill, after_stop) in [
        (Persistence::None, "", ""),
        (Persistence::Rdb, "", "a\n"),
        (Persistence::Aof, "a\n", "a\n"),
    ] {
        let mut redis = Redis::builder().persistence(persistence).start().await?;
        let port = redis.port();
        redis.cli(&["SET", "key", "a"]).await?;
        redis.kill9()?;
        redis.start_again().await?;
        assert_eq!(
            redis.cli(&["GET", "key"]).await?,
            after_kill,
            "{persistence:?}, killed"
        );
        redis.cli(&["SET", "key", "a"]).await?;
        redis.stop().await?;
        redis.start_again().await?;
        assert_eq!(
            redis.cli(&["GET", "key"]).await?,
            after_stop,
            "{persistence:?}, stopped"
        );
        redis.kill9()?;
        redis.wipe_data()?;
        redis.start_again().await?;
        assert_eq!(redis.cli(&["DBSIZE"]).await?, "0\n", "{persistence:?}, wiped");
        assert_eq!(redis.port(), port);
    }
    Ok(())
}

#[tokio::test]
async fn a_paused_redis_is_silent_and_forgets_nothing() -> Result {
    let redis = Redis::start().await?;
    redis.cli(&["SET", "key", "a"]).await?;
    let mut connection = redis.connection().await?;
    redis.pause()?;
    let get = redis::cmd("GET");
    let mut get = get;
    let reply = timeout(
        Duration::from_millis(200),
        get.arg("key").exec_async(&mut connection),
    )
    .await;
    assert!(reply.is_err(), "{reply:?}");
    redis.resume()?;
    assert_eq!(redis.cli(&["GET", "key"]).await?, "a\n");
    Ok(())
}

#[tokio::test]
async fn a_redis_with_a_password_refuses_clients_without_it() -> Result {
    let redis = Redis::builder().password("sesame").start().await?;
    assert_eq!(redis.cli(&["PING"]).await?, "PONG\n");
    let stranger = redis::Client::open(format!("redis://127.0.0.1:{}/", redis.port()))?;
    let mut connection = stranger.get_multiplexed_async_connection().await?;
    let error = redis::cmd("PING").exec_async(&mut connection).await.unwrap_err();
    assert_eq!(error.code(), Some("NOAUTH"), "{error}");
    Ok(())
}

#[test]
fn no_port_is_given_twice() -> Result {
    let mut ports = (0..100).map(|_| free_port()).collect::<Result<Vec<_>>>()?;
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 100);
    Ok(())
}

#[tokio::test]
async fn the_control_plane_serves_and_guards_our_resources() -> Result {
    let plane = ControlPlane::shared().await?;
    let namespace = plane.namespace("control plane").await?;
    for resource in ["lockpools", "semaphores"] {
        plane.kubectl(&["get", resource, "-n", &namespace]).await?;
    }
    let can_i = ["auth", "can-i", "delete", "lockpools", "-n", &namespace];
    assert_eq!(plane.kubectl(&can_i).await?, "yes\n");
    let error = plane
        .kubectl(&[&can_i[..], &["--as", "nobody"]].concat())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("auth can-i"), "{error}");

    let pod = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: worker, namespace: {namespace}}}\n\
         spec: {{containers: [{{name: main, image: none}}]}}\n"
    );
    assert_eq!(plane.apply(&pod).await?, "pod/worker serverside-applied\n");
    let version = plane.client().await?.apiserver_version().await?;
    assert_eq!(version.major, "1");
    plane
        .kubectl(&["delete", "pod", "worker", "-n", &namespace])
        .await?;
    Ok(())
}

#[test]
fn a_program_that_is_too_old_is_passed_over() -> Result {
    let (old, good) = (fake_redis("6.2.9")?, fake_redis("99.1.0")?);
    let found = find_redis(&format!("{}:{}", old.display(), good.display()))?;
    assert!(
        found.contains("99.1.0") && found.contains(&*good.to_string_lossy()),
        "{found}"
    );
    Ok(())
}

#[test]
fn a_program_that_cannot_be_got_is_named_with_the_command_that_gets_it() -> Result {
    let error = find_redis(&fake_redis("6.2.9")?.display().to_string())
        .unwrap_err()
        .to_string();
    for part in [
        "redis-server is needed",
        "is 6.2.9, older than 7.0",
        "apt-get install redis-server",
    ] {
        assert!(error.contains(part), "{error}");
    }
    Ok(())
}

/// A folder with a redis-server that prints this version and can do nothing else.
fn fake_redis(version: &str) -> Result<PathBuf> {
    let folder = folder("fake")?;
    let program = folder.join("redis-server");
    fs::write(
        &program,
        format!("#!/bin/sh\necho 'Redis server v={version} sha=0'\n"),
    )?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    Ok(folder)
}

/// The output of `assets redis-server` when there is nothing in PATH, hence no apt-get, and this in
/// `TENURE_TEST_ASSETS`.
fn find_redis(folders: &str) -> Result<String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_assets"));
    command.arg("redis-server").env("TENURE_TEST_ASSETS", folders);
    command
        .env("PATH", "")
        .env("XDG_CACHE_HOME", folder("cache")?)
        .env_remove("KUBEBUILDER_ASSETS");
    let output = command.output()?;
    ensure!(
        output.status.success(),
        String::from_utf8_lossy(&output.stderr).into_owned()
    );
    Ok(String::from_utf8(output.stdout)?)
}
