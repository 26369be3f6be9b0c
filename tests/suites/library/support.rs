//! Helpers that the library's suites share: clients in a namespace of the test's own, and objects declared as the
//! controller would.

use std::{collections::BTreeMap, time::Duration};

use tenure::{
    Client, ClientBuilder, Error, Kind, Lease, Memory, ObjectRef, Semaphore,
    control::{Capacity, Declaration, Order, Resource, Snapshot},
};
use tenure_tests::{
    Context, Process, Proxy, Redis, Result, Strict, bail, binaries, ensure, eventually, process::folder,
    unique,
};
use tokio::{task::JoinHandle, time::timeout};

/// Timeout: longer than anything here takes, on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// Scale of long tests: `small` times `TENURE_TEST_SCALE`, which is 1 unless set.
pub(crate) fn scaled(small: usize) -> Result<usize> {
    match std::env::var("TENURE_TEST_SCALE") {
        Err(_) => Ok(small),
        Ok(text) => match text.parse::<usize>() {
            Ok(scale @ 1..) => Ok(small * scale),
            _ => bail!("TENURE_TEST_SCALE is {text:?}: use a whole number from 1"),
        },
    }
}

/// A namespace on a server: what a test owns.
pub(crate) struct World {
    server: Server,
    pub(crate) namespace: String,
}

enum Server {
    Redis { url: String },
    Twin(Memory),
}

/// Tests that any server has to pass, on a real Redis and on the in-memory twin. They take a [`World`].
macro_rules! on_both {
    ($($test:ident),* $(,)?) => {
        mod redis {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() -> tenure_tests::Result {
                super::$test(crate::library::support::World::shared("both").await?).await
            })*
        }
        mod twin {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() -> tenure_tests::Result {
                super::$test(crate::library::support::World::twin("both")).await
            })*
        }
    };
}
pub(crate) use on_both;

impl World {
    pub(crate) async fn shared(test: &str) -> Result<Self> {
        Ok(Self::on(Redis::shared().await?, test))
    }

    pub(crate) fn on(redis: &Redis, test: &str) -> Self {
        Self {
            server: Server::Redis { url: redis.url() },
            namespace: unique(test),
        }
    }

    /// The server at this URL.
    pub(crate) fn at(url: String, test: &str) -> Self {
        Self {
            server: Server::Redis { url },
            namespace: unique(test),
        }
    }

    /// The same namespace, by way of a proxy of the test's own.
    pub(crate) async fn behind_proxy(&self, redis: &Redis) -> Result<(Proxy, Self)> {
        Ok(self.behind(Proxy::start(redis.port()).await?))
    }

    /// The same, by way of a proxy that refuses what a managed service may refuse.
    pub(crate) async fn behind_strict_proxy(&self, redis: &Redis, strict: Strict) -> Result<(Proxy, Self)> {
        Ok(self.behind(Proxy::start_strict(redis.port(), strict).await?))
    }

    fn behind(&self, proxy: Proxy) -> (Proxy, Self) {
        let (url, namespace) = (proxy.url(), self.namespace.clone());
        let server = Server::Redis { url };
        (proxy, Self { server, namespace })
    }

    pub(crate) fn twin(test: &str) -> Self {
        Self {
            server: Server::Twin(Memory::new()),
            namespace: unique(test),
        }
    }

    pub(crate) fn url(&self) -> Result<&str> {
        match &self.server {
            Server::Redis { url } => Ok(url),
            Server::Twin(_) => bail!("the twin has no URL"),
        }
    }

    pub(crate) fn builder(&self) -> ClientBuilder {
        let builder = match &self.server {
            Server::Redis { url } => Client::builder(url),
            Server::Twin(memory) => memory.client(),
        };
        builder.namespace(&self.namespace)
    }

    /// A client of its own, with a connection of its own, as another process would have.
    pub(crate) async fn client(&self) -> Result<Client> {
        Ok(self.builder().connect().await?)
    }

    /// A client that gives a connection up after this long without a reply.
    pub(crate) async fn client_with_timeout(&self, timeout: Duration) -> Result<Client> {
        Ok(self.builder().response_timeout(timeout).connect().await?)
    }

    /// A process, in the pod `worker-1`, that takes the lock `x` and holds it for longer than any test takes.
    pub(crate) fn worker(&self, options: &[&str]) -> Result<Process> {
        self.worker_with(options, |_| {})
    }

    /// The same, started in another way.
    pub(crate) fn worker_with(
        &self,
        options: &[&str],
        prepare: impl FnOnce(&mut std::process::Command),
    ) -> Result<Process> {
        let mut command = std::process::Command::new(binaries::find("tenure-worker")?);
        command
            .args(["--redis-url", self.url()?, "lock", "x", "--hold-ms", "600000"])
            .args(options)
            .env("POD_NAMESPACE", &self.namespace)
            .env("POD_NAME", "worker-1");
        prepare(&mut command);
        Process::spawn("worker", &folder("worker")?, &command)
    }

    pub(crate) fn object(&self, kind: Kind, name: &str) -> Result<ObjectRef> {
        Ok(ObjectRef::new(kind, &self.namespace, name)?)
    }

    pub(crate) async fn declare_semaphore(
        &self,
        client: &Client,
        name: &str,
        permits: u64,
    ) -> Result<ObjectRef> {
        let object = self.object(Kind::Semaphore, name)?;
        client
            .control()
            .declare(&object, &declaration(Capacity::Permits(permits)))
            .await?;
        Ok(object)
    }

