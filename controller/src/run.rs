//! Run: starts the parts, waits for what is not there yet, and stops them in order.

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::http::{HeaderValue, header::USER_AGENT};
use futures_util::{StreamExt, TryStreamExt, stream::BoxStream};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client,
    api::ListParams,
    core::PartialObjectMeta,
    runtime::{
        Controller, WatchStreamExt,
        controller::{self, Config as ControllerConfig},
        predicates,
        reflector::{self, Store, store::Writer},
        watcher,
    },
};
use prometheus_client::registry::Registry;
use tenure::control::Server;
use tenure_crds::{LockPool, Semaphore};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinSet,
};

use crate::{
    access, asked_for,
    bundled::Bundled,
    config::{Config, ConfigError},
    data_loss::DataLosses,
    ended_pods::{self, EndedPods},
    epochs::EpochRecord,
    events::Publisher,
    failure,
    holders::Holders,
    http::{self, Health},
    installations::Installations,
    kinds::{self, Declared},
    leftovers,
    plan::withdrawal::Limits,
    reconcile::{self, Context},
    redis_health,
    replicas::Replicas,
    telemetry::{Metrics, Objects, Readiness},
    tracker::ObjectTracker,
    triggers,
    watching::{self, WatchCheck, with_probe},
};

/// The name and the version with which the controller presents itself to the API server.
const AGENT: &str = concat!("tenure-controller/", env!("CARGO_PKG_VERSION"));
/// A watch without an event for this long is made anew: load balancers drop silent connections without a notice.
pub(crate) const WATCH_SECONDS: u32 = 200;
/// Objects of one answer of the API server, so that the memory for a list is bounded.
const OBJECTS_A_PAGE: u32 = 200;
/// The same of pods, whose metadata alone may have 256 KiB of annotations.
const PODS_A_PAGE: u32 = 50;
/// Turns of one kind that run at the same time.
const CONCURRENCY: u16 = 16;
/// The time that running reconciliations have to finish when the controller stops, and the connection to Redis after them. A
/// reconciliation may end at any step, as it does in a crash, so that nothing waits for a server that does not answer.
const STOP_LIMIT: Duration = Duration::from_millis(400);
/// The time after which objects report that Redis is unreachable.
const FIRST_CONNECTION: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_secs(2);
/// The time between two notes that the controller works.
const BEAT_EVERY: Duration = Duration::from_secs(5);

