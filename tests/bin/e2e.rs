//! `make e2e`: the chart on a real cluster, from `helm install` to the end of the definitions.
//!
//! The cluster is the one that KUBECONFIG names; it must not have Tenure, and the images must be there. On kind:
//!
//! ```console
//! $ make image
//! $ kind load docker-image tenure-controller:0.1.0 tenure-worker:0.1.0
//! $ make e2e
//! ```
//!
//! Where kubectl and helm work in some surroundings only, such as a network namespace, `--prefix` is the command that
//! leads there. Where nothing can be pulled, `--redis-image` names an image that was loaded. Where no volumes are
//! provisioned, `--volume` names a folder of the node that belongs to the user 999. `.ci/e2e` does all of that.
//!
//! At the end the cluster is as it was. After a failure everything stays, to be looked at.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use clap::Parser;
use serde_json::{Value, json};
use tenure_tests::{
    Context, Process, Result, assets, bail, ensure, eventually,
    process::{folder, unique},
};

const NAMESPACE: &str = "tenure-e2e";
const POOL: &str = "licence";
/// Also the time for which nothing new is granted after a restart of Redis.
const LEASE_SECONDS: u64 = 10;
/// For whatever should take a moment.
const SOON: Duration = Duration::from_secs(60);
/// A command that has not ended by then hangs.
const COMMAND: Duration = Duration::from_secs(330);
const CHECKOUT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Installs the chart on the cluster that KUBECONFIG names, breaks it in several ways, and removes it.
#[derive(Parser)]
struct Args {
    /// Goes before each kubectl and helm command, such as `cluster exec --`
    #[arg(long, env = "TENURE_E2E_PREFIX", default_value = "", value_name = "COMMAND")]
    prefix: String,
    /// The image for Redis, with its tag; the chart's default if absent
    #[arg(long, env = "TENURE_E2E_REDIS_IMAGE", value_name = "NAME:TAG")]
    redis_image: Option<String>,
    /// A folder of the node that belongs to the user 999, for a cluster that provisions no volumes
    #[arg(long, env = "TENURE_E2E_VOLUME", value_name = "FOLDER")]
    volume: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> Result {
    let started = Instant::now();
    let e2e = E2e::new(Args::parse())?;
    if let Err(error) = e2e.run().await {
        e2e.diagnose().await;
        return Err(error);
    }
    println!(
        "\nAll of it held, in {:.0} s. The cluster is as it was.",
        seconds(started)
    );
    Ok(())
}

struct E2e {
    args: Args,
    kubectl: PathBuf,
    helm: PathBuf,
}

/// Who has the licence.
#[derive(Debug, PartialEq)]
struct Holder {
    pod: String,
    token: u64,
}

impl E2e {
    fn new(args: Args) -> Result<Self> {
        let (kubectl, helm) = (assets::path("kubectl")?, assets::path("helm")?);
        Ok(Self { args, kubectl, helm })
    }

    async fn run(&self) -> Result {
        let definitions = self.kubectl(&["get", "crd", "-o", "name"]).await?;
        ensure!(
            !definitions.contains(".tenure.dev"),
            "this cluster has Tenure, and the test would remove it with all its objects: take another cluster, or delete \
             the definitions (kubectl delete crd lockpools.tenure.dev semaphores.tenure.dev) and the namespace {NAMESPACE}"
        );
        self.install_and_test().await?;
        self.password_is_secret().await?;
        self.declare().await?;
        let first = self.contend().await?;
        let second = self.kill(&first).await?;
        self.upgrade(&second).await?;
        let third = self.restart_redis(&second).await?;
        self.uninstall(&third).await?;
        let fourth = self.install_again(&third).await?;
        self.remove(&fourth).await
    }

