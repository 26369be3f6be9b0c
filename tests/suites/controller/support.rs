//! Helpers that the modules of this topic share: a Redis, a namespace and a controller of a test's own.

use std::{fmt::Debug, time::Duration};

use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tenure::Identity;
use tenure_crds::{CommonStatus, Condition, LockPool, Semaphore};
use tenure_tests::{Context, ControlPlane, Controller, Redis, Result, ensure, eventually};

/// Time limit of everything without a bound of its own.
pub(super) const SOON: Duration = Duration::from_secs(20);

/// `R`: one server, or several that are one to their clients.
pub(super) struct World<R = Redis> {
    pub(super) plane: &'static ControlPlane,
    pub(super) namespace: String,
    pub(super) redis: R,
    url: String,
    pub(super) controller: Controller,
    pub(super) kube: Client,
}

impl World {
    pub(super) async fn new(test: &str) -> Result<Self> {
        Self::with(test, Redis::start().await?, &[]).await
    }

    pub(super) async fn with(test: &str, redis: Redis, args: &[&str]) -> Result<Self> {
        let url = redis.url();
        Self::at(test, redis, url, args).await
    }

    /// Every key of the object.
    pub(super) async fn keys(&self, kind: &str, name: &str) -> Result<Vec<String>> {
        let pattern = format!("tenure:{{{}/{kind}/{name}}}:*", self.namespace);
        let keys = self.redis.cli(&["KEYS", &pattern]).await?;
        Ok(keys.lines().map(str::to_owned).collect())
    }
}

impl<R> World<R> {
    /// With whatever is found at the URL.
    pub(super) async fn at(test: &str, redis: R, url: String, args: &[&str]) -> Result<Self> {
        let plane = ControlPlane::shared().await?;
        let namespace = plane.namespace(test).await?;
        let controller = start(plane, &url, &namespace, args).await?;
        Ok(Self {
            plane,
            namespace,
            redis,
            url,
            controller,
            kube: plane.client().await?,
        })
    }

    /// Starts the controller again after it was killed.
    pub(super) async fn restart_controller(&mut self) -> Result {
        self.controller = start(self.plane, &self.url, &self.namespace, &[]).await?;
        Ok(())
    }

    /// Starts one more controller beside the first.
    pub(super) async fn another_controller(&self) -> Result<Controller> {
        start(self.plane, &self.url, &self.namespace, &[]).await
    }

    /// Starts one more controller beside the first, which reaches the same Redis at another URL.
    pub(super) async fn another_controller_at(&self, url: &str, args: &[&str]) -> Result<Controller> {
        start(self.plane, url, &self.namespace, args).await
    }

    /// Starts a controller of another installation, with another Redis, in the same namespace.
    pub(super) async fn another_installation(&self, redis: &Redis, name: &str) -> Result<Controller> {
        let installation = format!("{}/{name}", self.namespace);
        let args = ["--installation", &installation];
        start(self.plane, &redis.url(), &self.namespace, &args).await
    }

    /// Applies a semaphore and waits until it can be used.
    pub(super) async fn semaphore(&self, name: &str, permits: u32, rest: &str) -> Result {
        self.apply_semaphore(name, permits, rest).await?;
        self.ready::<Semaphore>(name).await
    }

    pub(super) async fn apply_semaphore(&self, name: &str, permits: u32, rest: &str) -> Result {
        self.apply("Semaphore", name, &format!("permits: {permits}, {rest}"))
            .await
    }

    /// Applies a pool and waits until it can be used.
    pub(super) async fn pool(&self, name: &str, spec: &str) -> Result {
        self.apply("LockPool", name, spec).await?;
        self.ready::<LockPool>(name).await
    }

    pub(super) async fn apply(&self, kind: &str, name: &str, spec: &str) -> Result {
        let namespace = &self.namespace;
        let head = "apiVersion: tenure.dev/v1alpha1";
        let meta = format!("metadata: {{name: {name}, namespace: {namespace}}}");
        let yaml = format!("{head}\nkind: {kind}\n{meta}\nspec: {{{spec}}}\n");
        self.plane.apply(&yaml).await.map(drop)
    }

    async fn ready<K: Watched>(&self, name: &str) -> Result {
        self.until::<K>(name, "ready", SOON, |object| {
            expect(object, "Ready", "True", "Synced")
        })
        .await
        .map(drop)
    }

    pub(super) fn api<K: Watched>(&self) -> Api<K> {
        Api::namespaced(self.kube.clone(), &self.namespace)
    }

    /// Waits until the object is as `check` wants it, and returns it.
    pub(super) async fn until<K: Watched>(
        &self,
        name: &str,
        what: &str,
        within: Duration,
        check: impl Fn(&K) -> Result,
    ) -> Result<K> {
        let api = self.api::<K>();
        let what = format!("{name} to be {what}");
        let seen = eventually(&what, within, async || {
            let object = api.get(name).await?;
            check(&object).with_context(|| format!("{:?}", object.common()))?;
            Ok(object)
        });
        seen.await
            .with_context(|| self.controller.logs().unwrap_or_default())
    }

