//! Reconcile: one reconciliation of one object. All that is decided here is decided by the pure functions of the other modules;
//! this is the order in which they are asked, and the I/O between them.
//!
//! Every write of a status carries the resource version that it was computed from. The cache may lag behind what this
//! very controller wrote last, and a floor of fencing tokens must never be taken from an old status.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use jiff::Timestamp;
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{Patch, PatchParams},
    runtime::{controller::Action, events::Recorder},
};
use serde_json::json;
use tenure::{
    Control, ObjectRef,
    control::{self, Declaration, Observation, Server, Snapshot, Withdrawal},
};
use tenure_crds::{DeletionPolicy, MAX_LISTED, ReclaimPolicy, whole_seconds};

use crate::{
    ended_pods::EndedPods,
    events::{self, ObjectEvent},
    kinds::{Declared, StatusDraft},
    plan::{
        declaration, digest,
        status::{self, BackendProblem, Outcome},
        withdrawal::{self, Left, Limits},
    },
    telemetry::{Metrics, OfFailure, OfKind},
    tracker::ObjectTracker,
};

/// Keeps an object in the API server until its keys are gone.
pub(crate) const FINALIZER: &str = "tenure.dev/redis-keys";
const FIELD_MANAGER: &str = "tenure-controller";
/// A reconciliation that takes longer than this hangs.
const RECONCILE_LIMIT: Duration = Duration::from_secs(30);
const API_LIMIT: Duration = Duration::from_secs(10);
/// The cache catches up with the API server in less than this.
const AFTER_CONFLICT: Duration = Duration::from_millis(100);
/// Leases and places that are looked through when a pod has ended.
const ALL: usize = 100_000;
/// Leases that are reclaimed by one command.
const BATCH: usize = 1_000;

/// The state that all reconciliations share.
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) control: Control,
    pub(crate) recorder: Recorder,
    pub(crate) tracker: ObjectTracker,
    pub(crate) ended: EndedPods,
    pub(crate) metrics: Metrics,
    pub(crate) limits: Limits,
    pub(crate) key_prefix: String,
}

/// Why a reconciliation failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("the API server: {0}")]
    Api(#[source] Box<kube::Error>),
    #[error("the API server did not answer within {} s", API_LIMIT.as_secs())]
    ApiTimeout,
    #[error(transparent)]
    Redis(#[from] tenure::Error),
    #[error("the object vanished from Redis just after it was declared")]
    Vanished,
    #[error("the reconciliation did not finish within {} s", RECONCILE_LIMIT.as_secs())]
    Timeout,
}

impl From<kube::Error> for Failure {
    fn from(error: kube::Error) -> Self {
        Self::Api(Box::new(error))
    }
}

impl Failure {
    /// For counting: a closed set.
    fn class(&self) -> &'static str {
        match self {
            Self::Api(_) => "api",
            Self::ApiTimeout => "api_timeout",
            Self::Redis(error) if error.is_unreachable() => "redis_unreachable",
            Self::Redis(_) => "redis_refused",
            Self::Vanished => "vanished",
            Self::Timeout => "timeout",
        }
    }

    /// The object has changed since the reconciliation was planned, in the API server or in Redis.
    fn is_outdated(&self) -> bool {
        match self {
            Self::Api(error) => matches!(&**error, kube::Error::Api(status) if status.is_conflict()),
            Self::Redis(error) => matches!(error, tenure::Error::OtherLife { .. }),
            _ => false,
        }
    }

    fn is_not_found(&self) -> bool {
        matches!(self, Self::Api(error) if matches!(&**error, kube::Error::Api(status) if status.is_not_found()))
    }
}

/// One reconciliation.
pub(crate) async fn reconcile<K: Declared>(object: Arc<K>, context: Arc<Context>) -> Result<Action, Failure> {
    let started = Instant::now();
    let reconciliation = Reconciliation::new(&*object, &context)?;
    let outcome = tokio::time::timeout(RECONCILE_LIMIT, reconciliation.run())
        .await
        .unwrap_or(Err(Failure::Timeout));
    context.metrics.reconciled::<K>(started.elapsed());
    match outcome {
        Err(failure) if failure.is_outdated() => Ok(Action::requeue(AFTER_CONFLICT)),
        Err(failure) if failure.is_not_found() => Ok(Action::await_change()),
        outcome => outcome,
    }
}