/// Why the controller cannot run at all.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("--listen: {address} cannot be served ({source}): choose another address or port")]
    Listen {
        address: std::net::SocketAddr,
        source: std::io::Error,
    },
    #[error(
        "the way to the API server is not known ({0}): set KUBECONFIG, or run in a pod with a service account"
    )]
    KubeConfig(#[source] Box<kube::config::InferConfigError>),
    #[error("the API server's client cannot be made ({0}): check the certificates in the kubeconfig")]
    Kube(#[source] Box<kube::Error>),
    #[error("--redis-tls-secret: {} does not get an authority from the Secret {secret}: see the log above, and check that the Secret is there and that this account may list, watch and patch it", file.display())]
    Authority {
        secret: String,
        file: std::path::PathBuf,
    },
    #[error("threads cannot be started: {0}")]
    Runtime(#[source] std::io::Error),
    #[error("signals cannot be received: {0}")]
    Signals(#[source] std::io::Error),
    #[error(transparent)]
    Redis(#[from] tenure::Error),
    #[error("{0} has ended unexpectedly")]
    Ended(String),
}

/// Runs until a signal comes.
pub(crate) async fn run(config: Config) -> Result<(), RunError> {
    let mut stop = stop_on_signals()?;
    let listener = http::bind(config.listen)
        .await
        .map_err(|source| RunError::Listen {
            address: config.listen,
            source,
        })?;
    let mut kube_config = kube::Config::infer()
        .await
        .map_err(|error| RunError::KubeConfig(Box::new(error)))?;
    // The audit log of the API server, and the default field manager of a write, show it.
    kube_config
        .headers
        .push((USER_AGENT, HeaderValue::from_static(AGENT)));
    let client = Client::try_from(kube_config).map_err(|error| RunError::Kube(Box::new(error)))?;

    let mut registry = Registry::with_prefix("tenure");
    let metrics = Metrics::new(&mut registry);
    let health = Arc::new(Health::default());
    let mut watchers = JoinSet::new();
    let bundled = Bundled::start(&config, &client, &health, &stop, &mut watchers).await?;
    let redis = config.redis(bundled.credentials()).await?;
    let control = redis.control();
    let context = context(&config, &client, &control, &metrics);

    let mut objects = Objects::new(&context);
    let (pods_ended, pods_ended_out) = watch::channel(());
    let mut parts = JoinSet::new();
    let redis_and_events = (&control, &context.events);
    bundled.keep_password(
        &config,
        redis_and_events,
        &health,
        &stop,
        (&mut parts, &mut watchers),
    );
    for scope in config.scopes() {
        let part = Part {
            scope,
            context: context.clone(),
            health: health.clone(),
            stop: stop.clone(),
        };
        parts.spawn(
            part.clone()
                .watch::<LockPool>(&mut objects, pods_ended_out.clone())?,
        );
        parts.spawn(
            part.clone()
                .watch::<Semaphore>(&mut objects, pods_ended_out.clone())?,
        );
        for phase in ended_pods::ENDED {
            watchers.spawn(part.clone().watch_ended_pods(phase, pods_ended.clone()));
        }
    }
    access::start(&config, (&context, &health), &stop, (&mut parts, &mut watchers))?;
    registry.register_collector(Box::new(objects));
    watchers.spawn(context.losses.clone().watch(control.clone()));
    registry.register_collector(Box::new(Readiness(health.clone())));
    watchers.spawn(redis_health::follow(context.clone(), health.clone()));
    watchers.spawn(beat(context.clone(), health.clone()));
    watchers.spawn(follow_epochs(context.clone()));
    watchers.spawn(leftovers::follow(context.clone()));
    watchers.spawn(follow_replicas(context.clone(), health.clone()));
    watchers.spawn(async move {
        match http::serve(listener, health, registry).await {
            Ok(()) => "the HTTP server",
            Err(error) => {
                tracing::error!(%error, "the HTTP server failed");
                "the HTTP server"
            }
        }
    });

    let ended = tokio::select! {
        () = stopped(&mut stop) => None,
        ended = parts.join_next() => ended,
        ended = watchers.join_next() => ended,
    };
    // The tasks end on a signal, and may report before that.
    if !*stop.borrow() {
        return Err(RunError::Ended(match ended {
            Some(Err(error)) => error.to_string(),
            Some(Ok(name)) => name.to_owned(),
            None => "everything".to_owned(),
        }));
    }
    tracing::info!("stopping");
    let finished = async { while parts.join_next().await.is_some() {} };
    if tokio::time::timeout(STOP_LIMIT, finished).await.is_err() {
        tracing::warn!(
            "what was under way did not finish within {} ms",
            STOP_LIMIT.as_millis()
        );
    }
    // An error means that Redis does not answer: the end of the process closes the connection.
    let _ = tokio::time::timeout(STOP_LIMIT, redis.close()).await;
    tracing::info!("stopped");
    Ok(())
}

fn context(config: &Config, client: &Client, control: &tenure::Control, metrics: &Metrics) -> Arc<Context> {
    let installation = config
        .installation()
        .map(|(namespace, name)| format!("{namespace}/{name}"));
    Arc::new(Context {
        events: Publisher::new(client),
        client: client.clone(),
        control: control.clone(),
        tracker: ObjectTracker::default(),
        epochs: EpochRecord::new(
            client,
            config.epoch_record.as_ref(),
            installation.as_deref(),
            metrics.clone(),
        ),
        refused: watch::Sender::new(false),
        installations: Installations::new(client, installation.as_deref()),
        replicas: Replicas::new(client, config.installation()),
        ended: EndedPods::default(),
        holders: Holders::default(),
        losses: DataLosses::default(),
        metrics: metrics.clone(),
        limits: Limits {
            drain: config.drain_timeout,
            cleanup: config.cleanup_timeout,
        },
        key_prefix: config.redis_key_prefix.clone(),
    })
}

/// Forgets an object that is gone: of several controllers, one has removed its finalizer.
fn forget_deleted<K: Declared>(context: &Context, event: &watcher::Event<K>) {
    if let watcher::Event::Delete(object) = event
        && let Ok(name) = object.declares()
    {
        context.forget(&name);
    }
}

/// The tasks of one scope: a namespace, or all of them.
#[derive(Clone)]
struct Part {
    scope: Option<String>,
    context: Arc<Context>,
    health: Arc<Health>,
    stop: watch::Receiver<bool>,
}

impl Part {
    /// Reconciles the objects of a kind. The store is filled by the future that is returned.
    fn watch<K: Declared>(
        self,
        objects: &mut Objects,
        pods_ended: watch::Receiver<()>,
    ) -> Result<impl Future<Output = &'static str> + Send + use<K>, RunError> {
        let (store, writer) = reflector::store::<K>();
        objects.add(store.clone());
        let events = self.context.control.events()?;
        let triggers = triggers::triggers(&store, &self.context, events, pods_ended);
        let asked_for = self.context.control.events()?;
        let is_listed = Arc::new(AtomicBool::new(false));
        let listed = is_listed.clone();
        self.context
            .epochs
            .add(store.clone(), move || listed.load(Ordering::Relaxed));
        let check = self.watch_check("watch", &K::plural(&()));
        Ok(async move {
            let mut stop = self.stop.clone();
            let prepared = async {
                self.wait_for_definition::<K>().await;
                first_connection(&self.context).await;
                self.context.epochs.start().await;
                self.context.installations.start().await;
            };
            tokio::select! {
                () = stopped(&mut stop) => return K::CRD_KIND,
                () = prepared => {}
            }
            let asked_for = asked_for::reconcile(store.clone(), self.context.clone(), asked_for);
            let asked_for = async {
                if store.wait_until_ready().await.is_ok() {
                    is_listed.store(true, Ordering::Relaxed);
                    asked_for.await;
                }
                pending::<()>().await;
            };
            tokio::select! {
                () = self.clone().reconcile(store.clone(), writer, triggers, check.clone()) => {}
                never = check.probe(self.api::<K>(), None) => match never {},
                () = asked_for => {}
            }
            K::CRD_KIND
        })
    }

    async fn reconcile<K: Declared>(
        self,
        store: Store<K>,
        writer: Writer<K>,
        triggers: BoxStream<'static, reflector::ObjectRef<K>>,
        check: Arc<WatchCheck>,
    ) {
        let context = self.context.clone();
        let config = watcher::Config::default()
            .timeout(WATCH_SECONDS)
            .page_size(OBJECTS_A_PAGE);
        let changes = watcher(self.api::<K>(), config)
            .backoff(watching::Backoff::default())
            .modify(kinds::strip)
            .reflect(writer)
            .inspect(move |event| match event {
                Ok(event) => {
                    check.delivered(event);
                    forget_deleted(&context, event);
                }
                Err(error) => check.broke(error),
            })
            .applied_objects()
            // A status that the controller itself has written is no reason for another reconciliation.
            .predicate_filter(
                kube::runtime::Predicate::combine(predicates::generation, predicates::finalizers),
                kube::runtime::utils::PredicateConfig::default(),
            );
        let mut stop = self.stop.clone();
        let reconciliations = Controller::for_stream(changes, store.clone())
            .reconcile_on(triggers)
            .with_config(ControllerConfig::default().concurrency(CONCURRENCY))
            .graceful_shutdown_on(async move { stopped(&mut stop).await })
            .run(
                reconcile::reconcile::<K>,
                |object, failure, context| reconcile::retry(&*object, failure, &context),
                self.context.clone(),
            )
            .for_each(|reconciliation| async {
                // The watch reports its errors itself. Failed reconciliations are logged where the next step is decided; a removed
                // object is no failure.
                if let Err(controller::Error::RunnerError(error)) = reconciliation {
                    tracing::error!(kind = K::CRD_KIND, %error, "the controller failed");
                }
            });
        reconciliations.await;
    }

    /// Watches the pods in one phase of those that mean that a pod has ended. Their metadata is all that is needed.
    async fn watch_ended_pods(self, phase: &'static str, ended: watch::Sender<()>) -> &'static str {
        let check = self.watch_check(&format!("watch {}", phase.to_lowercase()), "pods");
        let config = watcher::Config::default()
            .fields(&format!("status.phase={phase}"))
            .timeout(WATCH_SECONDS)
            .page_size(PODS_A_PAGE);
        let mut changes = watcher(self.api::<PartialObjectMeta<Pod>>(), config)
            .backoff(watching::Backoff::default())
            .boxed();
        let changes = async {
            loop {
                match changes.try_next().await {
                    Ok(None) => return "the watch of pods",
                    Ok(Some(event)) => {
                        check.delivered(&event);
                        if let Some(uid) = ended_pods::ended(&event)
                            && self.context.ended.note(uid, std::time::Instant::now())
                        {
                            ended.send_replace(());
                        }
                    }
                    Err(error) => check.broke(&error),
                }
            }
        };
        with_probe(changes, check.probe(self.api::<Pod>(), None)).await
    }

    /// The definitions may be installed after the controller.
    async fn wait_for_definition<K: Declared>(&self) {
        let plural = K::plural(&());
        let check = self.check("definition", &plural);
        let api = self.api::<K>();
        let params = ListParams::default().limit(1);
        loop {
            let reason = match tokio::time::timeout(POLL * 2, api.list_metadata(&params)).await {
                Ok(Ok(_)) => return self.health.good(&check),
                Ok(Err(error)) => failure::describe_of(&error, &plural),
                Err(_) => format!("{plural} cannot be listed: the API server does not answer"),
            };
            if self.health.bad(&check, &reason) {
                tracing::warn!(reason, "waiting for the API server");
            }
            tokio::time::sleep(POLL).await;
        }
    }

    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        match &self.scope {
            Some(namespace) => Api::namespaced(self.context.client.clone(), namespace),
            None => Api::all(self.context.client.clone()),
        }
    }

    fn watch_check(&self, what: &str, plural: &str) -> Arc<WatchCheck> {
        WatchCheck::new(&self.health, self.check(what, plural), plural)
    }

    fn check(&self, what: &str, plural: &str) -> String {
        match &self.scope {
            Some(namespace) => format!("{what} {plural} in {namespace}"),
            None => format!("{what} {plural}"),
        }
    }
}

async fn follow_epochs(context: Arc<Context>) -> &'static str {
    context.epochs.follow().await;
    "the record of epochs"
}

async fn follow_replicas(context: Arc<Context>, health: Arc<Health>) -> &'static str {
    context.replicas.follow(&context.control, &health).await;
    "the Lease of the installation"
}

/// Notes that the controller works, for `/livez`. Never ends.
async fn beat(context: Arc<Context>, health: Arc<Health>) -> &'static str {
    loop {
        context.tracker.touch();
        health.beat(std::time::Instant::now());
        tokio::time::sleep(BEAT_EVERY).await;
    }
}

async fn first_connection(context: &Context) {
    let first = async {
        let mut server = context.control.server();
        while matches!(server, Server::Disconnected { transient: true, .. }) {
            server = context.control.server_changed(&server).await;
        }
    };
    // The objects are notified in any state of Redis.
    let _ = tokio::time::timeout(FIRST_CONNECTION, first).await;
}

fn stop_on_signals() -> Result<watch::Receiver<bool>, RunError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(RunError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(RunError::Signals)?;
    let (stop, stopping) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.send_replace(true);
        // Later readers must still see it.
        stop.closed().await;
    });
    Ok(stopping)
}

pub(crate) async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that the task which waits for signals is gone, and with it the runtime.
    let _ = stop.wait_for(|stop| *stop).await;
}
