//! Connections to servers inside of the cluster, through the API server.
//!
//! The library asks for the address of each server to which it connects: those of the URL, and those that Sentinels, a cluster or a
//! master name. For the name of a Service, and the name or address of a pod behind one, the answer is a port of 127.0.0.1, at which
//! each connection is forwarded to a pod that is ready then. Other names are those of the system. So TLS compares the certificate
//! with the server's own name, and a failover leads to another pod.

use std::{
    collections::{BTreeSet, HashMap},
    error::Error as StdError,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::{
    api::{
        core::v1::{Pod, Service},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::util::intstr::IntOrString,
};
use kube::{Api, api::ListParams};
use tenure::{AddressFuture, AddressResolver};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Mutex, watch},
};

use crate::{
    exit::Failure,
    kubernetes::{failure, status, within},
};

/// Between two tries to accept a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Finds the servers, and forwards connections to them for as long as the runtime lives.
#[derive(Clone)]
pub(crate) struct Forwards(Arc<State>);

struct State {
    client: kube::Client,
    /// The ports of this machine.
    listening: Mutex<HashMap<Target, SocketAddr>>,
    /// The namespaces of Services that were found: servers there may name one another by their addresses.
    namespaces: std::sync::Mutex<BTreeSet<String>>,
    /// The first request that the API server has refused.
    refused: watch::Sender<Option<(u8, String)>>,
}

/// A port of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Target {
    namespace: String,
    pod: String,
    port: u16,
}

/// A Service, or one pod behind it, by its name in DNS.
#[derive(Debug, PartialEq, Eq)]
struct ServiceName<'a> {
    pod: Option<&'a str>,
    service: &'a str,
    namespace: &'a str,
}

type Answer<T> = Result<T, Box<dyn StdError + Send + Sync>>;

impl Forwards {
    pub(crate) fn new(client: kube::Client) -> Self {
        Self(Arc::new(State {
            client,
            listening: Mutex::default(),
            namespaces: std::sync::Mutex::default(),
            refused: watch::Sender::new(None),
        }))
    }

    /// Waits until the API server has refused a request, which another try does not change.
    pub(crate) async fn refused(&self) -> Failure {
        let mut refused = self.0.refused.subscribe();
        let (code, message) = match refused.wait_for(Option::is_some).await {
            Ok(refused) => refused.clone().unwrap_or_default(),
            // This holds the sender.
            Err(_) => std::future::pending().await,
        };
        Failure {
            code,
            message: Some(message),
        }
    }
}

impl AddressResolver for Forwards {
    fn resolve<'a>(&'a self, host: &'a str, port: u16) -> AddressFuture<'a> {
        Box::pin(self.find(host, port))
    }
}

