//! The controller needs the permissions that its documentation lists, and no others.

use std::{fs, process::Command};

use kube::config::Kubeconfig;
use tenure_crds::Semaphore;
use tenure_tests::{
    Context, ControlPlane, Controller, Process, Redis, Result, binaries, ensure, eventually,
    process::{folder, unique},
};

use super::support::{SOON, expect};

/// The table at the head of `controller/src/main.rs`.
const ROLE: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: controller, namespace: NAMESPACE}
rules:
- {apiGroups: [tenure.dev], resources: [lockpools, semaphores], verbs: [list, watch, patch]}
- {apiGroups: [tenure.dev], resources: [lockpools/status, semaphores/status], verbs: [patch]}
- {apiGroups: [''], resources: [pods], verbs: [list, watch]}
- {apiGroups: [events.k8s.io], resources: [events], verbs: [create, patch]}
- {apiGroups: [coordination.k8s.io], resources: [leases], verbs: [get]}
- {apiGroups: [coordination.k8s.io], resources: [leases], resourceNames: [epoch], verbs: [get, list, watch, patch]}
- {apiGroups: [''], resources: [configmaps], resourceNames: [epoch], verbs: [get, patch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: controller, namespace: NAMESPACE}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: controller}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: USER}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: epoch, namespace: NAMESPACE}
---
apiVersion: coordination.k8s.io/v1
kind: Lease
metadata: {name: epoch, namespace: NAMESPACE}
---
apiVersion: tenure.dev/v1alpha1
kind: Semaphore
metadata: {name: calls, namespace: NAMESPACE}
spec: {permits: 3, leaseDurationSeconds: 1}
";

/// The rows of the same table that `--access` adds. The names stand in the requests, so that they may stand in the rules.
const ACCESS_ROLE: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: USER}
rules:
- {apiGroups: [''], resources: [namespaces], resourceNames: [NAMESPACE], verbs: [list, watch]}
- {apiGroups: [''], resources: [secrets], resourceNames: [tenure-access], verbs: [list, watch, create, patch, delete]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: USER}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: USER}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: USER}]
";

/// The row of the same table that `--redis-secret` adds.
const SECRET_ROLE: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: secret, namespace: NAMESPACE}
rules:
- {apiGroups: [''], resources: [secrets], resourceNames: [tenure-redis], verbs: [list, watch, patch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: secret, namespace: NAMESPACE}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: secret}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: USER}]
---
apiVersion: v1
kind: Secret
metadata: {name: tenure-redis, namespace: NAMESPACE}
";

/// A namespace, and a user with the permissions.
struct Access {
    plane: &'static ControlPlane,
    namespace: String,
    user: String,
    redis: Redis,
}

impl Access {
    async fn prepare() -> Result<Self> {
        let plane = ControlPlane::shared().await?;
        let access = Self {
            plane,
            namespace: plane.namespace("permissions-access").await?,
            user: unique("user"),
            redis: Redis::start().await?,
        };
        access.apply(&format!("{ROLE}---{ACCESS_ROLE}")).await?;
        Ok(access)
    }

    async fn apply(&self, roles: &str) -> Result {
        let roles = roles
            .replace("NAMESPACE", &self.namespace)
            .replace("USER", &self.user);
        self.plane.apply(&roles).await.map(drop)
    }

    fn start(&self) -> Result<Process> {
        start(
            self.plane,
            &self.user,
            &self.redis,
            &self.namespace,
            &["--access"],
        )
    }

    async fn label(&self, label: &str) -> Result {
        let args = ["label", "namespace", &self.namespace, "--overwrite", label];
        self.plane.kubectl(&args).await.map(drop)
    }

    async fn kubectl_secret(&self, verb: &str, args: &[&str]) -> Result<String> {
        let start = ["-n", &self.namespace, verb, "secret", "tenure-access"];
        self.plane.kubectl(&[&start[..], args].concat()).await
    }

    /// Waits until the Secret is there, or is not.
    async fn until_secret(&self, there: bool) -> Result {
        eventually("the Secret to come or go", SOON, async || {
            let name = self
                .kubectl_secret("get", &["--ignore-not-found", "-o", "name"])
                .await?;
            ensure!(name.trim().is_empty() != there, "not yet");
            Ok(())
        })
        .await
    }
}

