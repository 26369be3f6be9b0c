//! Real Sentinels around a master and its replicas: servers that change their roles while clients use them.
//!
//! Servers and Sentinels are plain [`Redis`] processes, each on a port of its own. A server is named by its index; 0 is the
//! master at the start; later it has to be asked for.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::sync::OnceCell;

use crate::{Redis, Result, eventually};

/// The Sentinels' name of the master.
pub const SERVICE: &str = "primary";

/// An election takes up to three times the failover timeout when the votes are split.
const FAILOVER: Duration = Duration::from_secs(60);
const FORMED: Duration = Duration::from_secs(60);
const SENTINELS: usize = 3;
const QUORUM: usize = 2;

/// Settings of a master with its replicas and Sentinels: see [`Sentinel::builder`].
#[derive(Clone, Debug)]
pub struct Builder {
    replicas: usize,
    down_after: Duration,
    password: Option<String>,
    sentinel_password: Option<String>,
    valkey: bool,
}

impl Builder {
    /// Number of replicas; one by default.
    #[must_use]
    pub fn replicas(mut self, replicas: usize) -> Self {
        self.replicas = replicas;
        self
    }

    /// Time for which the master may be silent; a second by default.
    #[must_use]
    pub fn down_after(mut self, down_after: Duration) -> Self {
        self.down_after = down_after;
        self
    }

    /// The servers' password, which is in the URL too.
    #[must_use]
    pub fn password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self
    }

    /// The Sentinels' own password, which is not in the URL.
    #[must_use]
    pub fn sentinel_password(mut self, password: &str) -> Self {
        self.sentinel_password = Some(password.to_owned());
        self
    }

    /// Valkey in place of Redis.
    #[must_use]
    pub fn valkey(mut self) -> Self {
        self.valkey = true;
        self
    }

    /// Starts all of them and waits until every Sentinel knows the others and the replicas, and these have their data.
    pub async fn start(self) -> Result<Sentinel> {
        let master = self.server().start().await?;
        let port = master.port().to_string();
        let mut servers = vec![master];
        for _ in 0..self.replicas {
            let replica = self.server().replica_of(&servers[0]);
            servers.push(replica.start().await?);
        }
        let mut sentinels = Vec::new();
        for _ in 0..SENTINELS {
            sentinels.push(self.sentinel(&port).start().await?);
        }
        let started = Sentinel {
            servers,
            sentinels,
            password: self.password,
            silent: BTreeSet::new(),
            dead: BTreeSet::new(),
        };
        started.formed().await?;
        Ok(started)
    }

    fn server(&self) -> crate::redis::Builder {
        // Without a pause for more replicas to come before the first one gets its data.
        let mut builder = Redis::builder()
            .direct()
            .args(&["--repl-diskless-sync-delay", "0"]);
        if let Some(password) = &self.password {
            builder = builder.password(password).args(&["--masterauth", password]);
        }
        if self.valkey { builder.valkey() } else { builder }
    }

    fn sentinel(&self, port: &str) -> crate::redis::Builder {
        let mut config = format!(
            "sentinel monitor {SERVICE} 127.0.0.1 {port} {QUORUM}\n\
             sentinel down-after-milliseconds {SERVICE} {}\n\
             sentinel failover-timeout {SERVICE} 5000\n\
             sentinel parallel-syncs {SERVICE} 5\n",
            self.down_after.as_millis()
        );
        if let Some(password) = &self.password {
            let _ = writeln!(config, "sentinel auth-pass {SERVICE} {password}");
        }
        let mut builder = Redis::builder().direct().config(config).args(&["--sentinel"]);
        if let Some(password) = &self.sentinel_password {
            builder = builder.password(password);
        }
        if self.valkey { builder.valkey() } else { builder }
    }
}

/// A master, its replicas and three Sentinels, of which two have to agree.
#[derive(Debug)]
pub struct Sentinel {
    servers: Vec<Redis>,
    sentinels: Vec<Redis>,
    password: Option<String>,
    /// Servers that have been killed or paused.
    silent: BTreeSet<usize>,
    /// Sentinels that have been killed.
    dead: BTreeSet<usize>,
}