    pub(crate) async fn declare_pool(
        &self,
        client: &Client,
        name: &str,
        resources: &[&str],
    ) -> Result<ObjectRef> {
        let object = self.object(Kind::Pool, name)?;
        client
            .control()
            .declare(&object, &declaration(named(resources)))
            .await?;
        Ok(object)
    }
}

pub(crate) fn named(names: &[&str]) -> Capacity {
    let resource = |name: &&str| Resource {
        name: (*name).to_owned(),
        properties: BTreeMap::from([("host".to_owned(), format!("{name} host"))]),
        disabled: false,
    };
    Capacity::Resources {
        order: Order::LeastRecentlyUsed,
        resources: names.iter().map(resource).collect(),
    }
}

pub(crate) fn declaration(capacity: Capacity) -> Declaration {
    Declaration {
        floor: 1000,
        recovery: None,
        lease: Duration::from_secs(30),
        max_hold: None,
        capacity,
    }
}

pub(crate) async fn look(client: &Client, object: &ObjectRef) -> Result<Snapshot> {
    client
        .control()
        .look(object, 1000)
        .await?
        .with_context(|| format!("{object} is not there"))
}

/// Waits until that many wait for the object.
pub(crate) async fn waiting(client: &Client, object: &ObjectRef, count: u64) -> Result {
    eventually(&format!("{count} waiters of {object}"), SOON, async || {
        let waiting = client
            .control()
            .look(object, 0)
            .await?
            .map_or(0, |snapshot| snapshot.waiting);
        ensure!(waiting == count, "{waiting} wait");
        Ok(())
    })
    .await
}

/// Gives back what the next in the queue waits for, and sees it take over within that time under a larger fencing token.
pub(crate) async fn handed_over(
    lease: Lease,
    next: JoinHandle<std::result::Result<Lease, Error>>,
    within: Duration,
) -> Result {
    let fence = lease.fencing_token();
    lease.release().await?;
    let next = timeout(within, next).await.context("no client took over")???;
    ensure!(next.fencing_token() > fence, "{next:?} after {fence}");
    next.release().await?;
    Ok(())
}

/// After a failover to a replica that knows one of two holders of a semaphore with two permits: declared again, it admits
/// both, and then another client only in place of one of them.
pub(crate) async fn recovers_both(
    client: &Client,
    declared: Declaration,
    (known, unknown): (Lease, Lease),
    other: &Semaphore,
    within: Duration,
) -> Result {
    let object = known.object().clone();
    let again = Declaration {
        recovery: Some(Duration::ZERO),
        floor: unknown.fencing_token() + (1 << 32),
        ..declared
    };
    let recovers = client.control().declare(&object, &again).await?;
    ensure!(recovers, "it has to recover");
    eventually("both holders to be let in", SOON, async || {
        let seen = look(client, &object).await?;
        let fences: Vec<_> = seen.holders.iter().map(|holder| holder.fence).collect();
        let expected = [known.fencing_token(), unknown.fencing_token()];
        ensure!(fences == expected, "{seen:?}");
        ensure!(known.check().is_ok() && unknown.check().is_ok(), "lost");
        Ok(())
    })
    .await?;
    ensure!(other.try_acquire().await?.is_none(), "more than two permits");
    known.release().await?;
    let next = got(other.acquire_timeout(within).await?)?;
    ensure!(
        next.fencing_token() > again.floor,
        "{next:?} is below {}",
        again.floor
    );
    unknown.release().await?;
    next.release().await?;
    Ok(())
}

/// Waits until the object has no key any more.
pub(crate) async fn gone(client: &Client, object: &ObjectRef) -> Result {
    eventually(&format!("{object} to be gone"), SOON, async || {
        let snapshot = client.control().look(object, 10).await?;
        ensure!(snapshot.is_none(), "{snapshot:?}");
        Ok(())
    })
    .await
}

/// Number of scripts that the server received.
pub(crate) async fn scripts_called(redis: &Redis) -> Result<u64> {
    let stats = redis.cli(&["INFO", "commandstats"]).await?;
    let calls = stats
        .lines()
        .find_map(|line| line.strip_prefix("cmdstat_evalsha:calls=")?.split_once(','))
        .context("no script was called")?
        .0;
    Ok(calls.parse()?)
}

/// A lease, which the test expects to get.
pub(crate) fn got<L>(lease: Option<L>) -> Result<L> {
    lease.context("busy, where a lease was expected")
}

/// Drops everything that a client has without a message to Redis, as a crash would: its runtime ends under it.
pub(crate) struct Doomed {
    runtime: Option<tokio::runtime::Runtime>,
    client: Option<Client>,
}

impl Doomed {
    pub(crate) async fn start(world: &World) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let client = runtime.spawn(world.builder().connect()).await??;
        Ok(Self {
            runtime: Some(runtime),
            client: Some(client),
        })
    }

    pub(crate) fn client(&self) -> Result<Client> {
        self.client.clone().context("it has crashed")
    }

    /// Runs on its runtime until the crash.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<tokio::task::JoinHandle<T>> {
        Ok(self.runtime.as_ref().context("it has crashed")?.spawn(work))
    }

    pub(crate) fn crash(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        self.client = None;
    }

    /// Crashes with a lease in its hands.
    pub(crate) fn crash_with(&mut self, lease: Lease) {
        self.crash();
        drop(lease);
    }
}

impl Drop for Doomed {
    fn drop(&mut self) {
        self.crash();
    }
}
