//! The chart's rendered probes of Redis against a real Redis in each of its states.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use tenure::control::acl;
use tenure_tests::{
    Context, Process, Redis, Result, assets, ensure, eventually,
    process::{folder, free_port},
    redis::Persistence,
};
use tokio::{task::spawn_blocking, time::timeout};

use super::{mode_file, objects, render};

const PASSWORD: &str = "sesame";
const SOON: Duration = Duration::from_secs(20);

/// A Redis with the user as which the probes ask.
fn redis() -> tenure_tests::redis::Builder {
    let user = ["--user", "tenure-pod", "on", &format!(">{PASSWORD}"), "+ping"];
    Redis::builder().password(PASSWORD).args(&user)
}

#[tokio::test]
async fn a_redis_that_answers_is_alive_and_ready() -> Result {
    let redis = redis().start().await?;
    let pod = Pod::rendered(redis.port()).await?;
    assert_eq!(pod.liveness().await?, Ok(()));
    assert_eq!(pod.readiness().await?, Ok(()));
    Ok(())
}

#[tokio::test]
async fn a_redis_that_loads_its_file_is_alive_and_not_ready() -> Result {
    let mut redis = redis()
        .persistence(Persistence::Rdb)
        // A tenth of a second a key, and an ear for others after each.
        .args(&[
            "--key-load-delay",
            "100000",
            "--loading-process-events-interval-bytes",
            "1024",
        ])
        .args(&["--rdbcompression", "no"])
        .start()
        .await?;
    let fill = "for i = 1, 30 do redis.call('SET', i, string.rep('x', 2048)) end";
    redis.cli(&["EVAL", fill, "0"]).await?;
    redis.stop().await?;
    let pod = Pod::rendered(redis.port()).await?;
    let loading = eventually("the probes to see it load", SOON, async || {
        let refusal = pod.readiness().await?.err().context("it is ready already")?;
        ensure!(refusal.starts_with("LOADING"), "{refusal}");
        ensure!(pod.liveness().await? == Ok(()), "it is taken for dead");
        Ok(())
    });
    let (loading, started) = tokio::join!(loading, redis.start_again());
    loading?;
    started?;
    assert_eq!(pod.readiness().await?, Ok(()));
    Ok(())
}

#[tokio::test]
async fn a_redis_that_is_kept_busy_by_a_script_is_alive_and_not_ready() -> Result {
    let redis = redis().args(&["--busy-reply-threshold", "50"]).start().await?;
    let pod = Pod::rendered(redis.port()).await?;
    let mut connection = redis.connection().await?;
    let mut eval = redis::cmd("EVAL");
    let endless = eval.arg("while true do end").arg(0).exec_async(&mut connection);
    let busy = eventually("the probes to see it busy", SOON, async || {
        let refusal = pod.readiness().await?.err().context("it is ready")?;
        ensure!(refusal.starts_with("BUSY"), "{refusal}");
        ensure!(pod.liveness().await? == Ok(()), "it is taken for dead");
        redis.cli(&["SCRIPT", "KILL"]).await?;
        Ok(())
    });
    let (busy, killed) = tokio::join!(busy, endless);
    busy?;
    ensure!(killed.is_err(), "the script ended by itself");
    Ok(())
}

