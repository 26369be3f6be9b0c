//! Servers, a controller, and the counters that are read before and after a measurement.

use std::{fs, time::Duration};

use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, Client,
    api::{ListParams, PostParams},
};
use tenure::Identity;
use tenure_crds::{CommonStatus, LockPool, Semaphore};
use tenure_tests::{Context, ControlPlane, Controller, Redis, Result, ensure, eventually, unique};
use tokio::task::JoinSet;

use crate::report::each;

/// Time limit of everything.
pub(super) const PATIENCE: Duration = Duration::from_secs(1_200);
/// Calls of the API server at the same time.
const AT_ONCE: usize = 16;

/// A controller that watches namespaces of its own.
pub(super) struct World {
    pub(super) plane: &'static ControlPlane,
    pub(super) redis: Redis,
    pub(super) namespaces: Vec<String>,
    pub(super) controller: Controller,
    pub(super) kube: Client,
}

impl World {
    /// So many namespaces, and a Redis that keeps nothing over a restart.
    pub(super) async fn new(name: &str, namespaces: usize) -> Result<Self> {
        let (plane, redis) = (ControlPlane::shared().await?, Redis::start().await?);
        let kube = plane.client().await?;
        let api = Api::<Namespace>::all(kube.clone());
        let prefix = unique(name);
        let mut names = Vec::new();
        for number in 0..namespaces {
            let mut namespace = Namespace::default();
            namespace.metadata.name = Some(format!("{prefix}-{number}"));
            api.create(&PostParams::default(), &namespace).await?;
            names.push(format!("{prefix}-{number}"));
        }
        let controller = start(plane, &redis, &names[0]).await?;
        Ok(Self {
            plane,
            redis,
            namespaces: names,
            controller,
            kube,
        })
    }

    /// Ends the controller, and starts another one.
    pub(super) async fn restart(&mut self) -> Result {
        self.controller.terminate().await?;
        self.controller = start(self.plane, &self.redis, &self.namespaces[0]).await?;
        Ok(())
    }

    /// Makes so many objects, half pools and half semaphores, spread over the namespaces. `name` begins their names.
    pub(super) async fn create(&self, name: &str, count: usize, lease: u32) -> Result {
        let mut creating: JoinSet<Result> = JoinSet::new();
        for number in 0..count {
            let namespace = &self.namespaces[number / 2 % self.namespaces.len()];
            let object = format!("{name}{number}");
            let (pools, semaphores) = (self.api::<LockPool>(namespace), self.api::<Semaphore>(namespace));
            creating.spawn(async move {
                let params = PostParams::default();
                if number % 2 == 0 {
                    let spec = serde_json::json!({
                        "generate": {"prefix": "seat-", "count": 4}, "leaseDurationSeconds": lease,
                    });
                    let pool = LockPool::new(&object, serde_json::from_value(spec)?);
                    pools.create(&params, &pool).await?;
                } else {
                    let spec = serde_json::json!({"permits": 4, "leaseDurationSeconds": lease});
                    let semaphore = Semaphore::new(&object, serde_json::from_value(spec)?);
                    semaphores.create(&params, &semaphore).await?;
                }
                Ok(())
            });
            if creating.len() == AT_ONCE {
                creating.join_next().await.context("nothing runs")???;
            }
        }
        while let Some(created) = creating.join_next().await {
            created??;
        }
        Ok(())
    }

