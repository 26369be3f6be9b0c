//! The cluster, as kubectl and helm show it.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::Value;
use tenure_tests::{
    Context, Process, Result, assets, bail, binaries, ensure,
    process::{folder, unique},
};

use crate::objects::{NAMESPACE, POOL};

/// A command that has not ended by then hangs.
const LIMIT: Duration = Duration::from_secs(330);
const CHECKOUT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../");

/// The way to the cluster. All commands but [`Cluster::kubectl_everywhere`] are about our namespace.
pub(crate) struct Cluster {
    prefix: String,
    kubectl: PathBuf,
    helm: PathBuf,
}

impl Cluster {
    /// A cluster that is reached by kubectl and helm with `prefix` before them.
    pub(crate) fn new(prefix: String) -> Result<Self> {
        Ok(Self {
            prefix,
            kubectl: assets::path("kubectl")?,
            helm: assets::path("helm")?,
        })
    }

    pub(crate) async fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.run(&self.kubectl, &in_namespace(args)).await
    }

    /// Runs kubectl for objects without a namespace.
    pub(crate) async fn kubectl_everywhere(&self, args: &[&str]) -> Result<String> {
        self.run(&self.kubectl, args).await
    }

    pub(crate) async fn helm(&self, args: &[&str]) -> Result<String> {
        self.run(&self.helm, &in_namespace(args)).await
    }

    /// Runs `tenure` with no setting but the kubeconfig.
    pub(crate) async fn tenure(&self, args: &[&str]) -> Result<String> {
        self.run(&binaries::find("tenure")?, &in_namespace(args)).await
    }

    /// Runs a command as a user would, and shows the command and its output.
    pub(crate) async fn show_kubectl(&self, args: &[&str]) -> Result {
        println!("\n   $ kubectl {}", args.join(" "));
        show(&self.kubectl(args).await?);
        Ok(())
    }

    /// See [`Cluster::show_kubectl`].
    pub(crate) async fn show_helm(&self, args: &[&str]) -> Result {
        println!("\n   $ helm {}", args.join(" "));
        show(&self.helm(args).await?);
        Ok(())
    }

    pub(crate) async fn apply(&self, object: &Value) -> Result {
        let file = file(object)?;
        self.kubectl_everywhere(&["apply", "-f", &file]).await.map(drop)
    }

    /// Creates an object that is an answer, such as a review, and returns kubectl's output.
    pub(crate) async fn create(&self, object: &Value, output: &str) -> Result<String> {
        let file = file(object)?;
        self.kubectl_everywhere(&["create", "-f", &file, "-o", output])
            .await
    }

    /// The password of the chart's Redis, as it stands in the Secret.
    pub(crate) async fn password(&self) -> Result<String> {
        self.kubectl(&["get", "secret", "tenure-redis", "-o", "jsonpath={.data.password}"])
            .await
    }

    /// Standard output of the program. Fails if the program fails, or is warned of anything.
    async fn run(&self, program: &Path, args: &[&str]) -> Result<String> {
        let mut words = self.prefix.split_whitespace();
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
        let status = process.wait(LIMIT).await.with_context(|| what.clone())?;
        let (output, log) = (process.output()?, process.log()?);
        ensure!(status.success(), "{what}: {status}\n{output}{log}");
        // helm logs this when it ends its own watches at the end of a wait.
        let of_a_watch =
            |line: &str| line.contains("watch ended with error") && line.contains("context canceled");
        // kubectl prints this with each `--force`.
        let of_force = |line: &str| line.contains("Warning: Immediate deletion does not wait");
        let is_warning = |line: &&str| {
            (line.contains("Warning:") && !of_a_watch(line) && !of_force(line)) || line.contains("level=WARN")
        };
        if let Some(warning) = log.lines().find(is_warning) {
            bail!("{what}: {warning}");
        }
        Ok(output)
    }

    /// Shows what may explain a failure.
    pub(crate) async fn diagnose(&self) {
        eprintln!("\nIt failed. This is how things stand:");
        for args in [
            &["get", "pods", "-o", "wide"][..],
            &["get", "lockpools,semaphores", "-o", "wide"],
            &["get", "lockpool", POOL, "-o", "yaml"],
            &["get", "events", "--sort-by=.lastTimestamp"],
            &["logs", "deployment/tenure-controller", "--tail=40"],
            &["logs", "tenure-redis-0", "--tail=40"],
            &[
                "logs",
                "-l",
                "app.kubernetes.io/component=redis",
                "--all-containers",
                "--prefix",
                "--tail=30",
            ],
            &["logs", "tenure-test"],
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

fn file(object: &Value) -> Result<String> {
    let file = folder("object")?.join("object.json");
    std::fs::write(&file, object.to_string())?;
    let file = file
        .to_str()
        .context("the temporary folder's path is not UTF-8")?;
    Ok(file.to_owned())
}

fn in_namespace<'a>(args: &[&'a str]) -> Vec<&'a str> {
    [&["--namespace", NAMESPACE], args].concat()
}

fn show(said: &str) {
    for line in said.lines().filter(|line| !line.is_empty()) {
        println!("   {line}");
    }
}
