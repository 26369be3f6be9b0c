//! `make e2e`: the chart on a real cluster, from `helm install` to the end of the definitions. The steps are in this file;
//! [`cluster`] is the way to the cluster, [`objects`] what is applied to it, [`guard`] what must not be, [`upgrades`] has
//! the steps that end in failures, or need a hand, [`first_lease`] the way of a user, [`secrets`] the password and the
//! certificate of Redis, [`jobs`] the recipes of the command line, and [`replicated`] the steps with three pods of Redis.
//!
//! The cluster is the one that KUBECONFIG names; it must not have Tenure, and the images must be there. On kind:
//!
//! ```console
//! $ make image
//! $ kind load docker-image tenure-controller:0.1.0 tenure-cli:0.1.0 tenure-worker:0.1.0
//! $ make e2e
//! ```
//!
//! If kubectl and helm work only in a certain environment, such as a network namespace, `--prefix` is the command that
//! leads there. If no image can be pulled, `--redis-image` names an image that was loaded. If no volumes are provisioned,
//! `--volume` names a folder of the node that belongs to the user 999, and has such folders `node-0` to `node-2`. `.ci/e2e` does all of
//! that. `--only` runs one part of the steps.
//!
//! At the end the cluster is as it was. After a failure everything stays, to be looked at.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use clap::{Parser, ValueEnum};
use serde_json::Value;
use tenure_tests::{Context, Result, ensure, eventually};

use crate::{
    cluster::Cluster,
    objects::{LEASE_SECONDS, NAMESPACE, OTHER_PASSWORD, POOL},
};

mod cluster;
mod first_lease;
mod guard;
mod jobs;
mod objects;
mod replicated;
mod secrets;
mod upgrades;

/// Timeout of short steps.
const SOON: Duration = Duration::from_secs(60);
/// Object that the Jobs contend for.
const LICENCE: [&str; 2] = ["pool", POOL];
/// A lock is not declared, so nothing but the file of Redis brings it back.
const LOCK: [&str; 4] = ["lock", "nightly", "--lease-ms", "15000"];
const DEFINITIONS: [&str; 2] = ["lockpools.tenure.dev", "semaphores.tenure.dev"];

/// Installs the chart on the cluster that KUBECONFIG names, breaks it in several ways, and removes it.
#[derive(Parser)]
struct Args {
    /// Goes before each kubectl and helm command, such as `cluster exec --`
    #[arg(long, env = "TENURE_E2E_PREFIX", default_value = "", value_name = "COMMAND")]
    prefix: String,
    /// The image for Redis, with its tag; the chart's default if absent
    #[arg(long, env = "TENURE_E2E_REDIS_IMAGE", value_name = "NAME:TAG")]
    redis_image: Option<String>,
    /// A folder of the node that belongs to the user 999, with folders node-0 to node-2, for a cluster that provisions no volumes
    #[arg(long, env = "TENURE_E2E_VOLUME", value_name = "FOLDER")]
    volume: Option<PathBuf>,
    /// Run one part of the steps only
    #[arg(long, value_enum, value_name = "PART")]
    only: Option<Part>,
}

/// A part of the steps.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Part {
    /// One pod of Redis, and another Redis
    Standalone,
    /// Three pods of Redis
    Replicated,
    /// The recipes of the command line
    Jobs,
}

#[tokio::main]
async fn main() -> Result {
    let started = Instant::now();
    let e2e = E2e::new(Args::parse())?;
    if let Err(error) = e2e.run().await {
        e2e.cluster.diagnose().await;
        return Err(error);
    }
    println!(
        "\nAll of it held, in {:.0} s. The cluster is as it was.",
        seconds(started)
    );
    Ok(())
}

struct E2e {
    redis_image: Option<String>,
    volume: Option<PathBuf>,
    only: Option<Part>,
    cluster: Cluster,
}

/// Holder of the licence.
#[derive(Debug, PartialEq)]
struct Holder {
    pod: String,
    token: u64,
}

impl E2e {
    fn new(args: Args) -> Result<Self> {
        Ok(Self {
            redis_image: args.redis_image,
            volume: args.volume,
            only: args.only,
            cluster: Cluster::new(args.prefix)?,
        })
    }