    pub(super) async fn until_gone<K: Watched>(&self, name: &str, within: Duration) -> Result {
        let api = self.api::<K>();
        let what = format!("{name} to be gone");
        let gone = eventually(&what, within, async || {
            let object = api.get_opt(name).await?;
            ensure!(object.is_none(), "it is there: {object:?}");
            Ok(())
        });
        gone.await
            .with_context(|| self.controller.logs().unwrap_or_default())
    }

    pub(super) async fn delete(&self, kind: &str, name: &str) -> Result {
        self.plane
            .kubectl(&["-n", &self.namespace, "delete", "--wait=false", kind, name])
            .await
            .map(drop)
    }

    /// A holder in this namespace, as a pod of that name would have it.
    pub(super) async fn client(&self, pod: &str) -> Result<tenure::Client> {
        self.client_of(pod, None).await
    }

    pub(super) async fn client_of(&self, pod: &str, uid: Option<String>) -> Result<tenure::Client> {
        let mut identity = Identity::default();
        identity.pod = Some(pod.to_owned());
        identity.namespace.clone_from(&self.namespace);
        identity.uid = uid;
        let builder = tenure::Client::builder(&self.url)
            .namespace(&self.namespace)
            .identity(identity);
        Ok(builder.connect().await?)
    }

    /// Waits until an event of that reason is there, and returns its note.
    pub(super) async fn event(&self, reason: &str) -> Result<String> {
        eventually(&format!("an event {reason}"), SOON, async || {
            let selector = format!("reason={reason}");
            let args = [
                "-n",
                &self.namespace,
                "get",
                "events",
                "--field-selector",
                &selector,
                "-o",
                "jsonpath={.items[*].message}",
            ];
            let notes = self.plane.kubectl(&args).await?;
            ensure!(!notes.trim().is_empty(), "there is none");
            Ok(notes)
        })
        .await
    }

    /// The number behind a line of `/metrics` that begins with `series`.
    pub(super) async fn metric(&self, series: &str) -> Result<Option<f64>> {
        metric(&self.controller, series).await
    }

    /// Waits until that number is `expected`.
    pub(super) async fn until_metric(&self, series: &str, expected: f64) -> Result {
        eventually(series, SOON, async || {
            let found = self.metric(series).await?;
            ensure!(found == Some(expected), "{found:?}");
            Ok(())
        })
        .await
    }
}

async fn start(plane: &ControlPlane, url: &str, namespace: &str, args: &[&str]) -> Result<Controller> {
    let record = format!("{namespace}/tenure-epoch");
    let own = [
        "--redis-url",
        url,
        "--watch-namespaces",
        namespace,
        "--epoch-record",
        &record,
    ];
    let controller = Controller::start_with(plane, &[&own, args].concat()).await?;
    eventually("the controller to be ready", SOON, async || {
        let (code, text) = controller.get("/readyz").await?;
        // Redis may be away on purpose.
        let waits_for_redis = text.starts_with("redis: ") && text.lines().count() == 1;
        ensure!(code == 200 || waits_for_redis, "{text}");
        Ok(())
    })
    .await
    .with_context(|| controller.logs().unwrap_or_default())?;
    Ok(controller)
}

/// The number behind a line of a controller's `/metrics` that begins with `series`.
pub(super) async fn metric(controller: &Controller, series: &str) -> Result<Option<f64>> {
    let (_, text) = controller.get("/metrics").await?;
    let number = text
        .lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    Ok(number.map(str::parse).transpose()?)
}

/// A file of the test's own, and its path.
pub(super) fn file(text: &str) -> Result<(tempfile::NamedTempFile, String)> {
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), text)?;
    let path = file.path().to_str().context("an odd folder")?.to_owned();
    Ok((file, path))
}

/// A custom resource with a status.
pub(super) trait Watched:
    Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope> + Clone + Debug + DeserializeOwned
{
    fn common(&self) -> CommonStatus;
}

impl Watched for LockPool {
    fn common(&self) -> CommonStatus {
        self.status.clone().unwrap_or_default().common
    }
}

impl Watched for Semaphore {
    fn common(&self) -> CommonStatus {
        self.status.clone().unwrap_or_default().common
    }
}

pub(super) fn condition(object: &impl Watched, type_: &str) -> Result<Condition> {
    let conditions = object.common().conditions;
    conditions
        .into_iter()
        .find(|c| c.type_ == type_)
        .with_context(|| format!("no condition {type_}"))
}

/// Checks that the condition is as expected, and about the current spec.
pub(super) fn expect(object: &impl Watched, type_: &str, status: &str, reason: &str) -> Result {
    let condition = condition(object, type_)?;
    ensure!(
        condition.status == status && condition.reason == reason,
        "{type_} is {} because of {}",
        condition.status,
        condition.reason
    );
    let generation = object.meta().generation;
    ensure!(
        condition.observed_generation == generation,
        "{type_} is about an older spec"
    );
    Ok(())
}

pub(super) fn version(object: &impl Watched) -> String {
    object.resource_version().unwrap_or_default()
}
