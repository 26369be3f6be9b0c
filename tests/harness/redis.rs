//! Real Redis servers: one that all tests share, and own ones that a test may kill, pause and empty.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::time::Duration;
use std::{env, fs};

use anyhow::{Context, anyhow, ensure};
use redis::aio::MultiplexedConnection;
use redis::{Client, Value};
use rustix::process::Signal;
use tokio::runtime::Runtime;
use tokio::sync::OnceCell;
use tokio::task::spawn_blocking;

use crate::process::{Process, folder, free_port};
use crate::{Proxy, Result, Strict, assets, eventually};

/// Time to start, enough for a big append-only file on a busy machine.
const START: Duration = Duration::from_secs(60);

/// Persistence of a Redis over a restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Persistence {
    /// Nothing.
    #[default]
    None,
    /// A snapshot, made by [`Redis::stop`] and by `SAVE`: a killed server comes back with an old state.
    Rdb,
    /// Everything that it has answered: the append-only file.
    Aof,
}

/// Settings of a Redis: see [`Redis::builder`].
#[derive(Clone, Debug, Default)]
#[allow(clippy::struct_excessive_bools)] // each is a setting of its own
pub struct Builder {
    password: Option<String>,
    persistence: Persistence,
    args: Vec<String>,
    program: Option<&'static str>,
    movable_clock: bool,
    tls: bool,
    counted: bool,
    config: Option<String>,
    direct: bool,
    cluster_bus: Option<u16>,
}

impl Builder {
    /// Clients must authenticate with this password, which should need no escape in a URL.
    #[must_use]
    pub fn password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self
    }

    /// Its persistence over a restart; nothing by default.
    #[must_use]
    pub fn persistence(mut self, persistence: Persistence) -> Self {
        self.persistence = persistence;
        self
    }

    /// More arguments, such as `["--maxclients", "20"]`.
    #[must_use]
    pub fn args(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(|&arg| arg.to_owned()));
        self
    }

    /// Valkey in place of Redis.
    #[must_use]
    pub fn valkey(mut self) -> Self {
        self.program = Some("valkey-server");
        self
    }

    /// Its clock can be moved: see [`Redis::move_clock`].
    #[must_use]
    pub fn movable_clock(mut self) -> Self {
        self.movable_clock = true;
        self
    }

    /// It has to be a program that was built with TLS.
    #[cfg(feature = "kubernetes")]
    pub(crate) fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// Its instructions are counted by callgrind, which makes it some fifty times slower: see [`Redis::instructions`].
    #[must_use]
    pub fn counted(mut self) -> Self {
        self.counted = true;
        // The work of the server's timer would count more on a slow machine.
        self.args(&["--hz", "1", "--dynamic-hz", "no"])
    }

    /// It begins as a replica of that server.
    #[must_use]
    pub fn replica_of(self, master: &Redis) -> Self {
        self.args(&["--replicaof", "127.0.0.1", &master.port().to_string()])
    }

    /// It is a node of a cluster, which the others reach at this port. A strict proxy before it is the address that it
    /// announces.
    pub(crate) fn cluster_bus(mut self, port: u16) -> Self {
        self.cluster_bus = Some(port);
        self.args(&["--cluster-enabled", "yes", "--cluster-port", &port.to_string()])
    }

    /// Clients reach it without a strict proxy, as servers and Sentinels that name one another's addresses have to be.
    pub(crate) fn direct(mut self) -> Self {
        self.direct = true;
        self
    }

    /// It begins with this configuration file, of its own, into which it may write.
    pub(crate) fn config(mut self, text: String) -> Self {
        self.config = Some(text);
        self
    }

    /// Its program. `TENURE_TEST_SERVER` names the one for every Redis, except where the clock moves (libfaketime and the
    /// allocators of most do not get along), where TLS is needed and was not built in, and where a test asks for Valkey.
    fn program(&self) -> String {
        let everywhere = || {
            let name = env::var("TENURE_TEST_SERVER").ok()?;
            let possible = !self.movable_clock && (!self.tls || assets::servers::speaks_tls(&name));
            possible.then_some(name)
        };
        match self.program {
            Some(program) => program.to_owned(),
            None => everywhere().unwrap_or_else(|| "redis-server".to_owned()),
        }
    }

    /// Starts it and waits until it answers.
    pub async fn start(self) -> Result<Redis> {
        let program = self.program();
        let program = spawn_blocking(move || assets::path(&program)).await??;
        let folder = folder("redis")?;
        let data = folder.join("data");
        fs::create_dir(&data)?;
        let port = free_port()?;
        let mut command = if self.counted {
            counted(&program, &folder)
        } else {
            Command::new(program)
        };
        if let Some(text) = self.config {
            let path = folder.join("redis.conf");
            fs::write(&path, text)?;
            command.arg(path);
        }
        command
            .args(["--bind", "127.0.0.1", "--port", &port.to_string()])
            .arg("--dir")
            .arg(&data);
        command.args(match self.persistence {
            Persistence::None => ["--save", "", "--appendonly", "no"],
            // The only save point lies far away, but there must be one for a snapshot to be made on SIGTERM.
            Persistence::Rdb => ["--save", "86400 1", "--appendonly", "no"],
            Persistence::Aof => ["--save", "", "--appendonly", "yes"],
        });
        if let Some(password) = &self.password {
            command.args(["--requirepass", password]);
        }
        command.args(&self.args);
        let strict = match Strict::of_environment()? {
            Some(strict) if !self.direct => Some(before(port, strict).await?),
            _ => None,
        };
        if let (Some(proxy), Some(bus)) = (&strict, self.cluster_bus) {
            command.args(["--cluster-announce-port", &proxy.port().to_string()]);
            command.args(["--cluster-announce-bus-port", &bus.to_string()]);
        }
        let clock = folder.join("clock");
        if self.movable_clock {
            fs::write(&clock, "+0\n")?;
            command
                .env("LD_PRELOAD", spawn_blocking(faketime).await??)
                .env("FAKETIME_TIMESTAMP_FILE", &clock)
                .env("FAKETIME_NO_CACHE", "1")
                .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        }
        let mut process = Process::spawn("redis-server", &folder, &command);
        if self.counted {
            process = process.context("valgrind counts instructions: `sudo apt-get install valgrind`");
        }
        let process = process?;
        let mut redis = Redis {
            port,
            strict,
            password: self.password,
            data,
            folder,
            command,
            process,
            clock: self.movable_clock.then_some(clock),
        };
        redis.ready().await?;
        Ok(redis)
    }
}