impl Sentinel {
    /// The Sentinels that all tests of this run share: a test must not stop one of them, or hand over. They are patient
    /// with a busy machine.
    pub async fn shared() -> Result<&'static Self> {
        static SHARED: OnceCell<Sentinel> = OnceCell::const_new();
        let patient = || Self::builder().down_after(Duration::from_secs(15)).start();
        SHARED.get_or_try_init(patient).await
    }

    /// One replica, no passwords.
    pub async fn start() -> Result<Self> {
        Self::builder().start().await
    }

    /// With other settings.
    #[must_use]
    pub fn builder() -> Builder {
        Builder {
            replicas: 1,
            down_after: Duration::from_secs(1),
            password: None,
            sentinel_password: None,
            valkey: false,
        }
    }

    /// The URL for clients, with all Sentinels.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_of(SERVICE)
    }

    /// The URL with another service, or with a database behind it.
    #[must_use]
    pub fn url_of(&self, service: &str) -> String {
        let password = self.password.as_deref();
        let password = password
            .map(|password| format!(":{password}@"))
            .unwrap_or_default();
        let hosts: Vec<_> = self.sentinels.iter().map(address).collect();
        format!("redis+sentinel://{password}{}/{service}", hosts.join(","))
    }

    /// The server at this index, whatever its role.
    #[must_use]
    pub fn server(&self, index: usize) -> &Redis {
        &self.servers[index]
    }

    /// The Sentinels.
    #[must_use]
    pub fn sentinels(&self) -> &[Redis] {
        &self.sentinels
    }

    /// The master, on which all running Sentinels and the server itself agree.
    pub async fn master(&self) -> Result<usize> {
        let mut named = BTreeSet::new();
        for sentinel in self.running_sentinels() {
            let answer = sentinel
                .cli(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE])
                .await?;
            let port: u16 = answer.lines().nth(1).context("no master")?.parse()?;
            let index = self.servers.iter().position(|server| server.port() == port);
            named.insert(index.with_context(|| format!("a stranger at {port} is the master"))?);
        }
        ensure!(named.len() == 1, "the Sentinels name {named:?}");
        let master = *named.first().context("no Sentinel is left")?;
        ensure!(!self.silent.contains(&master), "{master} does not answer");
        let role = self.servers[master].info("role").await?;
        ensure!(role == "master", "{master} says that it is a {role}");
        Ok(master)
    }

    /// Waits until another server than `old` is the master, and returns its index.
    pub async fn promoted(&self, old: usize) -> Result<usize> {
        eventually("another master", FAILOVER, async || {
            let master = self.master().await?;
            ensure!(master != old, "{old} still is the master");
            Ok(master)
        })
        .await
    }

    /// Waits until all replicas that run have what the master has by now.
    pub async fn replicated(&self) -> Result {
        let master = self.master().await?;
        for (index, replica) in self.servers.iter().enumerate() {
            if index != master && !self.silent.contains(&index) {
                replica.follows(&self.servers[master]).await?;
            }
        }
        Ok(())
    }

    /// Waits until the server is a replica whose link to its master is up.
    pub async fn demoted(&self, index: usize) -> Result {
        eventually(&format!("{index} to be a replica"), FAILOVER, async || {
            let link = self.servers[index].info("master_link_status").await;
            let link = link.context("it says that it is a master")?;
            ensure!(link == "up", "its link is {link}");
            Ok(())
        })
        .await
    }

    /// Replaces the master by a replica through the Sentinels, and returns when they have. All connections to the old one
    /// are closed by them, as it becomes a replica.
    pub async fn fail_over(&self) -> Result<usize> {
        let old = self.master().await?;
        let sentinel = self.running_sentinels().next().context("no Sentinel is left")?;
        // It refuses while it is still about the last one.
        eventually("the failover to begin", FAILOVER, async || {
            sentinel.cli(&["SENTINEL", "FAILOVER", SERVICE]).await
        })
        .await?;
        self.promoted(old).await
    }

    /// Kills a server (SIGKILL).
    pub fn kill9(&mut self, index: usize) -> Result {
        self.silent.insert(index);
        self.servers[index].kill9()
    }

    /// Starts a killed server again, without data. A former master considers itself master until the Sentinels have
    /// reconfigured it: see [`Sentinel::demoted`].
    pub async fn start_again(&mut self, index: usize) -> Result {
        self.servers[index].start_again().await?;
        self.silent.remove(&index);
        Ok(())
    }

    /// Stops a server (SIGSTOP): its connections stay open, and nothing is answered.
    pub fn pause(&mut self, index: usize) -> Result {
        self.silent.insert(index);
        self.servers[index].pause()
    }

    /// Resumes it after [`pause`](Self::pause), with the role that it had.
    pub fn resume(&mut self, index: usize) -> Result {
        self.silent.remove(&index);
        self.servers[index].resume()
    }

    /// Kills a Sentinel (SIGKILL).
    pub fn kill9_sentinel(&mut self, index: usize) -> Result {
        self.dead.insert(index);
        self.sentinels[index].kill9()
    }

    /// Stops a Sentinel (SIGSTOP): it accepts connections, and does not answer.
    pub fn pause_sentinel(&mut self, index: usize) -> Result {
        self.dead.insert(index);
        self.sentinels[index].pause()
    }

    /// One more Sentinel, which calls this server the master, and knows no other: as one does that was cut off together
    /// with an old master.
    pub async fn stray(master: &Redis) -> Result<Redis> {
        let port = master.port();
        let config = format!("sentinel monitor {SERVICE} 127.0.0.1 {port} {QUORUM}\n");
        Redis::builder()
            .direct()
            .config(config)
            .args(&["--sentinel"])
            .start()
            .await
    }

    /// Swaps master and replica by hand, and reconfigures the Sentinels: no connection is closed, so that the old master
    /// answers READONLY to clients that stay connected.
    pub async fn swap(&self, new: usize) -> Result {
        let old = self.master().await?;
        let port = self.servers[new].port().to_string();
        self.servers[new].cli(&["REPLICAOF", "NO", "ONE"]).await?;
        self.servers[old].cli(&["REPLICAOF", "127.0.0.1", &port]).await?;
        let quorum = QUORUM.to_string();
        for sentinel in self.running_sentinels() {
            sentinel.cli(&["SENTINEL", "REMOVE", SERVICE]).await?;
            let monitor = ["SENTINEL", "MONITOR", SERVICE, "127.0.0.1", &port, &quorum];
            sentinel.cli(&monitor).await?;
        }
        self.demoted(old).await
    }

    fn running_sentinels(&self) -> impl Iterator<Item = &Redis> {
        let running = |(index, sentinel)| (!self.dead.contains(&index)).then_some(sentinel);
        self.sentinels.iter().enumerate().filter_map(running)
    }

    async fn formed(&self) -> Result {
        for sentinel in &self.sentinels {
            // Every two and every ten seconds otherwise. A former master is also left alone for four of the former.
            let faster = ["SENTINEL", "DEBUG", "PUBLISH-PERIOD", "250", "INFO-PERIOD", "500"];
            sentinel.cli(&faster).await?;
        }
        let (replicas, others) = (self.servers.len() - 1, SENTINELS - 1);
        for sentinel in &self.sentinels {
            eventually("the Sentinels to know one another", FORMED, async || {
                let about = sentinel.cli(&["SENTINEL", "MASTER", SERVICE]).await?;
                let lines: Vec<_> = about.lines().collect();
                for (field, wanted) in [("num-slaves", replicas), ("num-other-sentinels", others)] {
                    let at = lines.iter().position(|line| *line == field);
                    let count = at.and_then(|at| lines.get(at + 1)).context("no count")?;
                    ensure!(count.parse() == Ok(wanted), "{field} is {count}");
                }
                Ok(())
            })
            .await?;
        }
        self.replicated().await
    }
}

fn address(redis: &Redis) -> String {
    format!("127.0.0.1:{}", redis.port())
}
