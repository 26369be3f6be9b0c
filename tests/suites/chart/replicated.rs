//! The scripts of the replicated mode, as the chart renders them, on real servers and Sentinels: three pods, each on an address of its own.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use redis::aio::MultiplexedConnection;
use serde_json::Value;
use tenure_tests::{
    Context, Process, Result, assets, bail, ensure, eventually,
    process::{folder, free_port},
};
use tokio::{task::spawn_blocking, time::Instant};

use super::{mode_file, objects, render};

mod restarts;
mod stops;
mod users;

const PASSWORD: &str = "sesame";
const NODE_PASSWORD: &str = "open-sesame";
/// On a busy machine.
const SOON: Duration = Duration::from_secs(60);
/// The master must be silent for this long. None is in these tests, whatever else the machine does.
const DOWN_AFTER: &str = "redis.replicated.downAfterSeconds=20";
/// With the default, a killed server may lose what it answered while the disk was slow.
const FSYNC: &str = "redis.appendFsync=always";

/// Three pods.
struct Pods {
    nodes: Vec<Pod>,
    redis_port: u16,
    sentinel_port: u16,
}

/// The containers of a pod, which ends with them, and its volume.
struct Pod {
    host: String,
    folder: PathBuf,
    containers: Value,
    sidecars: Value,
    env: Vec<(String, String)>,
    redis: Option<Process>,
    sentinel: Option<Process>,
}

impl Pods {
    /// A new release, that is not started.
    async fn new(program: &'static str, set: &[&str]) -> Result<Self> {
        let mut args = vec!["--set", DOWN_AFTER, "--set", FSYNC];
        args.extend(set.iter().flat_map(|set| ["--set", set]));
        let objects = objects(&render(&mode_file("replicated"), &args).await?)?;
        let node = |kind: &str| {
            let named =
                |object: &&Value| object["kind"] == kind && object["metadata"]["name"] == "tenure-redis-node";
            objects.iter().find(named).with_context(|| format!("no {kind}"))
        };
        let files = &node("ConfigMap")?["data"];
        let pod = &node("StatefulSet")?["spec"]["template"]["spec"];
        let server = spawn_blocking(move || assets::path(program)).await??;
        let cli = spawn_blocking(|| assets::path("redis-server"))
            .await??
            .with_file_name("redis-cli");
        let (redis_port, sentinel_port) = (free_port()?, free_port()?);
        let hosts: Vec<String> = (2..5).map(|number| format!("127.0.0.{number}")).collect();
        let mut pods = Vec::new();
        for host in &hosts {
            let folder = folder("pod")?;
            for name in ["bin", "etc", "data", "secrets"] {
                fs::create_dir(folder.join(name))?;
            }
            fs::write(folder.join("secrets/password"), PASSWORD)?;
            for (name, text) in files.as_object().context("no files")? {
                let text = text.as_str().context("no text")?;
                // The script names the folder again.
                fs::write(folder.join("etc").join(name), text.replace("dir /data\n", ""))?;
            }
            let wrapper = format!(
                "#!/bin/sh\nfirst=$1; shift\n[ \"$first\" != - ] || exec {0} --bind {host} -\nexec {0} \"$first\" --bind {host} \"$@\"\n",
                server.display()
            );
            program_at(&folder.join("bin/redis-server"), &wrapper)?;
            program_at(
                &folder.join("bin/redis-cli"),
                &format!("#!/bin/sh\nexec {} \"$@\"\n", cli.display()),
            )?;
            let set = [
                ("NODE_HOST", host.clone()),
                ("NODE_HOSTS", hosts.join(" ")),
                ("NODE_PASSWORD", NODE_PASSWORD.to_owned()),
                ("SECRETS", folder.join("secrets").display().to_string()),
                ("LOCAL", host.clone()),
                ("REDIS_PORT", redis_port.to_string()),
                ("SENTINEL_PORT", sentinel_port.to_string()),
                ("DATA", folder.join("data").display().to_string()),
                ("PATH", format!("{}:/usr/bin:/bin", folder.join("bin").display())),
            ];
            let mut env: Vec<(String, String)> = set.map(|(name, value)| (name.to_owned(), value)).into();
            let rendered = pod["containers"][0]["env"].as_array().context("no environment")?;
            for name in ["DOWN_AFTER", "CONTROLLER_RULES"] {
                let entry = rendered.iter().find(|entry| entry["name"] == name);
                let value = entry.and_then(|entry| entry["value"].as_str());
                env.push((
                    name.to_owned(),
                    value.with_context(|| format!("no {name}"))?.to_owned(),
                ));
            }
            pods.push(Pod {
                host: host.clone(),
                folder,
                containers: pod["containers"].clone(),
                sidecars: pod["initContainers"].clone(),
                env,
                redis: None,
                sentinel: None,
            });
        }
        Ok(Self {
            nodes: pods,
            redis_port,
            sentinel_port,
        })
    }