/// Handles a failed reconciliation.
pub(crate) fn retry<K: Declared>(object: &K, failure: &Failure, context: &Context) -> Action {
    context
        .metrics
        .failures
        .get_or_create(&OfFailure::of::<K>(failure.class()))
        .inc();
    let Ok(name) = object.declares() else {
        return Action::await_change();
    };
    // The connection reports once that Redis is unreachable, and so do the conditions of each object.
    if matches!(failure, Failure::Redis(_)) {
        tracing::debug!(object = %name, error = %failure, "reconciling failed");
    } else {
        tracing::warn!(object = %name, error = %failure, "reconciling failed");
    }
    let deleting = object.meta().deletion_timestamp.is_some();
    Action::requeue(
        context
            .tracker
            .failed(&name, deleting, Timestamp::now(), fastrand::f64()),
    )
}

struct Reconciliation<'a, K> {
    context: &'a Context,
    object: &'a K,
    name: ObjectRef,
    api: Api<K>,
    /// As the API server has it, as far as is known; together with the version of exactly that.
    report: StatusDraft,
    resource_version: Option<String>,
    /// Before Redis was asked for anything.
    started: Timestamp,
    /// `true` if it was declared in this reconciliation, and may have had first users until then.
    adopted: bool,
}

impl<'a, K: Declared> Reconciliation<'a, K> {
    fn new(object: &'a K, context: &'a Context) -> Result<Self, Failure> {
        let name = object.declares()?;
        let api = Api::namespaced(context.client.clone(), name.namespace());
        let (report, resource_version) = (object.report(), object.resource_version());
        Ok(Self {
            context,
            object,
            name,
            api,
            report,
            resource_version,
            started: Timestamp::now(),
            adopted: false,
        })
    }

    async fn run(mut self) -> Result<Action, Failure> {
        let has_finalizer = self
            .object
            .finalizers()
            .iter()
            .any(|finalizer| finalizer == FINALIZER);
        let deleted_at = self.object.meta().deletion_timestamp.as_ref().map(|time| time.0);
        match (deleted_at, has_finalizer) {
            (Some(_), false) => {
                self.context.tracker.forget(&self.name);
                return Ok(Action::await_change());
            }
            (None, false) => {
                let mut finalizers = self.object.finalizers().to_vec();
                finalizers.push(FINALIZER.to_owned());
                self.set_finalizers(finalizers).await?;
                // The change comes back through the watch.
                return Ok(Action::await_change());
            }
            (_, true) => {}
        }
        if let Some(wait) = self.context.tracker.too_soon(&self.name, Instant::now()) {
            return Ok(Action::requeue(wait));
        }
        let outcome = match deleted_at {
            Some(deleted_at) => self.clean_up(deleted_at).await,
            None => self.keep_declared().await,
        };
        match &outcome {
            Ok(_) => self.context.tracker.succeeded(&self.name),
            Err(failure) if failure.is_outdated() => {}
            Err(Failure::Redis(error)) => {
                self.write_outcome(Outcome::BackendProblem(&BackendProblem::from(error)), None)
                    .await?;
            }
            Err(_) => {}
        }
        outcome
    }

    async fn keep_declared(&mut self) -> Result<Action, Failure> {
        let snapshot = self.declare().await?;
        let snapshot = self.reclaim(snapshot).await?.ok_or(Failure::Vanished)?;
        let first_users = self.adopted.then(|| declaration::seconds(snapshot.longest_lease));
        let outcome = Outcome::Declared {
            snapshot: &snapshot,
            lease: self.object.lease(),
            asked_at: self.started,
            total: self.object.total(),
            longest_lease: declaration::longest_lease(
                self.report.common.lease_duration_seconds.max(first_users),
                self.object.lease(),
                self.context.tracker.in_force_for(
                    &self.name,
                    snapshot.digest.as_deref(),
                    self.report.common.fencing_floor,
                    Instant::now(),
                ),
            ),
        };
        self.write_outcome(outcome, Some(&snapshot)).await?;
        Ok(Action::requeue(status::requeue_after(
            &self.report,
            &snapshot,
            self.object.lease().lease_duration(),
        )))
    }

    /// Applies the spec to Redis, and observes the object.
    async fn declare(&mut self) -> Result<Snapshot, Failure> {
        let control = &self.context.control;
        let (lease, capacity) = (self.object.lease(), self.object.capacity());
        let digest = digest::digest(lease, &capacity);
        let seen = self.inspect().await?;
        let kept = declaration::kept(&self.report, lease);
        let now = SystemTime::from(self.started);
        let Some(plan) = control::plan(kept.as_ref(), &seen, &digest, lease.lease_duration(), now) else {
            return seen.snapshot.ok_or(Failure::Vanished);
        };
        let longest_lease = declaration::seconds(plan.longest_lease);
        let mut report = self.report.clone();
        report.common.fencing_floor = Some(plan.floor);
        report.common.fencing_floor_time = Some(whole_seconds(self.started));
        report.common.lease_duration_seconds = Some(longest_lease);
        self.write(report).await?;
        let declaration = Declaration {
            digest,
            floor: plan.floor,
            recovery: plan
                .declared_before
                .then(|| Duration::from_secs(longest_lease.into())),
            lease: lease.lease_duration(),
            max_hold: lease.max_hold(),
            capacity,
        };
        let recovers = control.declare_in(&seen.life, &self.name, &declaration).await?;
        self.adopted = plan.adopts;
        self.context.tracker.declared(&self.name);
        self.context
            .metrics
            .declarations
            .get_or_create(&OfKind::of::<K>())
            .inc();
        tracing::info!(object = %self.name, recovers, floor = plan.floor, "declared");
        if recovers {
            self.publish(&ObjectEvent::Recovering).await;
        } else if !plan.declared_before {
            self.publish(&ObjectEvent::Declared).await;
        }
        self.observe().await?.ok_or(Failure::Vanished)
    }