    async fn run(&self) -> Result {
        let definitions = self
            .cluster
            .kubectl_everywhere(&["get", "crd", "-o", "name"])
            .await?;
        ensure!(
            !definitions.contains(".tenure.dev"),
            "this cluster has Tenure, and the test would remove it with all its objects: take another cluster, or delete \
             the definitions (kubectl delete crd {}) and the namespace {NAMESPACE}",
            DEFINITIONS.join(" ")
        );
        self.cluster.apply(&objects::namespace()).await?;
        if self.only == Some(Part::Jobs) {
            self.install_and_test().await?;
            self.jobs().await?;
            self.uninstall().await?;
        }
        if matches!(self.only, None | Some(Part::Standalone)) {
            self.with_one_pod().await?;
        }
        if matches!(self.only, None | Some(Part::Replicated)) {
            self.replicate().await?;
        }
        self.clean_up().await
    }

    async fn with_one_pod(&self) -> Result {
        self.install_and_test().await?;
        self.jobs().await?;
        guard::password(&self.cluster).await?;
        guard::roles(&self.cluster).await?;
        self.declare().await?;
        let first = self.contend().await?;
        let second = self.kill(&first).await?;
        let second = self.lose_a_controller(&second).await?;
        self.upgrade(&second).await?;
        self.upgrade_wrongly(&second).await?;
        self.rotate_the_password(&second).await?;
        self.change_the_volume(&second).await?;
        let third = self.restart_redis(&second).await?;
        self.uninstall_in_use(&third).await?;
        let fourth = self.install_again(&third).await?;
        self.delete_definitions(&fourth).await?;
        self.use_another_redis().await?;
        self.use_tls().await
    }

    async fn install_and_test(&self) -> Result {
        say(
            "1. Install on an empty cluster, into a namespace that enforces the standard `restricted`, and test.",
        );
        if let Some(path) = &self.volume {
            self.cluster.apply(&objects::volume(path)).await?;
        }
        self.cluster.apply(&objects::application_namespace()).await?;
        let started = Instant::now();
        self.install().await?;
        done(&format!("Installed after {:.1} s.", seconds(started)));
        self.first_lease(started).await?;
        let started = Instant::now();
        self.cluster.show_helm(&["test", "tenure", "--logs"]).await?;
        done(&format!("A green `helm test` takes {:.1} s.", seconds(started)));
        Ok(())
    }

    async fn install(&self) -> Result {
        self.install_more(&[]).await
    }

    /// Installs with settings beside those of the cluster.
    async fn install_more(&self, more: &[&str]) -> Result {
        let image = self.redis_image.as_ref().map(|image| image.rsplit_once(':'));
        let image = image
            .map(|parts| parts.context("--redis-image: write NAME:TAG"))
            .transpose()?;
        let image = image.map(|(name, tag)| format!("redis.image.repository={name},redis.image.tag={tag}"));
        // Holders of a deleted object may keep what they have for so long.
        let mut set = vec!["--set", "controller.drainTimeout=10s"];
        set.extend(image.iter().flat_map(|image| ["--set", image]));
        set.extend(more);
        self.install_with(&set).await
    }

    async fn install_with(&self, set: &[&str]) -> Result {
        let args = ["install", "tenure", "charts/tenure", "--wait", "--timeout", "5m"];
        let said = self.cluster.helm(&[&args[..], set].concat()).await?;
        for command in [
            "helm test tenure",
            "kubectl apply",
            "kubectl get lockpools,semaphores",
        ] {
            ensure!(said.contains(command), "the notes do not say `{command}`: {said}");
        }
        Ok(())
    }

    async fn uninstall(&self) -> Result<f64> {
        let started = Instant::now();
        self.cluster
            .helm(&["uninstall", "tenure", "--wait", "--timeout", "60s"])
            .await?;
        ensure!(seconds(started) < 60.0, "it took {:.0} s", seconds(started));
        Ok(seconds(started))
    }

    async fn declare(&self) -> Result {
        say("2. A person applies the samples, and a pool of one licence.");
        self.cluster
            .show_kubectl(&["apply", "-f", "crds/samples"])
            .await?;
        self.cluster.apply(&objects::pool()).await?;
        self.ready().await
    }

    async fn ready(&self) -> Result {
        let wait = [
            "wait",
            "--for=condition=Ready",
            "lockpools,semaphores",
            "--all",
            "--timeout=60s",
        ];
        self.cluster.show_kubectl(&wait).await
    }

