//! Telemetry: the log and the metrics.

use std::{collections::BTreeMap, fmt, io, sync::Arc, time::Duration};

use kube::runtime::reflector::Store;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::{ConstGauge, Gauge},
        histogram::Histogram,
        info::Info,
    },
    registry::Registry,
};
use tenure_crds::{Condition, ConditionReason, ConditionStatus, ConditionType, condition};
use tracing_subscriber::EnvFilter;

use crate::{config::LogFormat, http::Health, kinds::Declared, reconcile::Context};

/// Begins the log, on standard error.
pub(crate) fn start_log(format: LogFormat, level: &str) {
    // kube logs the errors of watches and of answers that it cannot read with their whole structure; they are logged here as well.
    let filter = EnvFilter::new(format!("kube_runtime::watcher=error,kube_client=error,{level}"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr);
    match format {
        LogFormat::Human => builder
            .with_target(false)
            .with_ansi(io::IsTerminal::is_terminal(&io::stderr()))
            .init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
}

/// The numbers that the controller counts itself.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    pub(crate) reconciles: Family<OfKind, Counter>,
    pub(crate) failures: Family<OfFailure, Counter>,
    pub(crate) durations: Family<OfKind, Histogram>,
    pub(crate) status_writes: Family<OfKind, Counter>,
    pub(crate) declarations: Family<OfKind, Counter>,
    pub(crate) epoch_writes: Counter,
    pub(crate) reclaimed: Family<OfKind, Counter>,
    pub(crate) redis_connected: Gauge,
    pub(crate) access_tenants: Gauge,
    pub(crate) access_user_writes: Counter,
    pub(crate) access_secret_writes: Counter,
    pub(crate) access_rotations: Counter,
    pub(crate) access_failures: Family<OfAccess, Counter>,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub(crate) struct OfKind {
    kind: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub(crate) struct OfFailure {
    kind: &'static str,
    class: &'static str,
}

/// A failure of the access of namespaces.
#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub(crate) struct OfAccess {
    pub(crate) class: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet)]
struct OfObject {
    kind: &'static str,
    namespace: String,
    name: String,
}

/// The objects of a kind in a namespace with the same condition `Ready`.
#[derive(Clone, Debug, EncodeLabelSet, Eq, Ord, PartialEq, PartialOrd)]
struct OfReady {
    kind: &'static str,
    namespace: String,
    ready: &'static str,
    reason: &'static str,
}

impl OfKind {
    pub(crate) fn of<K: Declared>() -> Self {
        Self {
            kind: kind_label::<K>(),
        }
    }
}

impl OfFailure {
    pub(crate) fn of<K: Declared>(class: &'static str) -> Self {
        Self {
            kind: kind_label::<K>(),
            class,
        }
    }
}

impl Metrics {
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let buckets = || {
            Histogram::new([
                0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0,
            ])
        };
        let metrics = Self {
            reconciles: Family::default(),
            failures: Family::default(),
            durations: Family::new_with_constructor(buckets),
            status_writes: Family::default(),
            declarations: Family::default(),
            epoch_writes: Counter::default(),
            reclaimed: Family::default(),
            redis_connected: Gauge::default(),
            access_tenants: Gauge::default(),
            access_user_writes: Counter::default(),
            access_secret_writes: Counter::default(),
            access_rotations: Counter::default(),
            access_failures: Family::default(),
        };
        registry.register(
            "reconciles",
            "Reconciliations that ended, well or not",
            metrics.reconciles.clone(),
        );
        registry.register(
            "reconcile_failures",
            "Reconciliations that failed",
            metrics.failures.clone(),
        );
        registry.register(
            "reconcile_duration_seconds",
            "Duration of reconciliations in seconds",
            metrics.durations.clone(),
        );
        registry.register(
            "status_writes",
            "Statuses that were written",
            metrics.status_writes.clone(),
        );
        registry.register(
            "declarations",
            "Objects that were declared in Redis",
            metrics.declarations.clone(),
        );
        registry.register(
            "epoch_writes",
            "Writes of the record of epochs, each of which allows to declare all objects that Redis has lost",
            metrics.epoch_writes.clone(),
        );
        registry.register(
            "reclaimed_leases",
            "Leases and places in queues that were taken back from ended pods",
            metrics.reclaimed.clone(),
        );
        registry.register(
            "redis_connected",
            "1 if Redis answers, of a Redis Cluster each master; 0 otherwise. The controller stays ready while one master answers",
            metrics.redis_connected.clone(),
        );
        registry.register(
            "access_tenants",
            "Namespaces that have a Redis user of their own, or are to have one",
            metrics.access_tenants.clone(),
        );
        registry.register(
            "access_user_writes",
            "Redis users of namespaces that were made, changed or removed",
            metrics.access_user_writes.clone(),
        );
        registry.register(
            "access_secret_writes",
            "Secrets with the credentials of a namespace that were written or deleted",
            metrics.access_secret_writes.clone(),
        );
        registry.register(
            "access_rotations",
            "Passwords of namespaces that were replaced",
            metrics.access_rotations.clone(),
        );
        registry.register(
            "access_failures",
            "Calls of Redis and of the API server for the access of namespaces that failed",
            metrics.access_failures.clone(),
        );
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "Version of the controller", version);
        metrics
    }

    pub(crate) fn reconciled<K: Declared>(&self, took: Duration) {
        self.reconciles.get_or_create(&OfKind::of::<K>()).inc();
        self.durations
            .get_or_create(&OfKind::of::<K>())
            .observe(took.as_secs_f64());
    }
}

