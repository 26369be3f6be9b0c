//! The command `tenure` on real servers.
//!
//! | module | contents |
//! |---|---|
//! | [`exec`] | `tenure exec`: the command, its codes, environment, signals and streams |
//! | [`exec_loss`] | `tenure exec`: the reasons for which the command is ended |
//! | [`once`] | `tenure once`: one of many runs the command |

mod exec;
mod exec_loss;
mod once;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use tenure::{Client, Kind, ObjectRef, control::Snapshot};
use tenure_tests::{Context, Process, Redis, Result, binaries, ensure, eventually, process::folder, unique};

const SOON: Duration = Duration::from_secs(60);

/// A namespace of its own on a Redis.
struct Bench {
    url: String,
    namespace: String,
    folder: PathBuf,
    client: Client,
}

impl Bench {
    async fn shared() -> Result<Self> {
        Self::on(Redis::shared().await?).await
    }

    async fn on(redis: &Redis) -> Result<Self> {
        let namespace = unique("cli");
        let client = Client::builder(redis.url())
            .namespace(&namespace)
            .connect()
            .await?;
        Ok(Self {
            url: redis.url(),
            namespace,
            folder: folder("cli")?,
            client,
        })
    }

    /// `tenure` with these arguments, which are separated by spaces.
    fn tenure(&self, args: &str) -> Result<Command> {
        let mut command = Command::new(binaries::find("tenure")?);
        command
            .args(args.split_whitespace())
            .env("TENURE_REDIS_URL", &self.url)
            .env("TENURE_NAMESPACE", &self.namespace)
            .env_remove("POD_NAME")
            .current_dir(&self.folder);
        Ok(command)
    }

    /// `tenure ARGS -- sh -c SCRIPT`.
    fn script(&self, args: &str, script: &str) -> Result<Command> {
        let mut command = self.tenure(args)?;
        command.args(["--", "sh", "-c", script]);
        Ok(command)
    }

    fn start(&self, name: &str, command: &Command) -> Result<Process> {
        Process::spawn(name, &self.folder, command)
    }

    fn object(&self, kind: Kind, name: &str) -> Result<ObjectRef> {
        Ok(ObjectRef::new(kind, &self.namespace, name)?)
    }

    async fn look(&self, kind: Kind, name: &str) -> Result<Option<Snapshot>> {
        let object = self.object(kind, name)?;
        Ok(self.client.control().look(&object, 100).await?)
    }

    /// Waits until so many wait for the lock.
    async fn waiting(&self, name: &str, number: u64) -> Result {
        eventually("the queue", SOON, async || {
            let seen = self.look(Kind::Lock, name).await?;
            let waiting = seen.map_or(0, |seen| seen.waiting);
            ensure!(waiting == number, "{waiting} wait");
            Ok(())
        })
        .await
    }

    async fn reclaim(&self, name: &str) -> Result {
        let seen = self.look(Kind::Lock, name).await?.context("it is free")?;
        let tokens: Vec<_> = seen.holders.iter().map(|view| view.token.clone()).collect();
        let object = self.object(Kind::Lock, name)?;
        let cause = "reclaimed by the test";
        ensure!(
            self.client.control().reclaim(&object, &tokens, cause).await? == 1,
            "it was not held"
        );
        Ok(())
    }
}

/// Runs a command to its end, on a thread of its own.
async fn output(mut command: Command) -> Result<Output> {
    command.stdin(Stdio::null());
    Ok(tokio::task::spawn_blocking(move || command.output()).await??)
}

fn code(output: &Output) -> Result<i32> {
    output.status.code().with_context(|| format!("{output:?}"))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Waits until a process has written its line.
async fn printed(process: &mut Process, line: &str) -> Result<String> {
    let what = format!("{line:?} to be printed");
    eventually(&what, SOON, async || {
        let output = process.output()?;
        ensure!(output.contains(line), "{output}{}", process.tail());
        Ok(output)
    })
    .await
}

/// Does a process of that id run? A zombie does not.
fn runs(pid: &str) -> bool {
    fs::read_to_string(Path::new("/proc").join(pid.trim()).join("stat")).is_ok_and(|stat| {
        stat.rsplit(") ")
            .next()
            .is_some_and(|rest| !rest.starts_with('Z'))
    })
}

async fn gone(pid: &str) -> Result {
    let what = format!("process {pid} to end");
    eventually(&what, SOON, async || {
        ensure!(!runs(pid), "it runs");
        Ok(())
    })
    .await
}