    async fn contend(&self) -> Result<Holder> {
        say("3. Two Jobs contend for the licence, through the library.");
        self.cluster.apply(&objects::job("job-a", &LICENCE)).await?;
        self.cluster.apply(&objects::job("job-b", &LICENCE)).await?;
        let holder = eventually("one to hold and one to wait", SOON, async || {
            let pool = self.pool().await?;
            ensure!(pool["status"]["waiting"] == 1, "{}", pool["status"]);
            holder(&pool)
        })
        .await?;
        let table = self.cluster.kubectl(&["get", "lockpools"]).await?;
        ensure!(
            table.contains(&holder.pod),
            "kubectl does not show {}: {table}",
            holder.pod
        );
        self.cluster
            .show_kubectl(&["get", "lockpools,semaphores"])
            .await?;
        self.cluster.show_kubectl(&["get", "pods", "-o", "wide"]).await?;
        Ok(holder)
    }

    /// Kills the pod that holds, and returns who is next.
    async fn kill(&self, before: &Holder) -> Result<Holder> {
        say("4. The pod that holds is killed.");
        let killed = Instant::now();
        let next = self.hand_over(before, SOON).await?;
        done(&format!(
            "{} holds after {:.1} s; the kubelet gave the killed one two of them.",
            next.pod,
            seconds(killed)
        ));
        self.cluster.show_kubectl(&["get", "lockpools"]).await?;
        Ok(next)
    }

    async fn hand_over(&self, before: &Holder, limit: Duration) -> Result<Holder> {
        self.cluster
            .kubectl(&["delete", "pod", &before.pod, "--grace-period=1", "--wait=false"])
            .await?;
        let next = eventually("the next pod to hold", limit, async || {
            let next = holder(&self.pool().await?)?;
            ensure!(next.pod != before.pod, "{} is shown", next.pod);
            Ok(next)
        })
        .await?;
        ensure!(
            next.token > before.token,
            "the fencing token did not grow: {before:?}, {next:?}"
        );
        let log = self.cluster.kubectl(&["logs", &next.pod]).await?;
        ensure!(
            log.contains(&format!("fence={}", next.token)),
            "{} does not know it: {log}",
            next.pod
        );
        Ok(next)
    }

    async fn upgrade(&self, held: &Holder) -> Result {
        say("6. `helm upgrade` with a changed value, while the licence is held.");
        let before = (self.cluster.password().await?, self.uid("tenure-redis-0").await?);
        let args = [
            "upgrade",
            "tenure",
            "charts/tenure",
            "--reuse-values",
            "--set",
            "controller.logFormat=human",
        ];
        let upgraded = Instant::now();
        self.cluster
            .helm(&[&args[..], &["--wait", "--timeout", "5m"]].concat())
            .await?;
        done(&format!("Upgraded after {:.1} s.", seconds(upgraded)));
        let args = "jsonpath={.items[*].spec.containers[0].args}";
        let controllers = [
            "get",
            "pods",
            "-l",
            "app.kubernetes.io/component=controller",
            "-o",
            args,
        ];
        let running = self.cluster.kubectl(&controllers).await?;
        ensure!(
            running.contains("--log-format=human"),
            "the controller runs with {running}"
        );
        let after = (self.cluster.password().await?, self.uid("tenure-redis-0").await?);
        ensure!(
            before == after,
            "the password changed, or Redis was restarted for nothing"
        );
        self.still(held).await?;
        done("The same pod holds under the same fencing token; password and Redis are the same.");
        Ok(())
    }

    async fn restart_redis(&self, held: &Holder) -> Result<Holder> {
        say("10. The pod of Redis is deleted. Its file is on a volume, so leases survive.");
        let token = [
            "get",
            "lockpool",
            POOL,
            "-o",
            "jsonpath={.status.holders[0].fencingToken}{\"\\n\"}",
        ];
        self.cluster.show_kubectl(&token).await?;
        self.cluster.apply(&objects::job("job-lock", &LOCK)).await?;
        let lock = ["logs", "job/job-lock"];
        eventually("a lock to be held", SOON, async || {
            let log = self.cluster.kubectl(&lock).await?;
            ensure!(log.contains("granted"), "{log}");
            Ok(())
        })
        .await?;
        let before = self.uid("tenure-redis-0").await?;
        let deleted = Instant::now();
        self.cluster.kubectl(&["delete", "pod", "tenure-redis-0"]).await?;
        eventually("another pod of Redis", SOON, async || {
            ensure!(self.uid("tenure-redis-0").await? != before, "it is the old one");
            Ok(())
        })
        .await?;
        self.cluster
            .kubectl(&[
                "wait",
                "--for=condition=Ready",
                "pod/tenure-redis-0",
                "--timeout=60s",
            ])
            .await?;
        done(&format!("Redis is back after {:.1} s.", seconds(deleted)));
        let lease = Duration::from_secs(LEASE_SECONDS);
        eventually("a lease to be over, and the pool to be ready", SOON, async || {
            ensure!(
                deleted.elapsed() > lease * 2,
                "only {:?} have passed",
                deleted.elapsed()
            );
            let pool = self.pool().await?;
            let ready = condition(&pool, "Ready").context("no condition Ready")?;
            ensure!(ready["status"] == "True", "{ready}");
            Ok(())
        })
        .await?;
        self.still(held).await?;
        self.cluster.show_kubectl(&token).await?;
        let log = self.cluster.kubectl(&lock).await?;
        ensure!(!lost(&log), "the lock did not survive: {log}");
        done(
            "Two leases later the same pod holds under the same fencing token; so does the holder of a lock.",
        );
        let next = self.hand_over(held, SOON).await?;
        done(&format!(
            "And the next one is granted as ever: {}, {}.",
            next.pod, next.token
        ));
        Ok(next)
    }