    pub(super) fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.kube.clone(), namespace)
    }

    /// The statuses of all objects of these namespaces.
    pub(super) async fn statuses(&self) -> Result<Vec<CommonStatus>> {
        let params = ListParams::default();
        let own = |namespace: Option<&String>| namespace.is_some_and(|name| self.namespaces.contains(name));
        let mut statuses = Vec::new();
        for pool in Api::<LockPool>::all(self.kube.clone()).list(&params).await? {
            if own(pool.metadata.namespace.as_ref()) {
                statuses.push(pool.status.unwrap_or_default().common);
            }
        }
        for semaphore in Api::<Semaphore>::all(self.kube.clone()).list(&params).await? {
            if own(semaphore.metadata.namespace.as_ref()) {
                statuses.push(semaphore.status.unwrap_or_default().common);
            }
        }
        Ok(statuses)
    }

    /// Waits until at least so many objects have this reason for `Ready`.
    pub(super) async fn until(&self, reason: &str, count: usize) -> Result {
        let what = format!("{count} objects to be {reason}");
        eventually(&what, PATIENCE, async || {
            let statuses = self.statuses().await?;
            let found = statuses
                .iter()
                .filter(|status| is_ready_for(status, reason))
                .count();
            ensure!(found >= count, "{found} of {}", statuses.len());
            Ok(())
        })
        .await
        .with_context(|| self.controller.logs().map(|log| tail(&log)).unwrap_or_default())
    }

    /// A client of a pod that has this uid.
    pub(super) async fn client(
        &self,
        namespace: &str,
        pod: &str,
        uid: Option<String>,
    ) -> Result<tenure::Client> {
        let mut identity = Identity::default();
        identity.pod = Some(pod.to_owned());
        identity.namespace = namespace.to_owned();
        identity.uid = uid;
        let builder = tenure::Client::builder(self.redis.url());
        Ok(builder.namespace(namespace).identity(identity).connect().await?)
    }

    /// Resident memory of the controller, in MiB.
    pub(super) fn memory(&self) -> Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.controller.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next());
        Ok(each(kib.context("no VmRSS")?.parse()?, 1024))
    }

    /// The sum of a counter of the controller over its labels.
    pub(super) async fn counted(&self, name: &str) -> Result<u64> {
        let (_, text) = self.controller.get("/metrics").await?;
        Ok(sum(&text, name, |_| true))
    }

    /// Calls of the API server by the controller: all changes of these resources that this program does not make itself.
    pub(super) async fn calls(&self) -> Result<u64> {
        let text = self.plane.kubectl(&["get", "--raw", "/metrics"]).await?;
        Ok(sum(&text, "apiserver_request_total", |labels| {
            let of = |label: &str, values: &[&str]| {
                values
                    .iter()
                    .any(|value| labels.contains(&format!("{label}=\"{value}\"")))
            };
            let changes = of("verb", &["APPLY", "PATCH", "PUT", "DELETE"]);
            of("resource", &["lockpools", "semaphores"]) && changes
                || of("resource", &["events"]) && (changes || of("verb", &["POST"]))
        }))
    }

    /// Bytes that etcd was given to write.
    pub(super) async fn written(&self) -> Result<u64> {
        let text = self.plane.etcd_metrics().await?;
        Ok(sum(&text, "etcd_debugging_mvcc_total_put_size_in_bytes", |_| {
            true
        }))
    }
}

async fn start(plane: &ControlPlane, redis: &Redis, namespace: &str) -> Result<Controller> {
    let record = format!("{namespace}/tenure-epoch");
    let args = ["--redis-url", &redis.url(), "--epoch-record", &record];
    let controller = Controller::start_with(plane, &args).await?;
    controller.until_ready(PATIENCE).await?;
    Ok(controller)
}

pub(super) fn is_ready_for(status: &CommonStatus, reason: &str) -> bool {
    let mut conditions = status.conditions.iter();
    conditions.any(|condition| condition.type_ == "Ready" && condition.reason == reason)
}

/// The sum of the lines of a metric whose labels are wanted. Values are whole numbers, perhaps with an exponent.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // counts
fn sum(metrics: &str, name: &str, wanted: impl Fn(&str) -> bool) -> u64 {
    let values = metrics.lines().filter_map(|line| {
        let (labels, value) = line.strip_prefix(name)?.rsplit_once(' ')?;
        let is_this = labels.is_empty() || labels.starts_with('{') || labels.starts_with("_total");
        (is_this && wanted(labels)).then(|| value.parse::<f64>().ok())?
    });
    values.sum::<f64>() as u64
}

fn tail(log: &str) -> String {
    let lines: Vec<_> = log.lines().rev().take(20).collect();
    lines.join("\n")
}