    /// A new release, of which each pod is ready.
    async fn start() -> Result<Self> {
        let mut pods = Self::new("redis-server", &[]).await?;
        pods.start_all()?;
        pods.ready().await?;
        Ok(pods)
    }

    fn start_all(&mut self) -> Result {
        self.nodes.iter_mut().try_for_each(Pod::start)
    }

    fn kill_all(&mut self) -> Result {
        self.nodes.iter_mut().try_for_each(Pod::kill)
    }

    /// Waits until each pod is ready.
    async fn ready(&self) -> Result {
        for pod in &self.nodes {
            pod.ready().await?;
        }
        Ok(())
    }

    /// Waits until each Sentinel may promote each replica: it looks at them every ten seconds.
    async fn settled(&self) -> Result {
        let credentials = format!("tenure-node:{}@", self.derived("tenure-node").await?);
        eventually("replicas that may be promoted", SOON, async || {
            for pod in &self.nodes {
                let mut connection = self
                    .connection(&credentials, &pod.host, self.sentinel_port)
                    .await?;
                let mut asked = redis::cmd("SENTINEL");
                asked.arg("REPLICAS").arg("tenure");
                let replicas: Vec<HashMap<String, String>> = asked.query_async(&mut connection).await?;
                let good = replicas.iter().filter(|one| one["slave-priority"] == "100");
                ensure!(good.count() == 2, "{replicas:?}");
            }
            Ok(())
        })
        .await
    }

    /// The password of a user, as the scripts derive it.
    async fn derived(&self, user: &str) -> Result<String> {
        let script = format!(". /etc/redis/common.sh && password_of {user}");
        let mut derive = self.nodes[0].spawn("derive", &serde_json::json!(["sh", "-c", script]))?;
        let status = derive.wait(SOON).await?;
        ensure!(status.success(), "{}", derive.tail());
        Ok(derive.output()?.trim().to_owned())
    }

    fn url(&self, user: &str, password: &str) -> String {
        let sentinels = self
            .nodes
            .iter()
            .map(|pod| format!("{}:{}", pod.host, self.sentinel_port));
        let sentinels: Vec<String> = sentinels.collect();
        format!(
            "redis+sentinel://{user}:{password}@{}/tenure",
            sentinels.join(",")
        )
    }

    /// The pod that all running Sentinels name.
    async fn master(&self) -> Result<usize> {
        eventually("one master", SOON, async || {
            let mut named = Vec::new();
            for pod in self.nodes.iter().filter(|pod| pod.sentinel.is_some()) {
                let mut connection = self.connection("", &pod.host, self.sentinel_port).await?;
                let mut asked = redis::cmd("SENTINEL");
                asked.arg("GET-MASTER-ADDR-BY-NAME").arg("tenure");
                let answer: Option<(String, u16)> = asked.query_async(&mut connection).await?;
                named.push(answer.context("a Sentinel knows none")?.0);
            }
            named.dedup();
            ensure!(named.len() == 1, "the Sentinels name {named:?}");
            self.nodes
                .iter()
                .position(|pod| pod.host == named[0])
                .context("a stranger is the master")
        })
        .await
    }

    /// Waits until another pod is the master.
    async fn promoted(&self, old: usize) -> Result<usize> {
        eventually("another master", SOON, async || {
            let master = self.master().await?;
            ensure!(master != old, "{old} is the master: {}", self.nodes[old].tail());
            Ok(master)
        })
        .await
    }

    async fn connection(&self, credentials: &str, host: &str, port: u16) -> Result<MultiplexedConnection> {
        let client = redis::Client::open(format!("redis://{credentials}{host}:{port}/?protocol=resp3"))?;
        Ok(client.get_multiplexed_async_connection().await?)
    }

    /// A connection of the controller's user.
    async fn redis(&self, pod: usize) -> Result<MultiplexedConnection> {
        let credentials = format!("tenure-controller:{PASSWORD}@");
        self.connection(&credentials, &self.nodes[pod].host, self.redis_port)
            .await
    }

    /// Writes a number at the master, as soon as it has a replica.
    async fn write(&self, number: u64) -> Result {
        eventually("a write", SOON, async || {
            let mut connection = self.redis(self.master().await?).await?;
            set(&mut connection, number).await
        })
        .await
    }

