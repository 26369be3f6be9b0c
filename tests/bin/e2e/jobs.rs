//! The recipes of `docs/jobs.md` and `docs/sidecar.md`: their manifests, with an image that is there and a command that prints what it did.

use std::{fs, path::Path};

use serde_json::{Value, json};
use tenure_tests::{Context, Result, bail, ensure, eventually, process::folder};

use crate::{E2e, SOON, done, say};

const NAMESPACE: &str = "tenure-e2e-jobs";
const IMAGE: &str = concat!("tenure-cli:", env!("CARGO_PKG_VERSION"));
/// Notes the times of a run, which is long enough for another one to meet it.
const WORK: &str = "echo begin $(busybox date +%s); sleep 6; echo end $(busybox date +%s)";
/// The same, and long enough to be found among the pods and killed.
const LONG_WORK: &str = "echo begin $(busybox date +%s); sleep 30; echo end $(busybox date +%s)";

impl E2e {
    pub(crate) async fn jobs(&self) -> Result {
        say("Jobs: the recipes of the command line, on an application's namespace.");
        let labels = json!({"tenure.dev/access": "true"});
        self.cluster
            .apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}}))
            .await?;
        eventually("the access Secret", SOON, async || {
            self.in_jobs(&["get", "secret", "tenure-access"]).await
        })
        .await?;
        self.a_job_waits_for_a_seat().await?;
        self.cron_jobs_share_a_lock().await?;
        self.a_helm_hook_runs_under_a_lock().await?;
        self.a_sidecar_holds_a_lease().await?;
        self.twenty_pods_run_once().await?;
        let delete = ["delete", "namespace", NAMESPACE, "--timeout=120s"];
        self.cluster.kubectl_everywhere(&delete).await.map(drop)
    }

    async fn in_jobs(&self, args: &[&str]) -> Result<String> {
        let args = [&["--namespace", NAMESPACE], args].concat();
        self.cluster.kubectl_everywhere(&args).await
    }

    async fn completed(&self, job: &str) -> Result {
        let wait = ["wait", "--for=condition=Complete", job, "--timeout=120s"];
        self.in_jobs(&wait).await.map(drop)
    }

    async fn begun(&self, job: &str) -> Result {
        eventually("the run to begin", SOON, async || {
            let log = self.in_jobs(&["logs", job]).await?;
            ensure!(log.contains("begin"), "{log}");
            Ok(())
        })
        .await
    }

    /// The times at which the command of a Job began and ended.
    async fn times(&self, job: &str) -> Result<(u64, u64)> {
        let log = self.in_jobs(&["logs", job]).await?;
        let time = |word: &str| -> Result<u64> {
            let line = log.lines().find_map(|line| line.strip_prefix(word));
            Ok(line.with_context(|| log.clone())?.trim().parse()?)
        };
        Ok((time("begin")?, time("end")?))
    }

    async fn one_after_the_other(&self, jobs: [&str; 2]) -> Result {
        let mut times = Vec::new();
        for job in jobs {
            self.completed(job).await?;
            times.push(self.times(job).await?);
        }
        times.sort_unstable();
        ensure!(times[0].1 <= times[1].0, "they ran at the same time: {times:?}");
        Ok(())
    }

    async fn a_job_waits_for_a_seat(&self) -> Result {
        let seats = json!({"resources": [{"name": "seat-a", "properties": {"zone": "a"}}]});
        self.cluster
            .apply(&json!({
                "apiVersion": "tenure.dev/v1alpha1", "kind": "LockPool",
                "metadata": {"name": "gpu-seats", "namespace": NAMESPACE}, "spec": seats,
            }))
            .await?;
        let mut job = recipe("training", &format!("{WORK}; echo on $TENURE_RESOURCE"))?;
        self.cluster.apply(&job).await?;
        job["metadata"]["name"] = "training-2".into();
        self.cluster.apply(&job).await?;
        self.one_after_the_other(["job/training", "job/training-2"])
            .await?;
        let log = self.in_jobs(&["logs", "job/training"]).await?;
        ensure!(log.contains("on seat-a"), "{log}");
        done("Two Jobs used one seat, one after the other.");
        Ok(())
    }

    async fn cron_jobs_share_a_lock(&self) -> Result {
        for name in ["backup-hourly", "backup-weekly"] {
            self.cluster.apply(&recipe(name, WORK)?).await?;
        }
        let start = async |name: &str, cron: &str| {
            let from = format!("--from=cronjob/{cron}");
            self.in_jobs(&["create", "job", name, &from]).await
        };
        start("first", "backup-hourly").await?;
        self.begun("job/first").await?;
        start("second", "backup-hourly").await?;
        start("weekly", "backup-weekly").await?;
        self.completed("job/second").await?;
        let log = self.in_jobs(&["logs", "job/second"]).await?;
        ensure!(
            log.contains("lock/backup is busy") && !log.contains("begin"),
            "{log}"
        );
        self.one_after_the_other(["job/first", "job/weekly"]).await?;
        done("Of two CronJobs, the run of one was skipped, and that of the other waited.");
        Ok(())
    }

    async fn a_helm_hook_runs_under_a_lock(&self) -> Result {
        let chart = folder("shop")?;
        fs::create_dir(chart.join("templates"))?;
        fs::write(
            chart.join("Chart.yaml"),
            "apiVersion: v2\nname: shop\nversion: 1.0.0\n",
        )?;
        let mut hook = recipe("shop-migrate", WORK)?;
        // To look at what it did.
        hook["metadata"]["annotations"]["helm.sh/hook-delete-policy"] = "before-hook-creation".into();
        fs::write(chart.join("templates/hook.yaml"), hook.to_string())?;
        let chart = chart.to_str().context("the path")?;
        let place = ["--namespace", NAMESPACE, "--wait", "--timeout", "2m"];
        self.cluster
            .helm(&[&["install", "shop", chart], &place[..]].concat())
            .await?;
        self.times("job/shop-migrate").await?;
        self.cluster
            .helm(&["uninstall", "shop", "--namespace", NAMESPACE])
            .await?;
        done("A Helm hook ran under a lock.");
        Ok(())
    }

    async fn a_sidecar_holds_a_lease(&self) -> Result {
        self.cluster.apply(&recipe("report", "")?).await?;
        self.completed("job/report").await?;
        let log = self.in_jobs(&["logs", "job/report"]).await?;
        ensure!(
            log.contains("\"state\":\"held\"") && log.contains("the work"),
            "{log}"
        );
        let log = self
            .in_jobs(&["logs", "job/report", "--container=tenure"])
            .await?;
        ensure!(log.contains("all leases are released"), "{log}");
        done("A sidecar held a lease for curl, and released it at the end of the pod.");
        Ok(())
    }

    async fn twenty_pods_run_once(&self) -> Result {
        let shop = recipe("shop", LONG_WORK)?;
        self.cluster.apply(&shop).await?;
        let first = eventually("a run to begin", SOON, async || {
            for pod in self.pods_of_shop().await? {
                if let Some(log) = self.run_of(&pod).await {
                    return Ok((pod, log));
                }
            }
            bail!("none")
        })
        .await?;
        ensure!(
            !first.1.contains("end"),
            "it was over before it could be killed: {first:?}"
        );
        self.in_jobs(&["delete", &first.0, "--force", "--grace-period=0"])
            .await?;
        let rollout = ["rollout", "status", "deployment/shop", "--timeout=180s"];
        self.in_jobs(&rollout).await?;
        let pods = self.pods_of_shop().await?;
        let mut runs = Vec::new();
        for pod in &pods {
            runs.extend(self.run_of(pod).await.map(|log| (pod, log)));
        }
        ensure!(
            runs.len() == 1 && *runs[0].0 != first.0 && runs[0].1.contains("end"),
            "{runs:?}"
        );
        ensure!(shop["spec"]["replicas"] == pods.len(), "{pods:?}");
        done(&format!(
            "Of {} pods, one ran the command and was killed mid-way; one other ran it to its end, and all are ready.",
            pods.len()
        ));
        Ok(())
    }

    async fn pods_of_shop(&self) -> Result<Vec<String>> {
        let pods = self
            .in_jobs(&["get", "pods", "--selector=app=shop", "--output=name"])
            .await?;
        Ok(pods.lines().map(str::to_owned).collect())
    }

    /// The log of the migration of a pod, if it runs or has run there. A pod that has not started has no log.
    async fn run_of(&self, pod: &str) -> Option<String> {
        let log = self.in_jobs(&["logs", pod, "--container=migrate"]).await;
        log.ok().filter(|log| log.contains("begin"))
    }
}