#[tokio::test]
async fn a_password_in_a_secret_takes_no_more_than_the_listed_permissions() -> Result {
    let access = Access::prepare().await?;
    access.apply(SECRET_ROLE).await?;
    let secret = format!("{}/tenure-redis", access.namespace);
    let args = ["--redis-secret", &secret];
    let controller = start(
        access.plane,
        &access.user,
        &access.redis,
        &access.namespace,
        &args,
    )?;
    eventually("the password", SOON, async || {
        let path = "jsonpath={.data.password}";
        let get = [
            "-n",
            &access.namespace,
            "get",
            "secret",
            "tenure-redis",
            "-o",
            path,
        ];
        let password = access.plane.kubectl(&get).await?;
        ensure!(!password.is_empty(), "there is none");
        Ok(())
    })
    .await
    .with_context(|| controller.tail())?;
    let log = controller.log()?;
    ensure!(!log.contains("forbidden"), "{log}");
    Ok(())
}

#[tokio::test]
async fn a_rotation_of_a_secret_that_the_controller_may_only_read_is_refused() -> Result {
    let access = Access::prepare().await?;
    let role = SECRET_ROLE.replace("list, watch, patch", "list, watch");
    access
        .apply(&format!("{role}stringData: {{password: first}}\n"))
        .await?;
    access
        .redis
        .cli(&["CONFIG", "SET", "requirepass", "first"])
        .await?;
    let secret = format!("{}/tenure-redis", access.namespace);
    let record = format!("{}/epoch", access.namespace);
    let url = access.redis.url();
    let args = [
        "--redis-url",
        &url,
        "--redis-secret",
        &secret,
        "--watch-namespaces",
        &access.namespace,
        "--epoch-record",
        &record,
    ];
    let controller = Controller::start_as(access.plane, &access.user, &args).await?;
    controller.until_ready(SOON).await?;
    let in_namespace = ["-n", &access.namespace];
    let annotate = ["annotate", "secret", "tenure-redis", "tenure.dev/rotate=now"];
    access
        .plane
        .kubectl(&[&in_namespace[..], &annotate].concat())
        .await?;
    let selector = "--field-selector=reason=RotationRefused";
    let get = ["get", "events", selector, "-o", "jsonpath={.items[*].message}"];
    eventually("the event", SOON, async || {
        let note = access.plane.kubectl(&[&in_namespace[..], &get].concat()).await?;
        ensure!(note.contains("previous-password"), "{note}");
        // Redis had the new password for a moment.
        let log = controller.logs()?;
        let given = log
            .lines()
            .rfind(|line| line.contains("gave Redis the passwords"));
        ensure!(
            given.is_some_and(|line| line.contains("\"passwords\":1")),
            "{log}"
        );
        Ok(())
    })
    .await
    .with_context(|| controller.logs().unwrap_or_default())?;
    controller.until_ready(SOON).await
}

#[tokio::test]
async fn access_takes_no_more_than_the_listed_permissions() -> Result {
    let access = Access::prepare().await?;
    let controller = access.start()?;
    access.label("tenure.dev/access=true").await?;
    access
        .until_secret(true)
        .await
        .with_context(|| controller.tail())?;
    access
        .kubectl_secret("annotate", &["tenure.dev/rotate=now"])
        .await?;
    eventually("the rotation", SOON, async || {
        let path = "jsonpath={.metadata.annotations.tenure\\.dev/rotated-for}";
        let answered = access.kubectl_secret("get", &["-o", path]).await?;
        ensure!(answered.trim() == "now", "not yet");
        Ok(())
    })
    .await
    .with_context(|| controller.tail())?;
    access.label("tenure.dev/access-").await?;
    access
        .until_secret(false)
        .await
        .with_context(|| controller.tail())?;
    let log = controller.log()?;
    ensure!(
        !log.contains("forbidden") && !log.contains("\"WARN\"") && !log.contains("\"ERROR\""),
        "{log}"
    );
    Ok(())
}

