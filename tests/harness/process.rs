//! Child processes, folders and ports that do not outlive the run, whatever kills it.
//!
//! The first of them starts a *reaper*: a shell in a process group of its own, which reads from a pipe that only this
//! process can write to. No writer exists. The read ends when this process ends, by whatever cause, `kill -9` and Ctrl-C
//! included; then the reaper kills every process group that is named in `groups/` and removes the run's folder. That is
//! also the ordinary end of a test run, as statics are never dropped.
//!
//! A child waits for a line on its standard input before it becomes the program that it was started for. The line
//! comes after its group is noted, so that there is no moment in which the reaper does not know of it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::{Result, eventually};

/// With `TENURE_TEST_KEEP` set, the folder with its logs stays.
const REAPER: &str = r#"
PATH=/usr/bin:/bin
trap '' HUP INT TERM
read -r _
for group in "$1"/groups/*; do kill -s KILL -- "-${group##*/}"; done
[ -n "$TENURE_TEST_KEEP" ] && exit
for _ in 1 2 3 4 5 6 7 8 9 10; do rm -rf -- "$1" && break; sleep 0.2; done
"#;

struct Run {
    folder: PathBuf,
    /// Its end is what the reaper waits for.
    _pipe: ChildStdin,
}

static RUN: LazyLock<Result<Run>> = LazyLock::new(|| {
    let folder = tempfile::Builder::new().prefix("tenure-").tempdir()?.keep();
    fs::create_dir(folder.join("groups"))?;
    let mut reaper = Command::new("/bin/sh")
        .args([
            OsStr::new("-c"),
            OsStr::new(REAPER),
            OsStr::new("reaper"),
            folder.as_os_str(),
        ])
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("starting the reaper")?;
    let pipe = reaper.stdin.take().context("the reaper has no pipe")?;
    Ok(Run { folder, _pipe: pipe })
});

fn run() -> Result<&'static Run> {
    RUN.as_ref()
        .map_err(|error| anyhow!("preparing the run's folder: {error:#}"))
}

/// A new folder that is removed when the run ends.
pub fn folder(name: &str) -> Result<PathBuf> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let folder = run()?
        .folder
        .join(format!("{name}-{}", COUNT.fetch_add(1, Ordering::Relaxed)));
    fs::create_dir(&folder).with_context(|| format!("creating {}", folder.display()))?;
    Ok(folder)
}

/// A unique name, valid for a Kubernetes namespace: `name` with a random end.
#[must_use]
pub fn unique(name: &str) -> String {
    let name: String = name
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() {
                c.to_ascii_lowercase()
            } else {
                '-'
            }
        })
        .take(50)
        .collect();
    let random = uuid::Uuid::new_v4().simple().to_string();
    format!("{}-{}", name.trim_matches('-'), &random[..8])
}

/// A loopback port that is free and that this process does not get again.
///
/// It lies below the ports that Linux gives to outgoing connections: one of those could take it while its server
/// is down.
pub fn free_port() -> Result<u16> {
    const FIRST: u16 = 16_000;
    const COUNT: u16 = 16_000;
    static NEXT: LazyLock<AtomicU16> = LazyLock::new(|| AtomicU16::new(uuid::Uuid::new_v4().as_fields().1));
    for _ in 0..COUNT {
        let port = FIRST + NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no loopback port from {FIRST} to {} is free", FIRST + COUNT - 1)
}

/// A child process in a process group of its own, with its output in files. Killed when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    pid: Pid,
    output: PathBuf,
    log: PathBuf,
    group: PathBuf,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts `command`, whose standard output and error go to the ends of `NAME.out` and `NAME.err` in `folder`.
    pub fn spawn(name: &str, folder: &Path, command: &Command) -> Result<Self> {
        let output = folder.join(format!("{name}.out"));
        let log = folder.join(format!("{name}.err"));
        let append = |path: &Path| File::options().create(true).append(true).open(path);
        let mut shell = Command::new("/bin/sh");
        shell
            .args(["-c", r#"read -r _ && exec "$@" </dev/null"#, name])
            .arg(command.get_program())
            .args(command.get_args())
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(append(&output)?)
            .stderr(append(&log)?);
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => shell.env(key, value),
                None => shell.env_remove(key),
            };
        }
        if let Some(folder) = command.get_current_dir() {
            shell.current_dir(folder);
        }
        let groups = run()?.folder.join("groups");
        let mut child = shell.spawn().with_context(|| format!("starting {name}"))?;
        let pid = Pid::from_child(&child);
        let group = groups.join(child.id().to_string());
        let go = child.stdin.take().context("no pipe to the child")?;
        let mut process = Self {
            name: name.to_owned(),
            child,
            pid,
            output,
            log,
            group,
            ended: None,
        };
        let noted = File::create(&process.group).and_then(|_| (&go).write_all(b"\n"));
        if let Err(error) = noted {
            process.kill9()?;
            return Err(error).with_context(|| format!("starting {name}"));
        }
        Ok(process)
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal to this process alone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        match self.ended {
            Some(status) => bail!("{} has ended: {status}", self.name),
            None => kill_process(self.pid, signal).with_context(|| format!("signalling {}", self.name)),
        }
    }

    /// Kills its whole process group and waits for its end. Does nothing when it has ended.
    pub fn kill9(&mut self) -> Result<()> {
        if self.exited()?.is_none() {
            // Not the group alone: in the first instant of its life the child may not lead one yet.
            let _ = kill_process_group(self.pid, Signal::KILL);
            self.child.kill()?;
            self.ended = Some(self.child.wait()?);
            let _ = fs::remove_file(&self.group);
        }
        Ok(())
    }

    /// Its exit status, if it has ended.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait()?;
            if self.ended.is_some() {
                // Its number may belong to a stranger from now on.
                let _ = fs::remove_file(&self.group);
            }
        }
        Ok(self.ended)
    }

    /// Waits for its end.
    pub async fn wait(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let what = format!("{} to end", self.name);
        let ended = eventually(&what, deadline, async || self.exited()?.context("it still runs"));
        ended.await.with_context(|| self.tail())
    }

    /// Asks it to end (SIGTERM) and waits until it has.
    pub async fn terminate(&mut self, deadline: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.wait(deadline).await
    }

    /// Waits until `probe` succeeds; fails at once when the process ends, and with the tail of its log.
    pub async fn ready<T>(
        &mut self,
        deadline: Duration,
        mut probe: impl AsyncFnMut(&Self) -> Result<T>,
    ) -> Result<T> {
        let what = format!("{} to be ready", self.name);
        let ready = eventually(&what, deadline, async || match self.exited()? {
            Some(status) => Ok(Err(anyhow!("{} has ended: {status}", self.name))),
            None => probe(self).await.map(Ok),
        });
        ready.await.and_then(|ready| ready).with_context(|| self.tail())
    }

    /// Its standard output so far.
    pub fn output(&self) -> Result<String> {
        read(&self.output)
    }

    /// Its standard error so far.
    pub fn log(&self) -> Result<String> {
        read(&self.log)
    }

    /// The last lines of what it has written, for an error message.
    #[must_use]
    pub fn tail(&self) -> String {
        format!(
            "the last words of {}:\n{}{}",
            self.name,
            tail(&self.output),
            tail(&self.log)
        )
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.kill9();
    }
}

fn read(path: &Path) -> Result<String> {
    let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The last 2 KiB of a file; nothing if it cannot be read.
pub(crate) fn tail(path: &Path) -> String {
    let mut bytes = Vec::new();
    if let Ok(mut file) = File::open(path) {
        let _ = file.seek(SeekFrom::End(-2048));
        let _ = file.read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
