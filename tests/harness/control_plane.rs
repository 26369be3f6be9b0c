//! A real etcd and kube-apiserver.
//!
//! There is no controller-manager, no scheduler and no kubelet: Pods can be created and deleted but do not run, no garbage
//! is collected, and a deleted namespace stays `Terminating`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use serde_json::json;
use tokio::sync::OnceCell;
use tokio::task::spawn_blocking;

use rustix::process::Signal;

use crate::process::{Process, folder, free_port, unique};
use crate::{Result, assets};

const START: Duration = Duration::from_secs(120);
/// kubectl's own timeouts, such as that of `kubectl wait`, end earlier.
const KUBECTL: Duration = Duration::from_secs(120);

/// A running control plane, with Tenure's resource definitions installed.
#[derive(Debug)]
pub struct ControlPlane {
    folder: PathBuf,
    kubeconfig: PathBuf,
    kubectl: PathBuf,
    etcd: Process,
    etcd_url: String,
    apiserver: Process,
}

impl ControlPlane {
    /// The control plane that all tests of this run share.
    pub async fn shared() -> Result<&'static Self> {
        static SHARED: OnceCell<ControlPlane> = OnceCell::const_new();
        SHARED.get_or_try_init(Self::start).await
    }

    async fn start() -> Result<Self> {
        let plane = Self::start_without_definitions().await?;
        plane.install_definitions().await?;
        Ok(plane)
    }

    /// Starts a control plane of the test's own on which Tenure's custom resource definitions are not installed.
    pub async fn start_without_definitions() -> Result<Self> {
        let find = |name| spawn_blocking(move || assets::path(name));
        let (etcd, apiserver, kubectl) = (
            find("etcd").await??,
            find("kube-apiserver").await??,
            find("kubectl").await??,
        );
        let folder = folder("control-plane")?;
        let (etcd_port, port) = (free_port()?, free_port()?);
        let token = uuid::Uuid::new_v4().to_string();
        write_keys(&folder, &token)?;

        let etcd_url = format!("http://127.0.0.1:{etcd_port}");
        let mut command = Command::new(etcd);
        command
            .current_dir(&folder)
            .args(["--data-dir=etcd", "--unsafe-no-fsync", "--log-level=warn"])
            .args([
                &format!("--listen-client-urls={etcd_url}"),
                &format!("--advertise-client-urls={etcd_url}"),
                "--listen-peer-urls=http://127.0.0.1:0",
            ]);
        let etcd = Process::spawn("etcd", &folder, &command)?;

        let mut command = Command::new(apiserver);
        command.current_dir(&folder).args([
            &format!("--etcd-servers={etcd_url}"),
            &format!("--secure-port={port}"),
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            "--endpoint-reconciler-type=none",
            "--service-cluster-ip-range=10.0.0.0/24",
            "--tls-cert-file=server.crt",
            "--tls-private-key-file=server.key",
            "--token-auth-file=tokens.csv",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--service-account-key-file=service-account.pub",
            "--service-account-signing-key-file=service-account.key",
            "--authorization-mode=RBAC",
            // It refuses Pods until a controller has made the namespace's default service account.
            "--disable-admission-plugins=ServiceAccount",
            "--allow-privileged",
        ]);
        let apiserver = Process::spawn("kube-apiserver", &folder, &command)?;

        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "tests",
            "clusters": [{"name": "tests", "cluster": {
                "server": format!("https://127.0.0.1:{port}"), "certificate-authority": folder.join("ca.crt"),
            }}],
            "users": [{"name": "admin", "user": {"token": token}}],
            "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": "admin"}}],
        });
        let kubeconfig = folder.join("kubeconfig");
        fs::write(&kubeconfig, config.to_string())?;

        let mut plane = Self {
            folder,
            kubeconfig,
            kubectl,
            etcd,
            etcd_url,
            apiserver,
        };
        plane.ready().await?;
        Ok(plane)
    }

    async fn ready(&mut self) -> Result {
        let kubectl = Kubectl {
            program: &self.kubectl,
            folder: &self.folder,
            kubeconfig: &self.kubeconfig,
        };
        let ready = self.apiserver.ready(START, async |_| {
            kubectl.run(&["get", "--raw", "/readyz"]).await.map(drop)
        });
        ready.await.with_context(|| self.etcd.tail())
    }

    /// Installs the definitions that `make generate` writes. The API server serves their kinds when this returns.
    pub async fn install_definitions(&self) -> Result {
        let resources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crds/yaml");
        let resources = resources.to_str().context("the checkout's path is not UTF-8")?;
        self.kubectl(&["apply", "--server-side", "--force-conflicts", "-f", resources])
            .await?;
        self.kubectl(&[
            "wait",
            "--for=condition=Established",
            "--timeout=60s",
            "-f",
            resources,
        ])
        .await?;
        Ok(())
    }

    /// Stops the API server (SIGSTOP): connections stay open and nothing is answered. For a control plane of the test's own.
    pub fn pause(&self) -> Result<()> {
        self.apiserver.signal(Signal::STOP)
    }

    /// Resumes it after [`pause`](Self::pause).
    pub fn resume(&self) -> Result<()> {
        self.apiserver.signal(Signal::CONT)
    }

    /// A kubeconfig of an administrator.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Writes a kubeconfig of another user, whom the administrator impersonates.
    pub fn kubeconfig_as(&self, user: &str) -> Result<PathBuf> {
        let mut config = Kubeconfig::read_from(&self.kubeconfig)?;
        for named in &mut config.auth_infos {
            if let Some(auth) = &mut named.auth_info {
                auth.impersonate = Some(user.to_owned());
            }
        }
        let file = folder("kubeconfig")?.join("kubeconfig");
        fs::write(&file, serde_json::to_string(&config)?)?;
        Ok(file)
    }

    /// A new client, bound to the caller's runtime.
    pub async fn client(&self) -> Result<Client> {
        let kubeconfig = Kubeconfig::read_from(&self.kubeconfig)?;
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        Ok(Client::try_from(config)?)
    }

    /// The metrics of etcd, as text.
    pub async fn etcd_metrics(&self) -> Result<String> {
        let response = reqwest::get(format!("{}/metrics", self.etcd_url)).await?;
        Ok(response.text().await?)
    }

    /// The 30 of Kubernetes 1.30: some messages of the API server differ between versions.
    pub async fn minor_version(&self) -> Result<u32> {
        let minor = self.client().await?.apiserver_version().await?.minor;
        let digits = minor.trim_end_matches(|c: char| !c.is_ascii_digit());
        digits
            .parse()
            .with_context(|| format!("no minor version in {minor:?}"))
    }

    /// Runs kubectl as an administrator and returns what it printed. If it fails, the error is its output.
    pub async fn kubectl(&self, args: &[&str]) -> Result<String> {
        Kubectl {
            program: &self.kubectl,
            folder: &self.folder,
            kubeconfig: &self.kubeconfig,
        }
        .run(args)
        .await
    }

    /// `kubectl apply --server-side` of this YAML.
    pub async fn apply(&self, yaml: &str) -> Result<String> {
        let file = folder("apply")?.join("objects.yaml");
        fs::write(&file, yaml)?;
        let file = file
            .to_str()
            .context("the temporary folder's path is not UTF-8")?;
        self.kubectl(&["apply", "--server-side", "-f", file]).await
    }

    /// Makes a Kubernetes namespace for one test; what the test has in Redis should be in the same one.
    pub async fn namespace(&self, test: &str) -> Result<String> {
        let name = unique(test);
        self.kubectl(&["create", "namespace", &name]).await?;
        Ok(name)
    }
}