/// The manifest of that name, for this cluster: in [`NAMESPACE`], with an image that is there, and with another command.
fn recipe(name: &str, script: &str) -> Result<Value> {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let page = fs::read_to_string(docs.join("jobs.md"))? + &fs::read_to_string(docs.join("sidecar.md"))?;
    let blocks = page.split("```yaml\n").skip(1);
    let manifests = blocks.filter_map(|block| block.split_once("```"));
    for document in manifests.flat_map(|(manifest, _)| manifest.split("\n---\n")) {
        let mut manifest: Value = serde_saphyr::from_str(document)?;
        if manifest["metadata"]["name"] == name {
            manifest["metadata"]["namespace"] = NAMESPACE.into();
            adapt(&mut manifest, script);
            return Ok(manifest);
        }
    }
    bail!("no recipe has the name {name}")
}

fn adapt(value: &mut Value, script: &str) {
    match value {
        Value::Array(values) => values.iter_mut().for_each(|value| adapt(value, script)),
        Value::Object(fields) => {
            let image = fields.get("image").and_then(Value::as_str).unwrap_or_default();
            if !image.is_empty() && !image.starts_with("curlimages/") {
                fields.insert("image".to_owned(), IMAGE.into());
                match fields.get_mut("command").and_then(Value::as_array_mut) {
                    Some(words) => {
                        if let Some(end) = words.iter().position(|word| word == "--") {
                            words.truncate(end + 1);
                            words.extend(["sh", "-c", script].map(Value::from));
                            fields.remove("args");
                        }
                    }
                    // The program that a reader of the recipe writes: it continues.
                    None => drop(fields.insert("command".to_owned(), json!(["sleep", "3600"]))),
                }
            }
            fields.values_mut().for_each(|value| adapt(value, script));
        }
        _ => {}
    }
}
