//! `make demo`: the whole way, from `kubectl apply` to a held lease and back to `kubectl get`, on real servers.

use std::{
    io::Write,
    process::Command,
    time::{Duration, Instant},
};

use tenure_tests::{
    Context, ControlPlane, Controller, Process, Redis, Result, binaries, ensure, eventually,
    process::{folder, unique},
};
use tokio::time::{MissedTickBehavior, interval};

const SAMPLES: [&str; 2] = [
    include_str!("../../crds/samples/lockpool.yaml"),
    include_str!("../../crds/samples/semaphore.yaml"),
];
/// Timeout of short steps.
const SOON: Duration = Duration::from_secs(30);
/// The workers' leases are shorter than those of the samples, so that a dead one does not delay the others long.
const LEASE: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() -> Result {
    let started = Instant::now();
    let demo = Demo::start().await?;
    demo.declare().await?;
    let mut workers = Workers::start(&demo)?;
    demo.look(&workers).await?;
    demo.kill_a_holder(&mut workers).await?;
    drop(workers);
    demo.delete().await?;
    say(&format!(
        "That was all, in {:.0} s. Everything that was started is stopped now.",
        started.elapsed().as_secs_f32()
    ));
    Ok(())
}

struct Demo {
    redis: &'static Redis,
    plane: &'static ControlPlane,
    namespace: String,
    _controller: Controller,
}

impl Demo {
    async fn start() -> Result<Self> {
        say("1. Real servers: a Redis, and a Kubernetes API server with its etcd, on free loopback ports.");
        let servers = async { tokio::try_join!(Redis::shared(), ControlPlane::shared()) };
        let (redis, plane) = alive("starting them", servers).await?;
        let namespace = plane.namespace("demo").await?;
        done(&format!(
            "Redis listens on port {}; {} resource definitions are installed.",
            redis.port(),
            2
        ));
        say("2. Tenure's controller, which declares resources in Redis and reports who holds them.");
        let controller = alive(
            "starting it",
            Controller::start(plane, &redis.url(), &[&namespace]),
        )
        .await?;
        done("It runs.");
        Ok(Self {
            redis,
            plane,
            namespace,
            _controller: controller,
        })
    }

    async fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.plane
            .kubectl(&[&["--namespace", &self.namespace], args].concat())
            .await
    }

    /// Runs kubectl as a user would, and shows the command and its output.
    async fn show(&self, args: &[&str]) -> Result {
        println!("\n   $ kubectl {}", args.join(" "));
        let said = alive("waiting", self.kubectl(args)).await?;
        for line in said.lines().filter(|line| !line.is_empty()) {
            println!("   {line}");
        }
        Ok(())
    }

    async fn declare(&self) -> Result {
        say("3. A person declares a pool of two GPU seats and a semaphore of three callers.");
        let files = folder(&unique("samples"))?;
        for (name, yaml) in ["lockpool.yaml", "semaphore.yaml"].iter().zip(SAMPLES) {
            let path = files.join(name);
            std::fs::write(&path, yaml)?;
            let path = path.to_str().context("the folder's name is not text")?;
            println!("\n   $ kubectl apply -f crds/samples/{name}");
            println!("   {}", self.kubectl(&["apply", "-f", path]).await?.trim());
        }
        let ready = [
            "wait",
            "--for=condition=Ready",
            "lockpools,semaphores",
            "--all",
            "--timeout=30s",
        ];
        self.show(&ready).await?;
        self.show(&["get", "lockpools,semaphores"]).await
    }

    async fn look(&self, workers: &Workers) -> Result {
        say("4. Nine worker processes ask for them: four for two seats, five for three permits.");
        let contended = eventually("the workers to hold and to wait", SOON, async || {
            let counts = self
                .kubectl(&["get", "lockpools,semaphores", "-o", COUNTS])
                .await?;
            let counts: Vec<&str> = counts.split_whitespace().collect();
            ensure!(counts == ["2/2", "3/2"], "held and waiting: {counts:?}");
            Ok(())
        });
        alive("letting them contend", contended).await?;
        for worker in workers.pool.iter().chain(&workers.semaphore) {
            if let Some(line) = worker.granted()? {
                done(&format!("{}: {line}", worker.name));
            }
        }
        done("The others wait without polling: each is notified when it is granted.");
        self.show(&["get", "lockpools,semaphores"]).await?;
        self.show(&[
            "get",
            "lockpool",
            "gpu-seats",
            "-o",
            "yaml",
            "--show-managed-fields=false",
        ])
        .await
    }

    async fn kill_a_holder(&self, workers: &mut Workers) -> Result {
        say("5. A holder dies: kill -9, so that it cannot give anything back.");
        let at = workers
            .pool
            .iter()
            .position(|worker| worker.granted().is_ok_and(|line| line.is_some()));
        let mut dead = workers.pool.swap_remove(at.context("no seat is held")?);
        let before = workers.granted_seats()?;
        dead.process.kill9()?;
        let killed = Instant::now();
        done(&format!(
            "{} is dead. Its seat is free when its lease of {} s is over.",
            dead.name,
            LEASE.as_secs()
        ));
        let next = eventually("the next waiter to be granted", SOON, async || {
            let mut news = workers.granted_seats()?;
            news.retain(|seat| !before.contains(seat));
            news.pop().context("no new holder of a seat")
        });
        let next = alive("waiting", next).await?;
        done(&format!("After {:.1} s {next}", killed.elapsed().as_secs_f32()));
        eventually("the status to say so", SOON, async || {
            let holders = self
                .kubectl(&[
                    "get",
                    "lockpool",
                    "gpu-seats",
                    "-o",
                    "jsonpath={.status.holders[*].pod}",
                ])
                .await?;
            ensure!(
                !holders.split_whitespace().any(|pod| pod == dead.name),
                "{holders}"
            );
            Ok(())
        })
        .await?;
        self.show(&["get", "lockpools"]).await
    }

    async fn delete(&self) -> Result {
        say("6. The workers are stopped, and the person deletes what was declared.");
        done("Their leases run out first: the deletion policy of the samples is to drain.");
        self.show(&["delete", "lockpool/gpu-seats", "semaphore/api-callers"])
            .await?;
        // The marker of the controller, `{_data}`, stays.
        let keys = self.redis.cli(&["KEYS", "*/*"]).await?;
        ensure!(keys.trim().is_empty(), "Redis still has {keys}");
        println!("\n   $ redis-cli -p {} KEYS '*/*'", self.redis.port());
        done("Redis has no key of an object left.");
        Ok(())
    }
}