/// Reads every object of a store.
type ReadStore = dyn Fn() -> Vec<ReadObject> + Send + Sync;

/// The part of an object that the metrics show.
struct ReadObject {
    of: OfObject,
    /// Total, held, free and waiting.
    numbers: [u32; 4],
    /// Status and reason of the condition `Ready`. `None`: another installation manages the object, and reports it.
    ready: Option<(&'static str, &'static str)>,
}

/// The values in the statuses of a store, read at each scrape, so that an object's values vanish with it.
pub(crate) struct Objects {
    read: Vec<Box<ReadStore>>,
    context: Arc<Context>,
}

impl Objects {
    const GAUGES: [(&'static str, &'static str); 4] = [
        ("total", "Resources or permits in force, as last reported"),
        ("held", "Resources or permits that are held, as last reported"),
        (
            "free",
            "Resources or permits that can be granted, as last reported",
        ),
        ("waiting", "Requests in the queue, as last reported"),
    ];

    pub(crate) fn new(context: &Arc<Context>) -> Self {
        Self {
            read: Vec::new(),
            context: context.clone(),
        }
    }

    pub(crate) fn add<K: Declared>(&mut self, store: Store<K>) {
        let context = self.context.clone();
        self.read.push(Box::new(move || {
            let line = |object: &Arc<K>| {
                let common = object.report().common;
                let is_of_another = context.installations.is_another(common.controller.as_deref());
                let of = OfObject {
                    kind: kind_label::<K>(),
                    namespace: object.meta().namespace.clone().unwrap_or_default(),
                    name: object.meta().name.clone().unwrap_or_default(),
                };
                let numbers = [common.total, common.held, common.free, common.waiting];
                let ready = (!is_of_another).then(|| ready(&common.conditions));
                ReadObject { of, numbers, ready }
            };
            store.state().iter().map(line).collect()
        }));
    }
}

impl fmt::Debug for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Objects")
            .field("stores", &self.read.len())
            .finish_non_exhaustive()
    }
}

impl Collector for Objects {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let lines: Vec<_> = self.read.iter().flat_map(|read| read()).collect();
        for (index, (name, help)) in Self::GAUGES.into_iter().enumerate() {
            let gauge = ConstGauge::new(0_u64);
            let mut family = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            for ReadObject { of, numbers, .. } in &lines {
                ConstGauge::new(u64::from(numbers[index])).encode(family.encode_family(of)?)?;
            }
        }
        let mut counts: BTreeMap<OfReady, u64> = BTreeMap::new();
        for ReadObject { of, ready, .. } in &lines {
            if let Some((ready, reason)) = *ready {
                let (kind, namespace) = (of.kind, of.namespace.clone());
                *counts
                    .entry(OfReady {
                        kind,
                        namespace,
                        ready,
                        reason,
                    })
                    .or_default() += 1;
            }
        }
        let help = "Objects by status and reason of their condition Ready, as last reported";
        let gauge = ConstGauge::new(0_u64);
        let mut family = encoder.encode_descriptor("objects", help, None, gauge.metric_type())?;
        for (of, count) in &counts {
            ConstGauge::new(*count).encode(family.encode_family(of)?)?;
        }
        let of_others = lines.iter().filter(|line| line.ready.is_none());
        let gauge = ConstGauge::new(of_others.count() as u64);
        let help = "Objects in the watched namespaces that another installation manages, and that this one leaves alone";
        gauge.encode(encoder.encode_descriptor("objects_of_others", help, None, gauge.metric_type())?)?;
        Ok(())
    }
}

/// Returns status and reason of the condition `Ready`, each of a closed set.
fn ready(conditions: &[Condition]) -> (&'static str, &'static str) {
    let Some(found) = condition(conditions, ConditionType::Ready) else {
        return (
            ConditionStatus::Unknown.as_str(),
            ConditionReason::Pending.as_str(),
        );
    };
    let mut statuses = ConditionStatus::ALL.map(ConditionStatus::as_str).into_iter();
    let mut reasons = ConditionReason::ALL.map(ConditionReason::as_str).into_iter();
    (
        statuses
            .find(|status| *status == found.status)
            .unwrap_or(ConditionStatus::Unknown.as_str()),
        reasons.find(|reason| *reason == found.reason).unwrap_or("Other"),
    )
}

/// 1 if the controller is ready, as `/readyz` shows.
#[derive(Debug)]
pub(crate) struct Readiness(pub(crate) Arc<Health>);

impl Collector for Readiness {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let gauge = ConstGauge::new(u64::from(self.0.is_ready()));
        let help = "1 if the controller is ready, as /readyz shows, which has the reason if it is not";
        gauge.encode(encoder.encode_descriptor("controller_ready", help, None, gauge.metric_type())?)
    }
}

fn kind_label<K: Declared>() -> &'static str {
    K::CRD_KIND
}
