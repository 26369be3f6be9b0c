//! docs/backup.md: its commands against a Redis that is written to, with a controller beside it.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use tenure::RegisterValue;
use tenure_tests::{Context, ControlPlane, Controller, Result, ensure, eventually, process::free_port};
use tokio::task::spawn_blocking;

use super::probes::Pod;

const SOON: Duration = Duration::from_secs(30);
const PAGE: &str = include_str!("../../../docs/backup.md");

/// The `tar` command of the page with this option, in a folder that stands for the volume.
fn tar(option: &str, data: &Path) -> Result<Command> {
    let line = PAGE
        .lines()
        .find(|line| line.contains(&format!("-- tar {option}")));
    let words = line
        .and_then(|line| line.split_once("-- tar "))
        .context("no tar")?
        .1;
    let words = words.split(['<', '>']).next().unwrap_or_default();
    let mut command = Command::new("tar");
    for word in words.split_whitespace() {
        if word == "/data" {
            command.arg(data);
        } else {
            command.arg(word);
        }
    }
    Ok(command)
}

#[tokio::test]
async fn a_copy_of_a_busy_redis_restores_registers_and_no_fencing_token_repeats() -> Result {
    let plane = ControlPlane::shared().await?;
    let namespace = plane.namespace("chart-backup").await?;
    let port = free_port()?;
    let pod = Pod::of_mode("no-access", port).await?;
    let (data, backup) = (pod.folder.join("data"), pod.folder.join("backup.tar"));
    let mut redis = pod.start()?;
    let url = format!("redis://:sesame@127.0.0.1:{port}");
    let controller = Controller::start(plane, &url, &[&namespace]).await?;
    plane
        .apply(&format!(
            "apiVersion: tenure.dev/v1alpha1\nkind: Semaphore\nmetadata: {{name: calls, namespace: {namespace}}}\n\
             spec: {{permits: 1, leaseDurationSeconds: 2}}\n"
        ))
        .await?;
    let client = tenure::Client::builder(&url)
        .namespace(&namespace)
        .connect_lazily()?;
    let calls = client.semaphore("calls")?;
    let token = async || {
        eventually("a permit", SOON, async || {
            let permit = calls
                .acquire_timeout(Duration::from_secs(5))
                .await?
                .context("none is free")?;
            let token = permit.fencing_token();
            permit.release().await?;
            Ok(token)
        })
        .await
        .with_context(|| controller.logs().unwrap_or_default())
    };
    let before = token().await?;
    let cursor = client.register("cursor")?;
    cursor.set(1).await?;

    let busy = client.register("busy")?;
    let writer = tokio::spawn(async move {
        for number in 0.. {
            busy.set(number).await?;
        }
        Ok::<_, tenure::Error>(())
    });
    let (file, mut create) = (fs::File::create(&backup)?, tar("--create", &data)?);
    let status = spawn_blocking(move || create.stdout(file).stderr(Stdio::null()).status()).await??;
    ensure!(matches!(status.code(), Some(0 | 1)), "{status}");
    writer.abort();

    cursor.set(2).await?;
    let after = token().await?;
    ensure!(after > before, "{before} {after}");
    redis.terminate(SOON).await?;
    fs::remove_dir_all(data.join("appendonlydir"))?;
    let (file, mut extract) = (fs::File::open(&backup)?, tar("--extract", &data)?);
    let status = spawn_blocking(move || extract.stdin(file).status()).await??;
    ensure!(status.success(), "{status}");
    let redis = pod.start()?;
    eventually("the register of the backup", SOON, async || {
        let value = cursor.get().await?;
        ensure!(value == Some(RegisterValue::from(1)), "{value:?}");
        Ok(())
    })
    .await
    .with_context(|| redis.tail())?;
    let restored = token().await?;
    ensure!(restored > after, "the token {after} was followed by {restored}");
    Ok(())
}