    async fn uninstall_in_use(&self, held: &Holder) -> Result {
        say("11. `helm uninstall` with live objects, of which one is held.");
        self.still(held).await?;
        let objects = ["get", "lockpools,semaphores", "-o", "name"];
        let before = self.cluster.kubectl(&objects).await?;
        ensure!(before.lines().count() == 3, "{before}");
        let took = self.uninstall().await?;
        let marks = "jsonpath={.items[*].metadata.deletionTimestamp}";
        let deleted = self
            .cluster
            .kubectl(&["get", "lockpools,semaphores", "-o", marks])
            .await?;
        let after = self.cluster.kubectl(&objects).await?;
        ensure!(before == after && deleted.is_empty(), "{after}{deleted}");
        done(&format!(
            "Gone after {took:.1} s; definitions and objects are there."
        ));
        self.cluster.kubectl(&["delete", "jobs", "--all"]).await?;
        Ok(())
    }

    async fn install_again(&self, before: &Holder) -> Result<Holder> {
        say("12. `helm install` again adopts them.");
        self.install().await?;
        self.ready().await?;
        self.cluster.apply(&objects::job("job-c", &LICENCE)).await?;
        let next = eventually("a new pod to hold", SOON, async || {
            let next = holder(&self.pool().await?)?;
            ensure!(next.pod.starts_with("job-c-"), "{}", next.pod);
            Ok(next)
        })
        .await?;
        ensure!(
            next.token > before.token,
            "the fencing token did not grow: {before:?}, {next:?}"
        );
        self.cluster.show_kubectl(&["get", "lockpools"]).await?;
        Ok(next)
    }

    async fn delete_definitions(&self, held: &Holder) -> Result {
        say("13. The definitions are deleted, while the licence is held and the controller runs.");
        self.still(held).await?;
        let started = Instant::now();
        self.remove_definitions().await?;
        done(&format!(
            "Gone after {:.1} s, with all objects.",
            seconds(started)
        ));
        let restarts = "jsonpath={.items[*].status.containerStatuses[*].restartCount}";
        let ours = [
            "get",
            "pods",
            "-l",
            "app.kubernetes.io/name=tenure",
            "-o",
            restarts,
        ];
        let restarts = self.cluster.kubectl(&ours).await?;
        ensure!(
            restarts.split_whitespace().all(|count| count == "0"),
            "something was restarted: {restarts}"
        );
        let log = self
            .cluster
            .kubectl(&["logs", "deployment/tenure-controller"])
            .await?;
        ensure!(
            !log.to_lowercase().contains("forbidden"),
            "the controller lacks a permission: {log}"
        );
        let took = self.uninstall().await?;
        done(&format!("The release is gone after {took:.1} s."));
        Ok(())
    }

    async fn remove_definitions(&self) -> Result {
        let delete = [&["delete", "crd"], &DEFINITIONS[..], &["--timeout=60s"]].concat();
        self.cluster.kubectl_everywhere(&delete).await.map(drop)
    }