#[tokio::test]
async fn each_permission_of_access_is_needed_and_named_when_it_is_missing() -> Result {
    let access = Access::prepare().await?;
    for (verb, resource) in [
        ("list", "namespaces"),
        ("watch", "namespaces"),
        ("list", "secrets"),
        ("watch", "secrets"),
        ("create", "secrets"),
        ("patch", "secrets"),
        ("delete", "secrets"),
    ] {
        let role = ACCESS_ROLE.split("---").next().context("no role")?;
        let without = |line: &str| {
            let line = line.replace(&format!("{verb}, "), "");
            line.replace(&format!(", {verb}]"), "]")
        };
        let fewer: Vec<String> = role
            .lines()
            .map(|line| {
                let is_it = line.contains(&format!("[{resource}]"));
                if is_it { without(line) } else { line.to_owned() }
            })
            .collect();
        access.apply(&fewer.join("\n")).await?;
        access.kubectl_secret("delete", &["--ignore-not-found"]).await?;
        access.label("tenure.dev/access=true").await?;
        let controller = access.start()?;
        if verb == "delete" {
            access
                .until_secret(true)
                .await
                .with_context(|| controller.tail())?;
            access.label("tenure.dev/access-").await?;
        }
        let what = format!("{verb} of {resource} to be missed");
        eventually(&what, SOON, async || {
            let log = controller.log()?;
            let missed = format!("cannot {verb} resource \\\"{resource}\\\"");
            ensure!(log.contains(&missed), "{log}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// Starts a controller as a user of Kubernetes.
fn start(plane: &ControlPlane, user: &str, redis: &Redis, namespace: &str, args: &[&str]) -> Result<Process> {
    let mut config = Kubeconfig::read_from(plane.kubeconfig())?;
    for auth in config
        .auth_infos
        .iter_mut()
        .filter_map(|named| named.auth_info.as_mut())
    {
        auth.impersonate = Some(user.to_owned());
    }
    let folder = folder("permissions")?;
    let kubeconfig = folder.join("kubeconfig");
    fs::write(&kubeconfig, serde_json::to_string(&config)?)?;
    let mut command = Command::new(binaries::find("tenure-controller")?);
    command
        .env("KUBECONFIG", kubeconfig)
        .args(["--listen", "127.0.0.1:0", "--log-format", "json"]);
    command.args(["--redis-url", &redis.url(), "--watch-namespaces", namespace]);
    command
        .args(["--epoch-record", &format!("{namespace}/epoch")])
        .args(args);
    Process::spawn("tenure-controller", &folder, &command)
}

#[tokio::test]
async fn a_whole_life_of_an_object_takes_no_more_than_the_listed_permissions() -> Result {
    let plane = ControlPlane::shared().await?;
    let (namespace, user, redis) = (
        plane.namespace("permissions").await?,
        unique("user"),
        Redis::start().await?,
    );
    plane
        .apply(&ROLE.replace("NAMESPACE", &namespace).replace("USER", &user))
        .await?;

    let controller = start(plane, &user, &redis, &namespace, &[])?;

    let api = kube::Api::<Semaphore>::namespaced(plane.client().await?, &namespace);
    let ready = eventually("the semaphore to be ready", SOON, async || {
        expect(&api.get("calls").await?, "Ready", "True", "Synced")
    });
    ready.await.with_context(|| controller.tail())?;
    // A loss of data, which the record of epochs is for.
    redis.cli(&["FLUSHALL"]).await?;
    let client = tenure::Client::builder(redis.url())
        .namespace(&namespace)
        .connect()
        .await?;
    client.semaphore("calls")?.acquire().await?.release().await?;
    let written = eventually("the record of epochs", SOON, async || {
        let path = "jsonpath={.data.open}";
        let found = plane
            .kubectl(&["-n", &namespace, "get", "configmap", "epoch", "-o", path])
            .await?;
        ensure!(found.trim() == "false", "{found:?}");
        Ok(())
    });
    written.await.with_context(|| controller.tail())?;
    let in_namespace = ["-n", &namespace];
    // An event.
    let scale = async |permits: &str| {
        let replicas = format!("--replicas={permits}");
        let args = [&in_namespace[..], &["scale", "semaphore", "calls", &replicas]].concat();
        plane.kubectl(&args).await.map(drop)
    };
    scale("2").await?;
    let semaphore = client.semaphore("calls")?;
    let (one, two) = (semaphore.acquire().await?, semaphore.acquire().await?);
    scale("1").await?;
    let draining = eventually("the semaphore to drain", SOON, async || {
        expect(&api.get("calls").await?, "Reconciling", "True", "Draining")
    });
    draining.await.with_context(|| controller.tail())?;
    one.release().await?;
    two.release().await?;
    plane
        .kubectl(
            &[
                &in_namespace[..],
                &["delete", "--wait=false", "semaphore", "calls"],
            ]
            .concat(),
        )
        .await?;
    let gone = eventually("the semaphore to be gone", SOON, async || {
        ensure!(api.get_opt("calls").await?.is_none(), "it is there");
        Ok(())
    });
    gone.await.with_context(|| controller.tail())?;
    let told = eventually("the event", SOON, async || {
        let events = plane
            .kubectl(&[&in_namespace[..], &["get", "events", "-o", "name"]].concat())
            .await?;
        ensure!(events.contains("calls"), "{events:?}");
        Ok(())
    });
    told.await.with_context(|| controller.tail())?;
    let log = controller.log()?;
    ensure!(
        !log.contains("forbidden") && !log.contains("\"WARN\"") && !log.contains("\"ERROR\""),
        "{log}"
    );
    Ok(())
}