#[tokio::test]
async fn a_redis_that_cannot_write_to_its_disk_is_alive_and_not_ready() -> Result {
    let redis = redis().persistence(Persistence::Rdb).start().await?;
    // A snapshot cannot take the place of a folder.
    fs::create_dir(redis.data().join("dump.rdb"))?;
    redis.cli(&["BGSAVE"]).await?;
    let pod = Pod::rendered(redis.port()).await?;
    eventually("the probes to see it refuse writes", SOON, async || {
        let refusal = pod.readiness().await?.err().context("it is ready")?;
        ensure!(refusal.starts_with("MISCONF"), "{refusal}");
        Ok(())
    })
    .await?;
    assert_eq!(pod.liveness().await?, Ok(()));
    // The disk has space again.
    fs::remove_dir(redis.data().join("dump.rdb"))?;
    redis.cli(&["BGSAVE"]).await?;
    eventually("the probes to see it write", SOON, async || {
        ensure!(pod.readiness().await? == Ok(()), "it is not ready");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_redis_that_is_not_there_or_hangs_is_neither_alive_nor_ready() -> Result {
    let nowhere = Pod::rendered(free_port()?).await?;
    for answer in [nowhere.liveness().await?, nowhere.readiness().await?] {
        let refusal = answer.err().context("the probe succeeds")?;
        ensure!(refusal.contains("Connection refused"), "{refusal}");
    }
    let redis = redis().start().await?;
    let pod = Pod::rendered(redis.port()).await?;
    redis.pause()?;
    // The kubelet ends a probe that does not end, and takes it as failed.
    let patience = Duration::from_millis(500);
    ensure!(timeout(patience, pod.liveness()).await.is_err(), "it is alive");
    ensure!(timeout(patience, pod.readiness()).await.is_err(), "it is ready");
    redis.resume()
}

#[tokio::test]
async fn a_password_that_its_configuration_could_not_hold_is_refused() -> Result {
    let pod = Pod::rendered(free_port()?).await?;
    for password in [
        "",
        "two words",
        "quo\"te",
        "back\\slash",
        "two\nlines",
        "pässword",
    ] {
        for key in ["password", "previous-password"] {
            fs::write(
                pod.folder.join(key),
                if key == "password" { PASSWORD } else { password },
            )?;
        }
        let answer = pod.run("/command").await?;
        let refusal = answer.err().with_context(|| format!("{password:?} is taken"))?;
        ensure!(
            refusal.contains("must be of printable ASCII"),
            "{password:?}: {refusal}"
        );
    }
    Ok(())
}

/// Starts Redis as the pod does, at this port.
async fn start(mode: &str, port: u16) -> Result<(Process, Pod)> {
    let pod = Pod::of_mode(mode, port).await?;
    Ok((pod.start()?, pod))
}

/// Redis reads its file as the user default: it leaves out transactions, such as those of scripts, that this user may not do.
#[tokio::test]
async fn a_restart_finds_what_scripts_have_written() -> Result {
    let port = free_port()?;
    let (mut redis, pod) = start("default", port).await?;
    let url = format!("redis://tenure-controller:{PASSWORD}@127.0.0.1:{port}");
    let client = tenure::Client::builder(&url).namespace("ml").connect_lazily()?;
    let lock = tenure::ObjectRef::new(tenure::Kind::Lock, "ml", "x")?;
    let declaration = tenure::control::Declaration::new(tenure::control::Capacity::Permits(1));
    eventually("the declaration", SOON, async || {
        client.control().declare(&lock, &declaration).await?;
        Ok(())
    })
    .await
    .with_context(|| redis.tail())?;
    redis.kill9()?;
    let redis = pod.start()?;
    eventually("Redis to be back", SOON, async || {
        let seen = client.control().observe(&lock, 1).await?;
        ensure!(seen.is_some(), "the declaration is lost: {}", redis.tail());
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_default_user_is_off_and_the_controller_has_the_rights_that_it_needs() -> Result {
    let port = free_port()?;
    let (redis, pod) = start("default", port).await?;
    eventually("the probes to pass", SOON, async || {
        ensure!(
            pod.liveness().await? == Ok(()) && pod.readiness().await? == Ok(()),
            "{}",
            redis.tail()
        );
        Ok(())
    })
    .await?;
    for credentials in ["", ":sesame@", "default:sesame@", "tenure-controller:other@"] {
        let url = format!("redis://{credentials}127.0.0.1:{port}");
        let Ok(mut connection) = redis::Client::open(url)?.get_multiplexed_async_connection().await else {
            continue;
        };
        let ping = redis::cmd("PING").exec_async(&mut connection).await;
        ensure!(ping.is_err(), "{credentials:?} is let in");
    }
    let url = format!("redis://tenure-controller:sesame@127.0.0.1:{port}");
    let mut connection = redis::Client::open(url)?
        .get_multiplexed_async_connection()
        .await?;
    let users: Vec<String> = redis::cmd("ACL").arg("LIST").query_async(&mut connection).await?;
    let of = |name: &str| {
        let start = format!("user {name} ");
        users
            .iter()
            .find(|user| user.starts_with(&start))
            .cloned()
            .context("no such user")
    };
    ensure!(
        of("default")?.contains(" off ") && !of("default")?.contains("nopass"),
        "{users:?}"
    );
    let rules = [acl::controller_rules("tenure")?, acl::access_rules()].concat();
    let more = ["+client|id", "+client|kill", "+ping"].map(str::to_owned);
    let rules: BTreeSet<String> = rules.into_iter().chain(more).collect();
    let line = of("tenure-controller")?;
    let has = line.split(' ').filter(|word| word.starts_with(['~', '&', '+']));
    let has: BTreeSet<String> = has.map(str::to_owned).collect();
    let want: Vec<&str> = rules.iter().map(String::as_str).collect();
    ensure!(
        has == rules,
        "charts/tenure/templates/access.yaml differs from lib/src/control/acl.rs; it should give {}",
        want.join(" ")
    );
    Ok(())
}

#[tokio::test]
async fn without_access_the_password_is_that_of_the_default_user() -> Result {
    let port = free_port()?;
    let (redis, _pod) = start("no-access", port).await?;
    eventually("Redis", SOON, async || {
        let url = format!("redis://:{PASSWORD}@127.0.0.1:{port}");
        let mut connection = redis::Client::open(url)?
            .get_multiplexed_async_connection()
            .await?;
        redis::cmd("PING").exec_async(&mut connection).await?;
        Ok(())
    })
    .await
    .with_context(|| redis.tail())
}

/// The container of Redis, with its commands, and the folder that stands for its volumes.
pub(super) struct Pod {
    container: serde_json::Value,
    pub(super) folder: PathBuf,
    path: OsString,
}

impl Pod {
    async fn rendered(port: u16) -> Result<Self> {
        Self::of_mode("default", port).await
    }

    /// In a pod, Redis listens where redis-cli looks for it; here it listens at `port`. The probes log in with [`PASSWORD`] to a Redis
    /// that the pod has not started.
    pub(super) async fn of_mode(mode: &str, port: u16) -> Result<Self> {
        let objects = objects(&render(&mode_file(mode), &[]).await?)?;
        let of_redis = |kind: &str| {
            let named = objects
                .iter()
                .find(|object| object["kind"] == kind && object["metadata"]["name"] == "tenure-redis");
            named.with_context(|| format!("no {kind}"))
        };
        let conf = of_redis("ConfigMap")?["data"]["redis.conf"]
            .as_str()
            .context("no redis.conf")?;
        let container = of_redis("StatefulSet")?["spec"]["template"]["spec"]["containers"][0].clone();
        let (folder, bin) = (folder("pod")?, folder("bin")?);
        fs::create_dir(folder.join("data"))?;
        fs::write(folder.join("redis.conf"), in_folder(conf, &folder))?;
        for file in ["password", "pod"] {
            fs::write(folder.join(file), PASSWORD)?;
        }
        let is_secure = conf.contains("tls-port");
        let server = spawn_blocking(|| assets::path("redis-server")).await??;
        let cli = server.with_file_name("redis-cli");
        ensure!(
            cli.exists(),
            "{} is missing: apt-get install redis-tools",
            cli.display()
        );
        for (name, program, args) in [
            (
                "redis-server",
                server,
                format!(
                    "--bind 127.0.0.1 {} {port}",
                    if is_secure { "--tls-port" } else { "--port" }
                ),
            ),
            ("redis-cli", cli, format!("-p {port}")),
        ] {
            let script = format!("#!/bin/sh\nexec {} {args} \"$@\"\n", program.display());
            fs::write(bin.join(name), script)?;
            fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755))?;
        }
        let path = std::env::join_paths([&*bin, Path::new("/usr/bin"), Path::new("/bin")])?;
        Ok(Self {
            container,
            folder,
            path,
        })
    }

    /// Starts Redis by the command of the container.
    pub(super) fn start(&self) -> Result<Process> {
        Process::spawn("redis-server", &self.folder, &self.command("/command")?)
    }

    /// `Ok` or the output of the probe.
    pub(super) async fn liveness(&self) -> Result<std::result::Result<(), String>> {
        self.run("/livenessProbe/exec/command").await
    }

    /// See [`Pod::liveness`].
    pub(super) async fn readiness(&self) -> Result<std::result::Result<(), String>> {
        self.run("/readinessProbe/exec/command").await
    }

    async fn run(&self, command: &str) -> Result<std::result::Result<(), String>> {
        let mut process = Process::spawn("probe", &folder("probe")?, &self.command(command)?)?;
        let status = process.wait(SOON).await?;
        let said = process.output()? + &process.log()?;
        Ok(if status.success() { Ok(()) } else { Err(said) })
    }

    fn command(&self, command: &str) -> Result<Command> {
        let words = self
            .container
            .pointer(command)
            .with_context(|| format!("no {command}"))?;
        let words: Vec<String> = serde_json::from_value(words.clone())?;
        let mut program = Command::new(&words[0]);
        program
            .args(words[1..].iter().map(|word| in_folder(word, &self.folder)))
            .env("PATH", &self.path);
        Ok(program)
    }
}

/// A text with the paths of the pod in this folder.
fn in_folder(text: &str, folder: &Path) -> String {
    let folder = folder.display();
    [
        "/etc/redis",
        "/run/secrets/tenure-redis-tls",
        "/run/secrets/tenure-redis",
        "/run/tenure",
    ]
    .iter()
    .fold(text.to_owned(), |text, path| {
        text.replace(path, &folder.to_string())
    })
    .replace("dir /data", &format!("dir {folder}/data"))
    // The loop that looks for a renewed certificate.
    .replace("sleep 30", "sleep 0.1")
}