    /// The other way to have a Redis.
    async fn use_another_redis(&self) -> Result {
        say("14. Install with a Redis that is there already and has users of the smallest rights, and test.");
        let ours = ["get", "pods", "-o", "jsonpath={.items[*].metadata.name}"];
        self.cluster
            .apply(&objects::other_redis(&self.other_image().await?)?)
            .await?;
        self.cluster
            .kubectl(&["wait", "--for=condition=Ready", "pod/other", "--timeout=120s"])
            .await?;
        let users = "externalRedis.username=controller,externalRedis.passwordKey=password,externalRedis.podSecret=other-pods,externalRedis.keyPrefix=e2e";
        self.install_with(&[
            "--set",
            "redis.enabled=false,externalRedis.existingSecret=other",
            "--set",
            users,
        ])
        .await?;
        self.cluster.helm(&["test", "tenure"]).await?;
        let there = self.cluster.kubectl(&ours).await?;
        ensure!(
            !there.contains("tenure-redis"),
            "the chart runs a Redis as well: {there}"
        );
        let controller = ["get", "deployments,configmaps", "-o", "yaml"];
        let mut public = self.cluster.kubectl(&controller).await?;
        public += &self
            .cluster
            .kubectl(&["logs", "deployment/tenure-controller"])
            .await?;
        ensure!(
            !public.contains(OTHER_PASSWORD),
            "the password stands in an object or in a log"
        );
        done("It works, and its password stands in its Secret alone.");
        self.uninstall().await.map(drop)
    }

    async fn other_image(&self) -> Result<String> {
        if let Some(image) = &self.redis_image {
            return Ok(image.clone());
        }
        let values: Value =
            serde_saphyr::from_str(&self.cluster.helm(&["show", "values", "charts/tenure"]).await?)?;
        let image = &values["redis"]["image"];
        let part = |key: &str| {
            image[key]
                .as_str()
                .with_context(|| format!("no redis.image.{key}"))
        };
        Ok(format!("{}:{}", part("repository")?, part("tag")?))
    }

    /// "Removing everything" in the README of the chart.
    async fn clean_up(&self) -> Result {
        self.remove_definitions().await?;
        let of_namespaces = [
            "--all-namespaces",
            "--selector",
            "app.kubernetes.io/managed-by=tenure-controller",
        ];
        let of_release = ["--selector", "app.kubernetes.io/instance=tenure"];
        let of_release = [&["--namespace", NAMESPACE][..], &of_release].concat();
        for (kinds, selection) in [
            ("secrets", &of_namespaces[..]),
            ("secrets,configmaps,persistentvolumeclaims", &of_release),
        ] {
            let delete = [&["delete", kinds], selection].concat();
            let removed = self.cluster.kubectl_everywhere(&delete).await?;
            ensure!(
                removed.contains("deleted"),
                "nothing is left to remove: {removed}"
            );
        }
        self.cluster
            .kubectl_everywhere(&["delete", "namespace", NAMESPACE, "--timeout=120s"])
            .await?;
        if self.volume.is_some() {
            let volumes = "persistentvolumes";
            let delete = ["delete", volumes, "-l", objects::VOLUMES, "--timeout=60s"];
            self.cluster.kubectl_everywhere(&delete).await?;
        }
        Ok(())
    }

    /// Fails unless the same pod holds under the same token, and has never lost it.
    async fn still(&self, held: &Holder) -> Result {
        let now = holder(&self.pool().await?)?;
        ensure!(now == *held, "{now:?} in place of {held:?}");
        let log = self.cluster.kubectl(&["logs", &held.pod]).await?;
        ensure!(!lost(&log), "{} says: {log}", held.pod);
        Ok(())
    }

    async fn pool(&self) -> Result<Value> {
        Ok(serde_json::from_str(
            &self
                .cluster
                .kubectl(&["get", "lockpool", POOL, "-o", "json"])
                .await?,
        )?)
    }

    async fn uid(&self, pod: &str) -> Result<String> {
        self.cluster
            .kubectl(&["get", "pod", pod, "-o", "jsonpath={.metadata.uid}"])
            .await
    }
}

fn holder(pool: &Value) -> Result<Holder> {
    let status = &pool["status"];
    let first = &status["holders"][0];
    let (pod, token) = (first["pod"].as_str(), first["fencingToken"].as_u64());
    let pod = pod
        .with_context(|| format!("there is no holder: {status}"))?
        .to_owned();
    Ok(Holder {
        pod,
        token: token.context("no fencing token")?,
    })
}

fn condition<'a>(object: &'a Value, name: &str) -> Option<&'a Value> {
    object["status"]["conditions"]
        .as_array()?
        .iter()
        .find(|condition| condition["type"] == name)
}

/// True if a worker reports the loss of its lease.
fn lost(log: &str) -> bool {
    log.lines().any(|line| line.starts_with("lost "))
}

fn say(text: &str) {
    println!("\n{text}");
}

fn done(text: &str) {
    println!("   {text}");
}

fn seconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64()
}
