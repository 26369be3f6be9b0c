//! Kubernetes as a way to Redis, and as the place of the objects' declarations: the user's kubeconfig, or the pod's account.
//!
//! | module | contents |
//! |---|---|
//! | [`objects`] | custom resources, events and pods |
//! | [`forward`] | connections to servers inside of the cluster |

use std::{path::PathBuf, time::Duration};

use clap::Args;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api,
    config::{KubeConfigOptions, Kubeconfig, KubeconfigError},
};
use tenure::{Client, ClientBuilder};

use crate::exit::{Code, Failure};

mod forward;
pub(crate) mod objects;

pub(crate) use forward::Forwards;

/// The Secret with the credentials of a namespace.
const SECRET: &str = "tenure-access";
const RIGHTS: &str = "docs/kubectl.md, section \"Rights\", has the Role";
/// For the response to one request.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
#[command(next_help_heading = "Kubernetes")]
pub(crate) struct Settings {
    /// Kubeconfig file; if absent, those of KUBECONFIG, else ~/.kube/config. Its user reads the Secret tenure-access of the
    /// namespace, and reaches a Redis inside of the cluster by port-forward: with this flag or --context always, else without
    /// a Redis URL
    #[arg(long, global = true, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,

    /// Context of the kubeconfig; its namespace is that of the objects, unless --namespace is given as a flag
    #[arg(long, global = true, value_name = "NAME")]
    context: Option<String>,
}

/// The API server, as the user reaches it.
#[derive(Clone)]
pub(crate) struct Kubernetes {
    pub(crate) client: kube::Client,
    /// That of the context or of the pod.
    pub(crate) namespace: String,
}

impl Settings {
    /// Returns whether the user has named a cluster.
    pub(crate) fn is_given(&self) -> bool {
        self.kubeconfig.is_some() || self.context.is_some()
    }

    /// The cluster of the kubeconfig, or of the pod; `None`: there is neither. No request is sent.
    pub(crate) async fn find(&self) -> Result<Option<Kubernetes>, Failure> {
        let options = KubeConfigOptions {
            context: self.context.clone(),
            ..KubeConfigOptions::default()
        };
        let read = match &self.kubeconfig {
            Some(file) => Kubeconfig::read_from(file),
            None if in_pod() && self.context.is_none() => {
                let config = kube::Config::incluster().map_err(|error| Failure::usage(&error))?;
                return client(config).map(Some);
            }
            None => Kubeconfig::read(),
        };
        let read = match read {
            Err(KubeconfigError::FindPath | KubeconfigError::ReadConfig(..)) if !self.is_given() => {
                return Ok(None);
            }
            read => read.map_err(|error| unusable(&error))?,
        };
        // A file without a context is as none.
        if read.current_context.as_ref().is_none_or(String::is_empty) && !self.is_given() {
            return Ok(None);
        }
        let config = kube::Config::from_custom_kubeconfig(read, &options).await;
        client(config.map_err(|error| unusable(&error))?).map(Some)
    }
}

fn unusable(error: &KubeconfigError) -> Failure {
    let fix = "check --kubeconfig, --context and KUBECONFIG, or give --redis-url";
    Failure::usage(format!("the kubeconfig cannot be used: {error}: {fix}"))
}

fn client(mut config: kube::Config) -> Result<Kubernetes, Failure> {
    config.connect_timeout = Some(PATIENCE / 2);
    let namespace = config.default_namespace.clone();
    let client = kube::Client::try_from(config).map_err(|error| Failure::usage(reason(&error)))?;
    Ok(Kubernetes { client, namespace })
}

/// Returns whether this process runs in a pod.
pub(crate) fn in_pod() -> bool {
    std::env::var_os("KUBERNETES_SERVICE_HOST").is_some()
}

impl Kubernetes {
    /// The settings of the Secret of a namespace, with a way to the Redis that it names.
    pub(crate) async fn redis(&self, namespace: &str) -> Result<(ClientBuilder, Forwards), Failure> {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        let what = format!("get the Secret {SECRET} in the namespace {namespace}");
        let secret = match within(secrets.get(SECRET)).await {
            Ok(secret) => secret,
            Err(kube::Error::Api(status)) if status.code == 404 => {
                return Err(Failure::usage(format!(
                    "the namespace {namespace} has no Secret {SECRET}: give it access (kubectl label namespace {namespace} \
                     tenure.dev/access=true, with the controller's --access), choose another with --namespace, or give \
                     --redis-url"
                )));
            }
            Err(error) => return Err(failure(&what, &error)),
        };
        let data = secret.data.unwrap_or_default();
        let value = |key: &str| {
            let bytes = data.get(key).map(|bytes| bytes.0.clone())?;
            String::from_utf8(bytes).ok().filter(|text| !text.is_empty())
        };
        let Some(url) = value("TENURE_REDIS_URL").or_else(|| value("uri")) else {
            return Err(Failure::usage(format!(
                "the Secret {SECRET} in the namespace {namespace} has no key TENURE_REDIS_URL: delete it, and the controller \
                 makes it again"
            )));
        };
        let forwards = Forwards::new(self.client.clone());
        let mut builder = Client::builder(url)
            .resolver(forwards.clone())
            .response_timeout(PATIENCE)
            .namespace(value("TENURE_NAMESPACE").as_deref().unwrap_or(namespace));
        if let Some(ca) = value("TENURE_REDIS_CA") {
            builder = builder.tls_ca(ca);
        }
        if let Some(prefix) = value("TENURE_REDIS_KEY_PREFIX") {
            builder = builder.key_prefix(prefix);
        }
        Ok((builder, forwards))
    }
}

/// Sends a request, and waits for its response for a bounded time.
pub(crate) async fn within<T>(
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, kube::Error> {
    let late = || kube::Error::Service(format!("no response within {PATIENCE:?}").into());
    tokio::time::timeout(PATIENCE, request)
        .await
        .unwrap_or_else(|_| Err(late()))
}

/// The failure of a request, which names the right that is missing.
pub(crate) fn failure(what: &str, error: &kube::Error) -> Failure {
    let reason = reason(error);
    match status(error) {
        Some(401) => Failure::new(
            Code::Refused,
            format!("cannot {what}: the API server does not know the user: {reason}: log in again"),
        ),
        Some(403) => Failure::new(
            Code::Refused,
            format!("cannot {what}: {reason}: this right is missing; {RIGHTS}"),
        ),
        Some(404) => Failure::new(Code::NotDeclared, format!("cannot {what}: {reason}")),
        Some(_) => Failure::new(Code::Failed, format!("cannot {what}: {reason}")),
        None => Failure::new(
            Code::Unreachable,
            format!("cannot {what}: {reason}: check the cluster of the kubeconfig"),
        ),
    }
}

/// The status of the response, if there was one.
pub(crate) fn status(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        kube::Error::UpgradeConnection(kube::client::UpgradeConnectionError::ProtocolSwitch(status)) => {
            Some(status.as_u16())
        }
        _ => None,
    }
}

/// The error in one line, without the types of the client.
pub(crate) fn reason(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error {
        return status.message.trim_end().to_owned();
    }
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if !text.contains(&cause.to_string()) {
            text = format!("{text}: {cause}");
        }
        source = cause.source();
    }
    text.lines().collect::<Vec<_>>().join(" ")
}