    async fn install_and_test(&self) -> Result {
        say(
            "1. Install on an empty cluster, into a namespace that enforces the standard `restricted`, and test.",
        );
        let restricted = "restricted";
        self.apply(&json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": NAMESPACE, "labels": {
                "pod-security.kubernetes.io/enforce": restricted, "pod-security.kubernetes.io/warn": restricted,
            }},
        }))
        .await?;
        if let Some(path) = &self.args.volume {
            self.apply(&json!({
                "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": NAMESPACE},
                "spec": {
                    "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
                    "persistentVolumeReclaimPolicy": "Retain", "hostPath": {"path": path, "type": "Directory"},
                    "claimRef": {"namespace": NAMESPACE, "name": "data-tenure-redis-0"},
                },
            }))
            .await?;
        }
        let started = Instant::now();
        self.install().await?;
        done(&format!("Installed after {:.1} s.", seconds(started)));
        self.show(&self.helm, &["test", "tenure", "--logs"]).await?;
        done(&format!(
            "From `helm install` to a green `helm test`: {:.1} s.",
            seconds(started)
        ));
        Ok(())
    }

    async fn install(&self) -> Result {
        let mut args = vec!["install", "tenure", "charts/tenure", "--wait", "--timeout", "5m"];
        // Holders of a deleted object may keep what they have for so long.
        args.extend(["--set", "controller.drainTimeout=10s"]);
        let (repository, tag);
        if let Some(image) = &self.args.redis_image {
            let (name, version) = image.rsplit_once(':').context("--redis-image: write NAME:TAG")?;
            repository = format!("redis.image.repository={name}");
            tag = format!("redis.image.tag={version}");
            args.extend(["--set", &*repository, "--set-string", &*tag]);
        }
        let said = self.run_in(&self.helm, &args).await?;
        for command in [
            "helm test tenure",
            "kubectl apply",
            "kubectl get lockpools,semaphores",
        ] {
            ensure!(said.contains(command), "the notes do not say `{command}`: {said}");
        }
        Ok(())
    }

    async fn password_is_secret(&self) -> Result {
        let encoded = self.password().await?;
        ensure!(encoded.len() > 40, "the password is short: {encoded}");
        let go_template = "go-template={{.data.password | base64decode}}";
        let password = self
            .kubectl(&["get", "secret", "tenure-redis", "-o", go_template])
            .await?;
        let mut public = self
            .kubectl(&["get", "pods,configmaps,statefulsets,deployments", "-o", "yaml"])
            .await?;
        public += &self.kubectl(&["logs", "tenure-redis-0"]).await?;
        public += &self.kubectl(&["logs", "deployment/tenure-controller"]).await?;
        ensure!(public.len() > 1000, "nothing was read");
        for secret in [encoded.trim(), password.trim()] {
            ensure!(
                !public.contains(secret),
                "the password stands in an object or in a log"
            );
        }
        Ok(())
    }

    async fn declare(&self) -> Result {
        say("2. A person applies the samples, and a pool of one licence.");
        self.show(&self.kubectl, &["apply", "-f", "crds/samples"]).await?;
        self.apply(&json!({
            "apiVersion": "tenure.dev/v1alpha1", "kind": "LockPool", "metadata": {"name": POOL, "namespace": NAMESPACE},
            "spec": {"resources": [{"name": "only"}], "leaseDurationSeconds": LEASE_SECONDS},
        }))
        .await?;
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
        self.show(&self.kubectl, &wait).await
    }

    async fn contend(&self) -> Result<Holder> {
        say("3. Two Jobs contend for the licence, through the library.");
        self.job("job-a").await?;
        self.job("job-b").await?;
        let holder = eventually("one to hold and one to wait", SOON, async || {
            let pool = self.pool().await?;
            ensure!(pool["status"]["waiting"] == 1, "{}", pool["status"]);
            holder(&pool)
        })
        .await?;
        let table = self.kubectl(&["get", "lockpools"]).await?;
        ensure!(
            table.contains(&holder.pod),
            "kubectl does not show {}: {table}",
            holder.pod
        );
        self.show(&self.kubectl, &["get", "lockpools,semaphores"]).await?;
        self.show(&self.kubectl, &["get", "pods", "-o", "wide"]).await?;
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
        self.show(&self.kubectl, &["get", "lockpools"]).await?;
        Ok(next)
    }

    async fn hand_over(&self, before: &Holder, limit: Duration) -> Result<Holder> {
        self.kubectl(&["delete", "pod", &before.pod, "--grace-period=1", "--wait=false"])
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
        let log = self.kubectl(&["logs", &next.pod]).await?;
        ensure!(
            log.contains(&format!("fence={}", next.token)),
            "{} does not know it: {log}",
            next.pod
        );
        Ok(next)
    }

    async fn upgrade(&self, held: &Holder) -> Result {
        say("5. `helm upgrade` with a changed value, while the licence is held.");
        let before = (self.password().await?, self.uid("tenure-redis-0").await?);
        let args = [
            "upgrade",
            "tenure",
            "charts/tenure",
            "--reuse-values",
            "--set",
            "controller.logFormat=human",
        ];
        let upgraded = Instant::now();
        self.run_in(&self.helm, &[&args[..], &["--wait", "--timeout", "5m"]].concat())
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
        let running = self.kubectl(&controllers).await?;
        ensure!(
            running.contains("--log-format=human"),
            "the controller runs with {running}"
        );
        let after = (self.password().await?, self.uid("tenure-redis-0").await?);
        ensure!(
            before == after,
            "the password changed, or Redis was restarted for nothing"
        );
        self.still(held).await?;
        done("The same pod holds under the same fencing token; password and Redis are the same.");
        Ok(())
    }

    async fn restart_redis(&self, held: &Holder) -> Result<Holder> {
        say("6. The pod of Redis is deleted. Its file is on a volume, so leases survive.");
        let token = [
            "get",
            "lockpool",
            POOL,
            "-o",
            "jsonpath={.status.holders[0].fencingToken}{\"\\n\"}",
        ];
        self.show(&self.kubectl, &token).await?;
        let before = self.uid("tenure-redis-0").await?;
        let deleted = Instant::now();
        self.kubectl(&["delete", "pod", "tenure-redis-0"]).await?;
        eventually("another pod of Redis", SOON, async || {
            ensure!(self.uid("tenure-redis-0").await? != before, "it is the old one");
            Ok(())
        })
        .await?;
        self.kubectl(&[
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
        self.show(&self.kubectl, &token).await?;
        done("Two leases later the same pod holds under the same fencing token.");
        let next = self.hand_over(held, SOON).await?;
        done(&format!(
            "And the next one is granted as ever: {}, {}.",
            next.pod, next.token
        ));
        Ok(next)
    }

    async fn uninstall(&self, held: &Holder) -> Result {
        say("7. `helm uninstall` with live objects, of which one is held.");
        self.still(held).await?;
        let objects = ["get", "lockpools,semaphores", "-o", "name"];
        let before = self.kubectl(&objects).await?;
        ensure!(before.lines().count() == 3, "{before}");
        let started = Instant::now();
        self.run_in(&self.helm, &["uninstall", "tenure", "--wait", "--timeout", "60s"])
            .await?;
        ensure!(seconds(started) < 60.0, "it took {:.0} s", seconds(started));
        let marks = "jsonpath={.items[*].metadata.deletionTimestamp}";
        let deleted = self
            .kubectl(&["get", "lockpools,semaphores", "-o", marks])
            .await?;
        let after = self.kubectl(&objects).await?;
        ensure!(before == after && deleted.is_empty(), "{after}{deleted}");
        done(&format!(
            "Gone after {:.1} s; definitions and objects are there.",
            seconds(started)
        ));
        self.kubectl(&["delete", "jobs", "--all"]).await?;
        Ok(())
    }

    async fn install_again(&self, before: &Holder) -> Result<Holder> {
        say("8. `helm install` again adopts them.");
        self.install().await?;
        self.ready().await?;
        self.job("job-c").await?;
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
        self.show(&self.kubectl, &["get", "lockpools"]).await?;
        Ok(next)
    }

    async fn remove(&self, held: &Holder) -> Result {
        say("9. The definitions are deleted, while the licence is held and the controller runs.");
        self.still(held).await?;
        let started = Instant::now();
        let definitions = ["lockpools.tenure.dev", "semaphores.tenure.dev"];
        self.run_on(
            &self.kubectl,
            &[&["delete", "crd"], &definitions[..], &["--timeout=60s"]].concat(),
        )
        .await?;
        done(&format!(
            "Gone after {:.1} s, with all objects.",
            seconds(started)
        ));
        let restarts = "jsonpath={.items[*].status.containerStatuses[*].restartCount}";
        let restarts = self
            .kubectl(&[
                "get",
                "pods",
                "-l",
                "app.kubernetes.io/name=tenure",
                "-o",
                restarts,
            ])
            .await?;
        ensure!(
            restarts.split_whitespace().all(|count| count == "0"),
            "something was restarted: {restarts}"
        );
        let log = self.kubectl(&["logs", "deployment/tenure-controller"]).await?;
        ensure!(
            !log.to_lowercase().contains("forbidden"),
            "the controller lacks a permission: {log}"
        );
        self.run_in(&self.helm, &["uninstall", "tenure", "--wait", "--timeout", "60s"])
            .await?;
        self.run_on(
            &self.kubectl,
            &["delete", "namespace", NAMESPACE, "--timeout=120s"],
        )
        .await?;
        if self.args.volume.is_some() {
            self.run_on(
                &self.kubectl,
                &["delete", "persistentvolume", NAMESPACE, "--timeout=60s"],
            )
            .await?;
        }
        done("So are the release and its namespace.");
        Ok(())
    }

    /// Holds the licence until it is killed.
    async fn job(&self, name: &str) -> Result {
        let field =
            |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
        self.apply(&json!({
            "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {"backoffLimit": 20, "template": {
                "metadata": {"labels": {"tenure.dev/redis-client": "true"}},
                "spec": {
                    "restartPolicy": "Never", "automountServiceAccountToken": false,
                    "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
                    "containers": [{
                        "name": "worker", "image": concat!("tenure-worker:", env!("CARGO_PKG_VERSION")),
                        "command": ["tenure-worker", "pool", POOL, "--hold-ms", "3600000", "--reason", name],
                        "env": [
                            {"name": "TENURE_REDIS_URL", "value": format!("redis://tenure-redis.{NAMESPACE}.svc:6379")},
                            {"name": "TENURE_REDIS_PASSWORD",
                             "valueFrom": {"secretKeyRef": {"name": "tenure-redis", "key": "password"}}},
                            field("POD_NAME", "metadata.name"), field("POD_NAMESPACE", "metadata.namespace"),
                            field("POD_UID", "metadata.uid"),
                        ],
                        "securityContext": {
                            "runAsUser": 65532, "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                            "capabilities": {"drop": ["ALL"]},
                        },
                    }],
                },
            }},
        }))
        .await
    }

    /// Fails unless the same pod holds under the same token, and has never lost it.
    async fn still(&self, held: &Holder) -> Result {
        let now = holder(&self.pool().await?)?;
        ensure!(now == *held, "{now:?} in place of {held:?}");
        let log = self.kubectl(&["logs", &held.pod]).await?;
        ensure!(
            !log.lines().any(|line| line.starts_with("lost ")),
            "{} says: {log}",
            held.pod
        );
        Ok(())
    }

    async fn pool(&self) -> Result<Value> {
        Ok(serde_json::from_str(
            &self.kubectl(&["get", "lockpool", POOL, "-o", "json"]).await?,
        )?)
    }

    async fn password(&self) -> Result<String> {
        self.kubectl(&["get", "secret", "tenure-redis", "-o", "jsonpath={.data.password}"])
            .await
    }

    async fn uid(&self, pod: &str) -> Result<String> {
        self.kubectl(&["get", "pod", pod, "-o", "jsonpath={.metadata.uid}"])
            .await
    }

    async fn apply(&self, object: &Value) -> Result {
        let file = folder("apply")?.join("object.json");
        std::fs::write(&file, object.to_string())?;
        let file = file
            .to_str()
            .context("the temporary folder's path is not UTF-8")?;
        self.kubectl(&["apply", "-f", file]).await.map(drop)
    }

    async fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.run_in(&self.kubectl, args).await
    }

    /// Runs a command as a user would, and shows both the command and what it says.
    async fn show(&self, program: &Path, args: &[&str]) -> Result {
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        println!("\n   $ {name} {}", args.join(" "));
        for line in self
            .run_in(program, args)
            .await?
            .lines()
            .filter(|line| !line.is_empty())
        {
            println!("   {line}");
        }
        Ok(())
    }

    /// Runs kubectl or helm in our namespace.
    async fn run_in(&self, program: &Path, args: &[&str]) -> Result<String> {
        self.run_on(program, &[&["--namespace", NAMESPACE], args].concat())
            .await
    }

    /// Runs kubectl or helm, and fails if it fails or is warned of anything.
    async fn run_on(&self, program: &Path, args: &[&str]) -> Result<String> {
        let mut words = self.args.prefix.split_whitespace();
        let mut command = match words.next() {
            Some(first) => {
                let mut command = Command::new(first);
                command.args(words).arg(program);
                command
            }
            None => Command::new(program),
        };
        command.args(args).current_dir(CHECKOUT);
        let what = format!("{} {}", program.display(), args.join(" "));
        let mut process = Process::spawn("command", &folder(&unique("command"))?, &command)?;
        let status = process.wait(COMMAND).await.with_context(|| what.clone())?;
        let (output, log) = (process.output()?, process.log()?);
        ensure!(status.success(), "{what}: {status}\n{output}{log}");
        let warning = log
            .lines()
            .find(|line| line.contains("Warning:") || line.contains("level=WARN"));
        if let Some(warning) = warning {
            bail!("{what}: {warning}");
        }
        Ok(output)
    }

    /// Shows what may explain a failure.
    async fn diagnose(&self) {
        eprintln!("\nIt failed. This is how things stand:");
        for args in [
            &["get", "pods,lockpools,semaphores", "-o", "wide"][..],
            &["get", "lockpool", POOL, "-o", "yaml"],
            &["get", "events", "--sort-by=.lastTimestamp"],
            &["logs", "deployment/tenure-controller", "--tail=40"],
            &["logs", "tenure-redis-0", "--tail=40"],
            &["logs", "-l", "job-name", "--prefix", "--tail=20"],
        ] {
            match self.kubectl(args).await {
                Ok(said) => eprintln!("\n$ kubectl {}\n{said}", args.join(" ")),
                Err(error) => eprintln!("\n{error:#}"),
            }
        }
        eprintln!("Everything is left in namespace {NAMESPACE}, for you to look at.");
    }
}

fn holder(pool: &Value) -> Result<Holder> {
    let status = &pool["status"];
    let first = &status["holders"][0];
    let (pod, token) = (first["pod"].as_str(), first["fencingToken"].as_u64());
    let pod = pod.with_context(|| format!("nobody holds: {status}"))?.to_owned();
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

fn say(text: &str) {
    println!("\n{text}");
}

fn done(text: &str) {
    println!("   {text}");
}

fn seconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64()
}