impl Forwards {
    async fn find(&self, host: &str, port: u16) -> Answer<Vec<SocketAddr>> {
        if let Some(name) = in_cluster(host) {
            let missing = || {
                format!(
                    "there is no Service {} in the namespace {}",
                    name.service, name.namespace
                )
            };
            return self.service(&name, port).await?.ok_or_else(|| missing().into());
        }
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(vec![self.pod_at(address, port).await?]);
        }
        // Pods may leave `svc` out, and look into the cluster first, as this does: the name may be one of the internet, too, and
        // the password is not for that.
        if let Some((service, namespace)) = host.split_once('.')
            && !namespace.contains('.')
        {
            let name = ServiceName {
                pod: None,
                service,
                namespace,
            };
            if let Some(addresses) = self.service(&name, port).await? {
                return Ok(addresses);
            }
        }
        let found = tokio::net::lookup_host((host, port)).await;
        let addresses = found.map_err(|error| format!("{host}: {error}"))?;
        Ok(addresses.collect())
    }

    /// The way to a Service, or to one pod behind it; `None`: there is no such Service.
    async fn service(&self, name: &ServiceName<'_>, port: u16) -> Answer<Option<Vec<SocketAddr>>> {
        let ServiceName {
            service, namespace, ..
        } = name;
        let services: Api<Service> = Api::namespaced(self.0.client.clone(), namespace);
        let what = format!("get the Service {service} in the namespace {namespace}");
        let found = within(services.get_opt(service)).await;
        let Some(found) = found.map_err(|error| self.problem(&what, &error))? else {
            return Ok(None);
        };
        let ports = found.spec.and_then(|spec| spec.ports).unwrap_or_default();
        let meant = ports.iter().find(|one| one.port == i32::from(port));
        // Ports of a headless Service lead to the pods without it.
        let (port_name, target) = meant.map_or((None, None), |one| {
            let number = match &one.target_port {
                Some(IntOrString::Int(number)) => Some(*number),
                _ => None,
            };
            (one.name.clone(), number)
        });
        let slices = self
            .slices(
                namespace,
                &ListParams::default().labels(&format!("kubernetes.io/service-name={service}")),
            )
            .await?;
        lock(&self.0.namespaces).insert((*namespace).to_owned());
        for slice in slices {
            let number = slice.ports.iter().flatten().find(|one| {
                one.name.as_deref().unwrap_or_default() == port_name.as_deref().unwrap_or_default()
            });
            let number = number.and_then(|one| one.port).or(target);
            let number = number
                .and_then(|number| u16::try_from(number).ok())
                .unwrap_or(port);
            for endpoint in slice.endpoints {
                let is_ready = endpoint
                    .conditions
                    .and_then(|conditions| conditions.ready)
                    .unwrap_or(true);
                let is_meant = name.pod.is_none() || name.pod == endpoint.hostname.as_deref();
                if !is_ready || !is_meant {
                    continue;
                }
                let pod = endpoint.target_ref.and_then(|target| target.name);
                if let Some(pod) = pod {
                    let target = Target {
                        namespace: (*namespace).to_owned(),
                        pod,
                        port: number,
                    };
                    return Ok(Some(vec![self.listen(target).await?]));
                }
                // Servers outside of the cluster may have a Service, too.
                if let Some(address) = endpoint.addresses.first() {
                    return Ok(Some(vec![SocketAddr::new(address.parse()?, number)]));
                }
            }
        }
        let which = name
            .pod
            .map_or_else(String::new, |pod| format!(" with the name {pod}"));
        Err(format!("no pod{which} behind the Service {namespace}/{service} is ready").into())
    }

    /// The way to an address, which is that of a pod if a Service beside those that were found has it.
    async fn pod_at(&self, address: IpAddr, port: u16) -> Answer<SocketAddr> {
        let namespaces = lock(&self.0.namespaces).clone();
        for namespace in namespaces {
            for slice in self.slices(&namespace, &ListParams::default()).await? {
                let has_it = |one: &String| one.parse() == Ok(address);
                let mut endpoints = slice.endpoints.into_iter();
                let endpoint = endpoints.find(|endpoint| endpoint.addresses.iter().any(has_it));
                if let Some(pod) = endpoint.and_then(|one| one.target_ref?.name) {
                    return self.listen(Target { namespace, pod, port }).await;
                }
            }
        }
        Ok(SocketAddr::new(address, port))
    }

    async fn slices(&self, namespace: &str, params: &ListParams) -> Answer<Vec<EndpointSlice>> {
        let slices: Api<EndpointSlice> = Api::namespaced(self.0.client.clone(), namespace);
        let what = format!("list the EndpointSlices in the namespace {namespace}");
        let found = within(slices.list(params)).await;
        Ok(found.map_err(|error| self.problem(&what, &error))?.items)
    }

    /// The port of this machine that leads to a pod.
    async fn listen(&self, target: Target) -> Answer<SocketAddr> {
        let mut listening = self.0.listening.lock().await;
        if let Some(address) = listening.get(&target) {
            return Ok(*address);
        }
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        listening.insert(target.clone(), address);
        let this = self.clone();
        tokio::spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((connection, _)) => {
                        let (this, target) = (this.clone(), target.clone());
                        tokio::spawn(async move { this.forward(connection, &target).await });
                    }
                    // No file descriptor is left, for a while.
                    Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
                }
            }
        });
        Ok(address)
    }

    /// Forwards a connection until it ends. The client connects again if that is too early.
    async fn forward(&self, mut connection: TcpStream, target: &Target) {
        let Target { namespace, pod, port } = target;
        let pods: Api<Pod> = Api::namespaced(self.0.client.clone(), namespace);
        match within(pods.portforward(pod, &[*port])).await {
            Ok(mut forwarder) => {
                if let Some(mut stream) = forwarder.take_stream(*port) {
                    let _ = tokio::io::copy_bidirectional(&mut connection, &mut stream).await;
                }
                forwarder.abort();
            }
            Err(error) => {
                let what = format!(
                    "forward to the pod {pod} in the namespace {namespace} (create pods/portforward)"
                );
                self.problem(&what, &error);
            }
        }
    }

    /// The text of a failed request. A refusal ends the connect at once.
    fn problem(&self, what: &str, error: &kube::Error) -> String {
        let failure = failure(what, error);
        let message = failure.message.unwrap_or_default();
        if matches!(status(error), Some(401 | 403)) {
            self.0.refused.send_if_modified(|refused| {
                let is_first = refused.is_none();
                if is_first {
                    *refused = Some((failure.code, message.clone()));
                }
                is_first
            });
        }
        message
    }
}

/// Reads a name that the cluster's DNS alone knows: `service.namespace.svc`, with the pod before it, and the cluster's domain behind.
fn in_cluster(host: &str) -> Option<ServiceName<'_>> {
    let host = host.strip_suffix('.').unwrap_or(host);
    let labels: Vec<&str> = host.split('.').collect();
    let svc = labels.iter().position(|label| *label == "svc")?;
    match labels[..svc] {
        [service, namespace] => Some(ServiceName {
            pod: None,
            service,
            namespace,
        }),
        [pod, service, namespace] => Some(ServiceName {
            pod: Some(pod),
            service,
            namespace,
        }),
        _ => None,
    }
}

fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_services_and_of_their_pods_are_in_the_cluster() {
        let name = |host| in_cluster(host).map(|name| (name.pod, name.service, name.namespace));
        for host in [
            "redis.db.svc",
            "redis.db.svc.cluster.local",
            "redis.db.svc.corp.example.",
        ] {
            assert_eq!(name(host), Some((None, "redis", "db")), "{host}");
        }
        assert_eq!(
            name("redis-node-1.redis-node.db.svc"),
            Some((Some("redis-node-1"), "redis-node", "db"))
        );
        for host in ["localhost", "redis.example.com", "10.0.0.7", "svc", "a.svc"] {
            assert_eq!(name(host), None, "{host}");
        }
    }
}
