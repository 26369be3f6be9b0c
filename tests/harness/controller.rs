//! The real `tenure-controller` as a child process.

use std::path::Path;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::process::{Process, folder};
use crate::{ControlPlane, Result, binaries, eventually};

const START: Duration = Duration::from_secs(30);
/// The time that Kubernetes gives a Pod by default.
const STOP: Duration = Duration::from_secs(30);

/// A running controller. Killed when dropped.
#[derive(Debug)]
pub struct Controller {
    process: Process,
    address: String,
}

impl Controller {
    /// Starts a controller for these namespaces; for all if there is none.
    pub async fn start(plane: &ControlPlane, redis_url: &str, namespaces: &[&str]) -> Result<Self> {
        Self::start_with(
            plane,
            &[
                "--redis-url",
                redis_url,
                "--watch-namespaces",
                &namespaces.join(","),
            ],
        )
        .await
    }

    /// Starts a controller with these arguments and waits until its server listens; it may not be ready by then.
    pub async fn start_with(plane: &ControlPlane, args: &[&str]) -> Result<Self> {
        Self::listening(Self::spawn(plane, args)?).await
    }

    async fn listening(mut process: Process) -> Result<Self> {
        let address = process
            .ready(START, async |process| {
                listening(&process.log()?).context("it has not logged `listening`")
            })
            .await?;
        Ok(Self { process, address })
    }

    /// As [`Controller::start_with`], as a user of Kubernetes.
    pub async fn start_as(plane: &ControlPlane, user: &str, args: &[&str]) -> Result<Self> {
        let kubeconfig = plane.kubeconfig_as(user)?;
        Self::listening(Self::spawn_with(&kubeconfig, args)?).await
    }

    /// Starts the program with these arguments and nothing more, for tests of a start that fails.
    pub fn spawn(plane: &ControlPlane, args: &[&str]) -> Result<Process> {
        Self::spawn_with(plane.kubeconfig(), args)
    }

    fn spawn_with(kubeconfig: &Path, args: &[&str]) -> Result<Process> {
        let mut command = Command::new(binaries::find("tenure-controller")?);
        // First, so that a test's own arguments come last. The environment of the test run has no effect.
        command
            .args(["--listen", "127.0.0.1:0", "--log-format", "json"])
            .args(args);
        command.env("KUBECONFIG", kubeconfig);
        // As in the Deployment of the chart.
        for (name, value) in [
            ("MALLOC_ARENA_MAX", "1"),
            ("MALLOC_MMAP_THRESHOLD_", "131072"),
            ("MALLOC_TRIM_THRESHOLD_", "131072"),
        ] {
            command.env(name, value);
        }
        for name in [
            "TENURE_REDIS_URL",
            "TENURE_WATCH_NAMESPACES",
            "TENURE_LISTEN",
            "RUST_LOG",
        ] {
            command.env_remove(name);
        }
        Process::spawn("tenure-controller", &folder("controller")?, &command)
    }

    /// Waits until `/readyz` is green. An error has the log.
    pub async fn until_ready(&self, limit: Duration) -> Result {
        eventually("the controller to be ready", limit, async || {
            let (code, text) = self.get("/readyz").await?;
            ensure!(code == 200, "{text}");
            Ok(())
        })
        .await
        .with_context(|| self.logs().unwrap_or_default())
    }

    /// The status and the body of a GET of `path`, such as `/readyz`.
    pub async fn get(&self, path: &str) -> Result<(u16, String)> {
        let response = reqwest::get(format!("http://{}{path}", self.address)).await?;
        Ok((response.status().as_u16(), response.text().await?))
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Kills it.
    pub fn kill9(&mut self) -> Result<()> {
        self.process.kill9()
    }

    /// Asks it to end, waits until it has, and returns its exit status.
    pub async fn terminate(&mut self) -> Result<ExitStatus> {
        self.process.terminate(STOP).await
    }

    /// Its log: a JSON object a line.
    pub fn logs(&self) -> Result<String> {
        self.process.log()
    }
}

/// The address in the line about its listening server.
fn listening(log: &str) -> Option<String> {
    log.lines().find_map(|line| {
        let event: Value = serde_json::from_str(line).ok()?;
        // The formatter of tracing-subscriber nests an event's fields unless it is configured to flatten them.
        let fields = event.get("fields").unwrap_or(&event);
        let says = fields.get("message")?.as_str()? == "listening";
        says.then(|| fields.get("address")?.as_str().map(str::to_owned))?
    })
}