    /// The number that a pod has, 0 if none.
    async fn number(&self, pod: usize) -> Result<u64> {
        let mut connection = self.redis(pod).await?;
        let mut get = redis::cmd("HGET");
        let number: Option<u64> = get
            .arg("tenure:{t}")
            .arg("number")
            .query_async(&mut connection)
            .await?;
        Ok(number.unwrap_or_default())
    }

    /// Waits until each pod has the number.
    async fn all_have(&self, number: u64) -> Result {
        eventually("each pod to have the number", SOON, async || {
            for pod in 0..self.nodes.len() {
                let found = self.number(pod).await?;
                ensure!(found == number, "{pod} has {found}: {}", self.nodes[pod].tail());
            }
            Ok(())
        })
        .await
    }

    async fn role(&self, pod: usize) -> Result<String> {
        let mut connection = self.redis(pod).await?;
        let info: String = redis::cmd("INFO")
            .arg("replication")
            .query_async(&mut connection)
            .await?;
        let role = info.lines().find_map(|line| line.strip_prefix("role:"));
        Ok(role.context("no role")?.to_owned())
    }
}

async fn set(connection: &mut MultiplexedConnection, number: u64) -> Result {
    let mut set = redis::cmd("HSET");
    set.arg("tenure:{t}").arg("number").arg(number);
    Ok(set.exec_async(connection).await?)
}

impl Pod {
    fn start(&mut self) -> Result {
        self.sentinel = Some(self.spawn("sentinel", &self.sidecars[0]["command"])?);
        self.start_redis()
    }

    fn start_redis(&mut self) -> Result {
        self.redis = Some(self.spawn("redis", &self.containers[0]["command"])?);
        Ok(())
    }

    /// Kills Redis, and leaves the Sentinel.
    fn kill_redis(&mut self) -> Result {
        self.redis.take().map_or(Ok(()), |mut redis| redis.kill9())
    }

    fn kill(&mut self) -> Result {
        self.kill_redis()?;
        self.sentinel
            .take()
            .map_or(Ok(()), |mut sentinel| sentinel.kill9())
    }

    /// Stops Redis as a kubelet does. Returns the time that it took.
    async fn stop_redis(&mut self) -> Result<Duration> {
        let started = Instant::now();
        let hook = self.containers[0].pointer("/lifecycle/preStop/exec/command");
        let mut hook = self.spawn("stop", hook.context("no hook")?)?;
        let status = hook.wait(SOON).await?;
        ensure!(status.success(), "{}", hook.tail());
        let mut redis = self.redis.take().context("it does not run")?;
        redis.terminate(SOON).await?;
        Ok(started.elapsed())
    }

    /// Removes what the volume has.
    fn wipe(&self) -> Result {
        let data = self.folder.join("data");
        fs::remove_dir_all(&data)?;
        Ok(fs::create_dir(&data)?)
    }

    async fn ready(&self) -> Result {
        eventually(&format!("{} to be ready", self.host), SOON, async || {
            for container in [&self.containers[0], &self.sidecars[0]] {
                self.probe(container, "readinessProbe").await?;
            }
            Ok(())
        })
        .await
        .with_context(|| self.tail())
    }

    /// Fails with the output of the probe.
    async fn probe(&self, container: &Value, name: &str) -> Result {
        let mut probe = self.spawn("probe", &container[name]["exec"]["command"])?;
        let status = probe.wait(SOON).await?;
        ensure!(status.success(), "{name}: {}{}", probe.output()?, probe.log()?);
        Ok(())
    }

    fn spawn(&self, name: &str, command: &Value) -> Result<Process> {
        let parts: Vec<String> = serde_json::from_value(command.clone()).context("no command")?;
        let etc = self.folder.join("etc").display().to_string();
        let mut program = Command::new(&parts[0]);
        program.args(parts[1..].iter().map(|part| part.replace("/etc/redis", &etc)));
        program
            .env_clear()
            .envs(self.env.iter().map(|(name, value)| (name, value)));
        let output = if ["redis", "sentinel"].contains(&name) {
            self.folder.clone()
        } else {
            folder(name)?
        };
        Process::spawn(name, &output, &program)
    }

    /// The log of the script and of Redis.
    fn log(&self) -> Result<String> {
        match &self.redis {
            Some(redis) => Ok(redis.output()? + &redis.log()?),
            None => bail!("{} does not run", self.host),
        }
    }

    fn tail(&self) -> String {
        let tails = [&self.redis, &self.sentinel]
            .into_iter()
            .flatten()
            .map(Process::tail);
        format!("{}: {}", self.host, tails.collect::<String>())
    }
}

fn program_at(path: &Path, script: &str) -> Result {
    fs::write(path, script)?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}