struct Kubectl<'a> {
    program: &'a Path,
    folder: &'a Path,
    kubeconfig: &'a Path,
}

impl Kubectl<'_> {
    async fn run(&self, args: &[&str]) -> Result<String> {
        let mut command = Command::new(self.program);
        // Its caches and preferences are the run's own.
        command
            .env("HOME", self.folder)
            .env("KUBECONFIG", self.kubeconfig)
            .env_remove("KUBECACHEDIR")
            .args(args);
        let mut process = Process::spawn("kubectl", &folder("kubectl")?, &command)?;
        let status = process.wait(KUBECTL).await?;
        ensure!(status.success(), "kubectl {}: {}", args.join(" "), process.log()?);
        process.output()
    }
}

/// Writes an authority, the server's certificate, the key that signs service account tokens, and who `token` is.
fn write_keys(folder: &Path, token: &str) -> Result {
    let key = KeyPair::generate()?;
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    fs::write(folder.join("ca.crt"), authority.self_signed(&key)?.pem())?;
    let authority = Issuer::new(authority, key);

    let key = KeyPair::generate()?;
    let server = CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()])?;
    fs::write(
        folder.join("server.crt"),
        server.signed_by(&key, &authority)?.pem(),
    )?;
    fs::write(folder.join("server.key"), key.serialize_pem())?;

    let key = KeyPair::generate()?;
    fs::write(folder.join("service-account.key"), key.serialize_pem())?;
    fs::write(folder.join("service-account.pub"), key.public_key_pem())?;
    fs::write(
        folder.join("tokens.csv"),
        format!("{token},admin,admin,system:masters\n"),
    )?;
    Ok(())
}