/// Held and waiting of each object, as one string.
const COUNTS: &str = "jsonpath={range .items[*]}{.status.held}/{.status.waiting}{\"\\n\"}{end}";

/// A worker process, and the name that it goes by.
struct Worker {
    name: String,
    process: Process,
}

impl Worker {
    fn start(demo: &Demo, name: &str, what: &[&str]) -> Result<Self> {
        let mut command = Command::new(binaries::find("tenure-worker")?);
        let lease = LEASE.as_millis().to_string();
        command
            .args(what)
            .args(["--hold-ms", "600000", "--lease-ms", &lease])
            .env("TENURE_REDIS_URL", demo.redis.url())
            .env("POD_NAME", name)
            .env("POD_NAMESPACE", &demo.namespace)
            .env_remove("POD_UID");
        let process = Process::spawn(name, &folder(name)?, &command)?;
        Ok(Self {
            name: name.to_owned(),
            process,
        })
    }

    /// The line with the acquired resource.
    fn granted(&self) -> Result<Option<String>> {
        let output = self.process.output()?;
        Ok(output
            .lines()
            .find(|line| line.starts_with("granted"))
            .map(str::to_owned))
    }
}

struct Workers {
    pool: Vec<Worker>,
    semaphore: Vec<Worker>,
}

impl Workers {
    fn start(demo: &Demo) -> Result<Self> {
        let trainer = |i| {
            Worker::start(
                demo,
                &format!("trainer-{i}"),
                &["pool", "gpu-seats", "--reason", "nightly training"],
            )
        };
        let caller = |i| {
            Worker::start(
                demo,
                &format!("caller-{i}"),
                &["semaphore", "api-callers", "--reason", "import"],
            )
        };
        Ok(Self {
            pool: (1..=4).map(trainer).collect::<Result<_>>()?,
            semaphore: (1..=5).map(caller).collect::<Result<_>>()?,
        })
    }

    fn granted_seats(&self) -> Result<Vec<String>> {
        let mut seats = Vec::new();
        for worker in &self.pool {
            if let Some(line) = worker.granted()? {
                seats.push(format!("{} is {line}", worker.name));
            }
        }
        Ok(seats)
    }
}

fn say(text: &str) {
    println!("\n{text}");
}

fn done(text: &str) {
    println!("   {text}");
}

/// Shows that something that takes a while is alive: a dot a second, on a line of its own.
async fn alive<T>(what: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
    let mut work = std::pin::pin!(work);
    let mut ticks = interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    let mut dots = 0;
    let result = loop {
        tokio::select! {
            result = &mut work => break result,
            _ = ticks.tick() => {
                if dots == 0 {
                    print!("   {what} ");
                }
                dots += 1;
                print!(".");
                std::io::stdout().flush()?;
            }
        }
    };
    if dots > 0 {
        println!();
    }
    result.with_context(|| what.to_owned())
}
