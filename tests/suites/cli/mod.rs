//! The command `tenure` on real servers.
//!
//! | module | contents |
//! |---|---|
//! | [`doctor`] | `tenure doctor` |
//! | [`exec`] | `tenure exec`: the command, its codes, environment, signals and streams |
//! | [`exec_loss`] | `tenure exec`: the reasons for which the command is ended |
//! | [`exec_tree`] | `tenure exec`: all that the command starts, and a command that is stopped |
//! | [`krew`] | the manifest for krew |
//! | [`kubeconfig`] | a kubeconfig as the only way to Redis |
//! | [`kubernetes`] | the commands that use the API server, and `watch` |
//! | [`lease`] | `tenure acquire`, `renew` and `release` |
//! | [`view`] | `tenure get`, `holders`, `queue` and `why` |
//! | [`recipes`] | the manifests in `docs/jobs.md` |
//! | [`serve`] | `tenure serve`: leases over HTTP, and `docs/sidecar.md` |
//! | [`once`] | `tenure once`: one of many runs the command |

mod doctor;
mod exec;
mod exec_loss;
mod exec_tree;
mod krew;
mod kubeconfig;
mod kubernetes;
mod lease;
mod once;
mod recipes;
mod serve;
mod view;

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
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

    /// Another program, with the settings of `tenure`, which it finds as `$TENURE`.
    fn program(&self, name: &str) -> Result<Command> {
        let tenure = self.tenure("")?;
        let mut command = Command::new(name);
        command
            .env("TENURE", tenure.get_program())
            .current_dir(&self.folder);
        for (name, value) in tenure.get_envs() {
            command.env(name, value.unwrap_or(OsStr::new("")));
        }
        Ok(command)
    }

    /// A named pipe, which keeps a script that reads from it until something is written to it.
    fn pipe(&self, name: &str) -> Result<PathBuf> {
        let pipe = self.folder.join(name);
        ensure!(Command::new("mkfifo").arg(&pipe).status()?.success(), "mkfifo");
        Ok(pipe)
    }

    /// A process id that a script has written.
    fn pid(&self, file: &str) -> Result<String> {
        Ok(fs::read_to_string(self.folder.join(file))?.trim().to_owned())
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

/// Runs a command to its end, without input.
async fn output(command: Command) -> Result<Output> {
    output_of(command, Stdio::null()).await
}

/// Runs a command to its end. Its output goes to files: a process that it has left behind would hold a pipe open.
async fn output_of(mut command: Command, input: impl Into<Stdio>) -> Result<Output> {
    let folder = folder("output")?;
    let (out, err) = (folder.join("out"), folder.join("err"));
    command
        .stdin(input)
        .stdout(fs::File::create(&out)?)
        .stderr(fs::File::create(&err)?);
    let mut child = command.spawn()?;
    let ended = eventually("its end", SOON, async || child.try_wait()?.context("it runs")).await;
    if ended.is_err() {
        child.kill()?;
        child.wait()?;
    }
    Ok(Output {
        status: ended?,
        stdout: fs::read(out)?,
        stderr: fs::read(err)?,
    })
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

fn signal(pid: &str, signal: Signal) -> Result {
    kill_process(Pid::from_raw(pid.parse()?).context("no pid")?, signal)?;
    Ok(())
}

/// The parent of a process: of the command, its guardian.
fn parent(pid: &str) -> Result<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:"));
    Ok(line.context("no parent")?.trim().to_owned())
}

/// Stops a `tenure` that holds the lock until the lease has run out and the next has the lock: `check` looks at what is left then. The
/// continued one ends, and reports the loss.
async fn stopped_until_the_next_holds(
    bench: &Bench,
    process: &mut Process,
    lock: &str,
    check: impl FnOnce() -> Result,
) -> Result {
    process.signal(Signal::STOP)?;
    // The server grants the lock to the next when the lease has run out. By then the command has ended.
    let next = bench.client.lock(lock)?.acquire().await?;
    check()?;
    next.release().await?;
    process.signal(Signal::CONT)?;
    let status = process.wait(SOON).await?;
    ensure!(status.code() == Some(73), "{status}: {}", process.tail());
    Ok(())
}

/// Runs a line of a shell on a terminal of its own, at which `hello` is typed. `$TENURE` is the program.
async fn on_terminal(bench: &Bench, line: &str) -> Result<String> {
    let typed = bench.folder.join("typed");
    fs::write(&typed, "hello\n")?;
    let mut command = bench.program("script")?;
    command.args(["-qec", line, "/dev/null"]);
    let ended = output_of(command, fs::File::open(&typed)?).await?;
    Ok(text(&ended.stdout))
}