/// Returns the command that runs a program under callgrind, which writes its counts into the folder when the program ends.
#[must_use]
pub fn counted(program: &Path, folder: &Path) -> Command {
    let mut command = Command::new("valgrind");
    let out = format!("--callgrind-out-file={}", folder.join("callgrind").display());
    command.args(["--tool=callgrind", &out]).arg(program);
    command
}

/// Returns the number of instructions that callgrind has counted.
pub fn instructions(folder: &Path) -> Result<u64> {
    let text = fs::read_to_string(folder.join("callgrind"))?;
    let total = text
        .lines()
        .find_map(|line| line.strip_prefix("totals: ").or(line.strip_prefix("summary: ")));
    Ok(total.context("callgrind has written no total")?.trim().parse()?)
}

/// A running redis-server. The shared one cannot be stopped, as what stops a server needs `&mut`.
#[derive(Debug)]
pub struct Redis {
    port: u16,
    /// Its clients come this way.
    strict: Option<Proxy>,
    password: Option<String>,
    data: PathBuf,
    folder: PathBuf,
    command: Command,
    process: Process,
    clock: Option<PathBuf>,
}

impl Redis {
    /// The server that all tests of this run share, without password and persistence.
    pub async fn shared() -> Result<&'static Self> {
        static SHARED: OnceCell<Redis> = OnceCell::const_new();
        SHARED.get_or_try_init(Self::start).await
    }

    /// An own server, without password and persistence.
    pub async fn start() -> Result<Self> {
        Self::builder().start().await
    }

    /// An own server with other settings.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Its URL for clients, with the password if it has one. With `TENURE_TEST_STRICT` set it leads through a strict proxy.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_of(self.client_port())
    }

    /// The port for clients: its own, or that of a strict proxy.
    pub(crate) fn client_port(&self) -> u16 {
        self.strict.as_ref().map_or(self.port, Proxy::port)
    }

    fn url_of(&self, port: u16) -> String {
        let password = self
            .password
            .as_deref()
            .map(|password| format!(":{password}@"))
            .unwrap_or_default();
        format!("redis://{password}127.0.0.1:{port}/")
    }

    /// Its port, which stays the same over [`start_again`](Self::start_again).
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The folder that holds its snapshot or append-only file.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// A new connection, to itself.
    pub async fn connection(&self) -> Result<MultiplexedConnection> {
        let client = Client::open(self.url_of(self.port))?;
        client
            .get_multiplexed_async_connection()
            .await
            .with_context(|| format!("connecting to Redis at port {}", self.port))
    }

    /// A connection that shows all commands from now on.
    pub(crate) async fn monitor(&self) -> Result<redis::aio::Monitor> {
        let client = Client::open(self.url_of(self.port))?;
        Ok(client.get_async_monitor().await?)
    }

    /// Sends one command on a connection of its own and returns the reply as redis-cli prints it to a pipe: a line
    /// for each string or number, nothing for nil.
    pub async fn cli(&self, command: &[&str]) -> Result<String> {
        let (name, args) = command.split_first().context("an empty command")?;
        let mut connection = self.connection().await?;
        let reply = redis::cmd(name).arg(args).query_async(&mut connection).await;
        let mut text = String::new();
        print(&reply.with_context(|| command.join(" "))?, &mut text);
        Ok(text)
    }

    /// A field of its `INFO`.
    pub async fn info(&self, field: &str) -> Result<String> {
        let about = self.cli(&["INFO"]).await?;
        let line = |line: &str| Some(line.strip_prefix(field)?.strip_prefix(':')?.trim_end().to_owned());
        let found = about.lines().find_map(line);
        found.with_context(|| format!("INFO has no {field}"))
    }

    /// Waits until this replica has all that its master has written by now. The master's reply to `WAIT` is not enough:
    /// Valkey counts replicas to which it has sent nothing yet.
    pub async fn follows(&self, master: &Self) -> Result {
        let number = async |redis: &Self, field| Ok::<u64, anyhow::Error>(redis.info(field).await?.parse()?);
        let written = number(master, "master_repl_offset").await?;
        let what = format!("the replica at port {} to have it all", self.port);
        eventually(&what, START, async || {
            let (mine, theirs) = (
                self.info("master_replid").await?,
                master.info("master_replid").await?,
            );
            ensure!(mine == theirs, "it follows {mine}, which is not {theirs}");
            let read = number(self, "slave_repl_offset").await?;
            ensure!(read >= written, "it has {read} of {written} bytes");
            Ok(())
        })
        .await
    }

    /// Stops a [counted](Builder::counted) server, and returns the number of instructions that it has executed.
    pub async fn instructions(mut self) -> Result<u64> {
        self.stop().await?;
        instructions(&self.folder)
    }

    /// Kills it; what it has not written to disk is lost.
    pub fn kill9(&mut self) -> Result<()> {
        self.process.kill9()
    }

    /// Stops it in order; with [`Persistence::Rdb`] it saves a snapshot first.
    pub async fn stop(&mut self) -> Result<()> {
        let status = self.process.terminate(START).await?;
        ensure!(
            status.success(),
            "redis-server ended with {status}: {}",
            self.process.tail()
        );
        Ok(())
    }

    /// Starts it on the same port with the data that it has kept.
    pub async fn start_again(&mut self) -> Result<()> {
        ensure!(self.process.exited()?.is_some(), "stop or kill it first");
        self.process = Process::spawn("redis-server", &self.folder, &self.command)?;
        self.ready().await
    }

    /// Removes what it has kept; it must not run.
    pub fn wipe_data(&mut self) -> Result<()> {
        ensure!(self.process.exited()?.is_some(), "stop or kill it first");
        fs::remove_dir_all(&self.data)?;
        fs::create_dir(&self.data)?;
        Ok(())
    }

    /// Stops the process (SIGSTOP): connections stay open and nothing is answered.
    pub fn pause(&self) -> Result<()> {
        self.process.signal(Signal::STOP)
    }

    /// Resumes it after [`pause`](Self::pause).
    pub fn resume(&self) -> Result<()> {
        self.process.signal(Signal::CONT)
    }

    /// Sets its clock to the true time and this many seconds.
    pub fn move_clock(&self, seconds: i64) -> Result<()> {
        let clock = self
            .clock
            .as_ref()
            .context("it was not started with movable_clock")?;
        // In one step: it may be read at any moment.
        let next = clock.with_extension("next");
        fs::write(&next, format!("{seconds:+}\n"))?;
        fs::rename(next, clock)?;
        Ok(())
    }

    async fn ready(&mut self) -> Result<()> {
        let client = Client::open(self.url_of(self.port))?;
        // PING is refused while data is being loaded.
        let ping = async |_: &Process| {
            let mut connection = client.get_multiplexed_async_connection().await?;
            Ok(redis::cmd("PING").exec_async(&mut connection).await?)
        };
        self.process.ready(START, ping).await
    }
}