    /// Takes back what ended pods hold or wait for. Looks again if there was anything.
    async fn reclaim(&mut self, snapshot: Snapshot) -> Result<Option<Snapshot>, Failure> {
        if self.object.lease().reclaim_policy != ReclaimPolicy::OnPodEnd {
            return Ok(Some(snapshot));
        }
        let control = &self.context.control;
        let listed: u64 = snapshot.holders.iter().map(|holder| holder.permits).sum();
        let unlisted = listed < snapshot.held || (snapshot.waiters.len() as u64) < snapshot.waiting;
        let pod_ended = self.context.tracker.take_pod_ended(&self.name);
        let outcome = async {
            let ended = if pod_ended && unlisted {
                control
                    .look(&self.name, ALL)
                    .await?
                    .map(|all| self.context.ended.tokens(&all))
                    .unwrap_or_default()
            } else {
                self.context.ended.tokens(&snapshot)
            };
            let mut taken = Vec::new();
            for (pod, tokens) in ended {
                let mut leases = 0;
                for batch in tokens.chunks(BATCH) {
                    let cause = format!("pod {pod} has ended");
                    leases += control.reclaim(&self.name, batch, &cause).await?;
                }
                taken.push((pod, leases));
            }
            Ok::<_, tenure::Error>(taken)
        }
        .await;
        let taken = match outcome {
            Ok(taken) => taken,
            Err(error) => {
                // The next reconciliation looks again for the rest.
                self.context.tracker.pod_ended(&self.name);
                return Err(error.into());
            }
        };
        if taken.is_empty() {
            return Ok(Some(snapshot));
        }
        for (pod, leases) in taken {
            tracing::info!(object = %self.name, pod, leases, "took back what an ended pod had");
            self.context
                .metrics
                .reclaimed
                .get_or_create(&OfKind::of::<K>())
                .inc_by(leases as u64);
            self.publish(&ObjectEvent::Reclaimed { pod, leases }).await;
        }
        self.observe().await
    }

    async fn clean_up(&mut self, deleted_at: Timestamp) -> Result<Action, Failure> {
        let (limits, policy) = (self.context.limits, self.object.lease().deletion_policy);
        let now = Timestamp::now();
        let how = withdrawal::how(policy, deleted_at, now, limits);
        match self.withdraw(policy, how).await {
            Ok(Left::Nothing) => {}
            Ok(Left::Unknown(wait)) => {
                let until = withdrawal::drained_by(deleted_at, limits).duration_since(now);
                return Ok(Action::requeue(
                    wait.min(Duration::try_from(until).unwrap_or_default()),
                ));
            }
            Ok(Left::Held(snapshot)) => {
                let until = withdrawal::drained_by(deleted_at, limits);
                self.write_outcome(
                    Outcome::Deleting {
                        snapshot: &snapshot,
                        until,
                    },
                    Some(&snapshot),
                )
                .await?;
                let left = Duration::try_from(until.duration_since(now)).unwrap_or_default();
                let requeue_after =
                    status::requeue_after(&self.report, &snapshot, self.object.lease().lease_duration());
                return Ok(Action::requeue(requeue_after.min(left)));
            }
            Err(failure) => {
                let since = self.context.tracker.failing_since(&self.name);
                if !withdrawal::give_up(deleted_at, since, now, limits) {
                    return Err(failure);
                }
                let command = withdrawal::command(&self.context.key_prefix, &self.name);
                tracing::warn!(object = %self.name, error = %failure, command, "deleted without removing its keys from Redis; remove them with this command");
                self.publish(&ObjectEvent::CleanupSkipped { command }).await;
            }
        }
        let finalizers = self
            .object
            .finalizers()
            .iter()
            .filter(|f| *f != FINALIZER)
            .cloned()
            .collect();
        self.set_finalizers(finalizers).await?;
        tracing::info!(object = %self.name, "withdrawn");
        self.context.tracker.forget(&self.name);
        Ok(Action::await_change())
    }