/// A strict proxy before that port. Its tasks have a runtime of their own: it may be shared by tests that have others.
async fn before(port: u16, strict: Strict) -> Result<Proxy> {
    static RUNTIME: LazyLock<std::io::Result<Runtime>> = LazyLock::new(|| {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(1).enable_all().build()
    });
    let runtime = RUNTIME.as_ref().map_err(|error| anyhow!("{error}"))?;
    runtime.spawn(Proxy::start_strict(port, strict)).await?
}

/// Environment that makes the dynamic linker put libfaketime before the clock. The allocator that Redis is linked with asks
/// for the time before libfaketime is ready, so that the C library's own has to stand before it.
fn faketime() -> Result<String> {
    let program = assets::path("faketime")?;
    let output = Command::new(program)
        .args(["-f", "+0", "printenv", "LD_PRELOAD"])
        .output()?;
    ensure!(output.status.success(), "faketime does not say what it preloads");
    Ok(format!("{}:libc.so.6", String::from_utf8(output.stdout)?.trim()))
}

fn print(value: &Value, text: &mut String) {
    let _ = match value {
        Value::Nil => Ok(()),
        Value::Int(number) => writeln!(text, "{number}"),
        Value::BulkString(bytes) => writeln!(text, "{}", String::from_utf8_lossy(bytes)),
        Value::SimpleString(string) => writeln!(text, "{string}"),
        Value::Okay => writeln!(text, "OK"),
        Value::Array(values) | Value::Set(values) => {
            for value in values {
                print(value, text);
            }
            Ok(())
        }
        Value::Map(pairs) => {
            for (key, value) in pairs {
                print(key, text);
                print(value, text);
            }
            Ok(())
        }
        other => writeln!(text, "{other:?}"),
    };
}