    /// The rest of a withdrawn object. If Redis has lost it, its holders keep their leases for as long as those may
    /// run: requests for an object of the same name would be granted beside them.
    async fn withdraw(&mut self, policy: DeletionPolicy, how: Withdrawal) -> Result<Left, Failure> {
        let control = &self.context.control;
        self.reachable()?;
        let mut unknown_for = None;
        if how == Withdrawal::Drain
            && let Some(kept) = declaration::kept(&self.report, self.object.lease())
            && !kept.knows(&self.inspect().await?)
        {
            let lost_for = self.context.tracker.lost_for(&self.name, Instant::now());
            unknown_for = withdrawal::unknown_for(lost_for, kept.longest_lease);
        }
        let gone = || unknown_for.map_or(Left::Nothing, Left::Unknown);
        let timed_out = policy == DeletionPolicy::Drain && how == Withdrawal::Delete;
        if timed_out
            && control
                .look(&self.name, 0)
                .await?
                .is_some_and(|snapshot| snapshot.held > 0)
        {
            self.publish(&ObjectEvent::DrainTimedOut).await;
        }
        if control.withdraw(&self.name, how).await? == 0 {
            return Ok(gone());
        }
        let Some(snapshot) = self.observe().await? else {
            return Ok(gone());
        };
        let held = self.reclaim(snapshot).await?;
        Ok(held.map_or_else(gone, |snapshot| Left::Held(Box::new(snapshot))))
    }

    async fn observe(&self) -> Result<Option<Snapshot>, Failure> {
        Ok(self.inspect().await?.snapshot)
    }

    async fn inspect(&self) -> Result<Observation, Failure> {
        self.reachable()?;
        let floor = self.report.common.fencing_floor.unwrap_or(0);
        let seen = self
            .context
            .control
            .inspect(&self.name, MAX_LISTED, floor)
            .await?;
        let idle = seen
            .snapshot
            .as_ref()
            .is_none_or(|snapshot| snapshot.held + snapshot.waiting == 0);
        self.context.tracker.looked(&self.name, idle);
        Ok(seen)
    }

    /// Fails at once while it is known that the server which has the object does not answer: a call would wait for it.
    fn reachable(&self) -> Result<(), Failure> {
        match self.context.control.server_of(&self.name) {
            Server::Disconnected {
                error,
                transient: true,
            } => Err(tenure::Error::Unreachable { reason: error }.into()),
            _ => Ok(()),
        }
    }

    /// Writes what is seen, if it is news.
    async fn write_outcome(
        &mut self,
        outcome: Outcome<'_>,
        snapshot: Option<&Snapshot>,
    ) -> Result<(), Failure> {
        let now = Timestamp::now();
        let fresh = status::report(
            &self.report,
            self.object.meta().generation,
            self.name.namespace(),
            outcome,
            now,
        );
        let redis_now = snapshot.map_or(now, |snapshot| status::timestamp(snapshot.now));
        let lease = self.object.lease().lease_duration();
        let Some(news) = status::to_write(&self.report, fresh, lease, redis_now) else {
            return Ok(());
        };
        let event = events::between(&self.report, &news);
        self.write(news).await?;
        if let Some(event) = event {
            self.publish(&event).await;
        }
        Ok(())
    }

    async fn write(&mut self, report: StatusDraft) -> Result<(), Failure> {
        let body = json!({
            "apiVersion": K::api_version(&()),
            "kind": K::kind(&()),
            "metadata": { "name": self.name.name(), "resourceVersion": self.resource_version },
            "status": K::status(report),
        });
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let patch = Patch::Apply(&body);
        let written = bounded(self.api.patch_status(self.name.name(), &params, &patch)).await?;
        self.context
            .metrics
            .status_writes
            .get_or_create(&OfKind::of::<K>())
            .inc();
        (self.report, self.resource_version) = (written.report(), written.resource_version());
        Ok(())
    }

    async fn set_finalizers(&self, finalizers: Vec<String>) -> Result<(), Failure> {
        let patch = json!({
            "metadata": { "finalizers": finalizers, "resourceVersion": self.resource_version },
        });
        let params = PatchParams::default();
        bounded(
            self.api
                .patch_metadata(self.name.name(), &params, &Patch::Merge(&patch)),
        )
        .await?;
        Ok(())
    }

    async fn publish(&self, event: &ObjectEvent) {
        events::publish(
            &self.context.recorder,
            &Resource::object_ref(self.object, &()),
            event,
        )
        .await;
    }
}

/// Calls to the API server are not bounded by themselves.
async fn bounded<T>(call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, Failure> {
    match tokio::time::timeout(API_LIMIT, call).await {
        Ok(outcome) => Ok(outcome?),
        Err(_) => Err(Failure::ApiTimeout),
    }
}
