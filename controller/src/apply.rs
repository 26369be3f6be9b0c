//! Apply: executes the steps of a plan. All I/O of a reconciliation is here, and each call is bounded in time.
//!
//! Every write carries the resource version that it was computed from. The cache may lag behind what this very
//! controller wrote last, and a floor of fencing tokens must never be taken from an old status.

use std::collections::BTreeMap;

use kube::{
    Api, Resource, ResourceExt,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use tenure::{
    ObjectRef,
    control::{self, Declaration, Life, Raised, Server, Snapshot},
};
use tenure_crds::{MAX_LISTED, ReclaimPolicy};
use tokio::time::Instant;

use crate::{
    epochs::{KeptIn, STATUSES_AFTER, Unreported, WAIT_FOR_ANOTHER},
    events::{self, ObjectEvent},
    failure::{Failure, bounded},
    first_floor,
    holders::lists_all,
    kinds::{Declared, StatusDraft},
    leftovers,
    plan::{
        Facts, Listing, Step, declaration,
        finalizer::{self, FINALIZER},
        status, withdrawal,
    },
    reconcile::Context,
    telemetry::OfKind,
};

pub(crate) const FIELD_MANAGER: &str = "tenure-controller";

/// The parameters of a patch that merges fields.
pub(crate) fn merge_params() -> PatchParams {
    PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    }
}

/// The parameters of the call that makes a resource.
pub(crate) fn post_params() -> PostParams {
    PostParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PostParams::default()
    }
}

/// Executes the steps of one reconciliation.
pub(crate) struct Applier<'a, K> {
    context: &'a Context,
    object: &'a K,
    name: ObjectRef,
    api: Api<K>,
    /// The version of the custom resource that the facts are about.
    resource_version: Option<String>,
    /// When Redis has answered the last observation.
    observed: Option<Instant>,
}

impl<'a, K: Declared> Applier<'a, K> {
    pub(crate) fn new(context: &'a Context, object: &'a K, name: &ObjectRef) -> Self {
        Self {
            context,
            object,
            name: name.clone(),
            api: Api::namespaced(context.client.clone(), name.namespace()),
            resource_version: object.resource_version(),
            observed: None,
        }
    }

    /// Executes a step, and adds its result to the facts.
    pub(crate) async fn apply(&mut self, step: Step, facts: &mut Facts) -> Result<(), Failure> {
        let (context, control) = (self.context, &self.context.control);
        match step {
            Step::FindOwner(other) => facts.owner = Some(context.installations.find(&other).await),
            Step::LeaveAlone { event } => self.leave_alone(facts, &event).await,
            Step::Observe => self.observe(facts).await?,
            Step::List(head) => {
                self.reachable()?;
                facts.ended_before = context.ended.count();
                let snapshot = control.look(&self.name, head).await?;
                if let Some(snapshot) = &snapshot {
                    facts.ended.extend(context.ended.among(snapshot));
                }
                if facts.ended.is_empty() {
                    context.holders.searched(&self.name, facts.ended_before);
                }
                facts.listing = Some(Listing(snapshot));
            }
            Step::AddFinalizer(first) => self.add_finalizer(facts, first.map(|report| *report)).await?,
            Step::SetFinalizers(finalizers) => {
                let withdrawn = !finalizers.iter().any(|finalizer| finalizer == FINALIZER);
                self.set_finalizers(&finalizers, None).await?;
                if withdrawn {
                    tracing::info!(object = %self.name, "withdrawn");
                }
            }
            Step::WriteStatus(report) => self.report(*report, facts).await?,
            Step::Declare {
                plan,
                life,
                declaration,
            } => {
                self.declare_and_publish(facts, plan, &life, &declaration).await?;
            }
            Step::Recover {
                plan,
                kept,
                seen,
                declaration,
                report,
            } => {
                self.reachable()?;
                let observed = self.observed.unwrap_or_else(Instant::now);
                let backed = context.epochs.back(&self.name, &kept, &plan, &seen, observed);
                match backed.await? {
                    KeptIn::Record(floor, before) => {
                        let plan = control::Plan { floor, ..plan };
                        let declaration = Declaration { floor, ..declaration };
                        self.recover(facts, plan, &seen.life, &declaration, before)
                            .await?;
                    }
                    KeptIn::Status => {
                        self.report(*report, facts).await?;
                        self.declare_and_publish(facts, plan, &seen.life, &declaration)
                            .await?;
                    }
                    KeptIn::Another => facts.waits = Some(WAIT_FOR_ANOTHER),
                }
            }
            Step::Reclaim(tokens) => {
                self.reclaim(tokens).await?;
                facts.redis_changed();
                (facts.pod_ended, facts.reclaimed) = (false, true);
                context.holders.searched(&self.name, facts.ended_before);
            }
            Step::Withdraw(how) => {
                self.reachable()?;
                facts.withdrawn = Some(control.withdraw(&self.name, how).await?);
                facts.redis_changed();
            }
            Step::LeaveBehind { command } => {
                let uid = self.object.meta().uid.clone().unwrap_or_default();
                let is_recorded = leftovers::record::<K>(context, &facts.desired, &uid).await;
                let event = ObjectEvent::CleanupSkipped { command, is_recorded };
                self.publish(&event).await;
            }
            Step::Publish(event) => self.publish(&event).await,
            Step::Forget => context.forget(&self.name),
        }
        Ok(())
    }

    /// Writes a status, and notes it as the one that the object has.
    async fn report(&mut self, report: StatusDraft, facts: &mut Facts) -> Result<(), Failure> {
        let names_installation = report.common.controller.is_some();
        let is_counted = status::is_churn(&facts.report, &report);
        let replaced = self.resource_version.clone();
        let report = match self.write_status(report).await {
            Err(failure) if names_installation && failure.is_of_old_definitions() => {
                self.context.installations.recorded(None);
                return Err(failure);
            }
            written => written?,
        };
        let version = self.resource_version.clone();
        self.context
            .tracker
            .wrote(&self.name, replaced, version, is_counted);
        self.kept(facts, report);
        if names_installation {
            let recorded = facts.report.common.controller.as_deref();
            self.context.installations.recorded(recorded);
            facts.recorded_as = self.context.installations.recorded_as().map(str::to_owned);
        }
        Ok(())
    }

    /// Adds the finalizer, and the floor of a first declaration.
    async fn add_finalizer(&mut self, facts: &mut Facts, first: Option<StatusDraft>) -> Result<(), Failure> {
        let finalizers = finalizer::with_own(&facts.desired);
        let uid = self.object.meta().uid.clone().unwrap_or_default();
        let annotations = first
            .as_ref()
            .and_then(|first| first_floor::annotation(&first.common, &uid));
        self.set_finalizers(&finalizers, annotations.as_ref()).await?;
        facts.desired.finalizers = finalizers;
        if let Some(first) = first {
            self.kept(facts, first);
        }
        Ok(())
    }

    /// Notes the report that the API server has.
    fn kept(&self, facts: &mut Facts, report: StatusDraft) {
        facts.report = report;
        let floor = facts.report.common.fencing_floor;
        self.context.epochs.written(&self.name, floor);
        self.look_ahead(facts);
        // The declaration that may follow is noted as a new one.
        self.context.tracker.raised(&self.name, floor);
    }

    /// Reports once that the object is left alone.
    async fn leave_alone(&self, facts: &Facts, event: &ObjectEvent) {
        let other = facts.report.common.controller.as_deref().unwrap_or_default();
        self.context.installations.log_once(other);
        if self.context.tracker.left_to(&self.name, other) {
            self.publish(event).await;
        }
    }

    /// Looks up the state of the object beyond its status.
    pub(crate) fn look_ahead(&self, facts: &mut Facts) {
        let status = declaration::kept_in(&facts.report, &facts.desired.lease);
        facts.ahead = self.context.epochs.ahead(&self.name, status);
    }

    /// Declares an object whose floor the record of epochs has. Its status, and the event, follow.
    async fn recover(
        &self,
        facts: &mut Facts,
        plan: control::Plan,
        life: &Life,
        declaration: &Declaration,
        before: Option<Raised>,
    ) -> Result<(), Failure> {
        let (epochs, adopts) = (&self.context.epochs, plan.adopts);
        let unreported = |recovers| Unreported { recovers, adopts };
        // The answer of Redis may be lost.
        epochs.report_later(&self.name, unreported(true));
        match self.declare(facts, plan, life, declaration).await {
            Ok(recovers) => epochs.report_later(&self.name, unreported(recovers)),
            Err(failure) => {
                if failure.is_outdated() {
                    epochs.undo(&self.name, before);
                }
                return Err(failure);
            }
        }
        facts.waits = Some(STATUSES_AFTER);
        Ok(())
    }

    async fn declare_and_publish(
        &self,
        facts: &mut Facts,
        plan: control::Plan,
        life: &Life,
        declaration: &Declaration,
    ) -> Result<(), Failure> {
        let adopted = declaration::adopted(facts);
        self.declare(facts, plan, life, declaration).await?;
        if let Some(event) = adopted {
            self.publish(&event).await;
        }
        Ok(())
    }

    /// Declares the object, and returns whether it recovers. The event of a recovery comes with its status, and a first declaration has
    /// none: the condition `Ready` has its time.
    async fn declare(
        &self,
        facts: &mut Facts,
        plan: control::Plan,
        life: &Life,
        declaration: &Declaration,
    ) -> Result<bool, Failure> {
        self.reachable()?;
        let context = self.context;
        let recovers = context.control.declare_in(life, &self.name, declaration).await?;
        facts.redis_changed();
        facts.declared = Some(plan);
        context.tracker.declared(&self.name);
        context
            .metrics
            .declarations
            .get_or_create(&OfKind::of::<K>())
            .inc();
        tracing::info!(object = %self.name, recovers, floor = plan.floor, "declared");
        Ok(recovers)
    }

    async fn observe(&mut self, facts: &mut Facts) -> Result<(), Failure> {
        self.reachable()?;
        let (control, tracker) = (&self.context.control, &self.context.tracker);
        let floor = declaration::kept(facts).map(|kept| kept.floor);
        let ended_before = self.context.ended.count();
        let seen = control
            .inspect(&self.name, MAX_LISTED, floor.unwrap_or(0))
            .await?;
        self.observed = Some(Instant::now());
        facts.redis_changed();
        let snapshot = seen.snapshot.as_ref();
        self.look_for_ended_pods(facts, snapshot, ended_before);
        if let Some(snapshot) = snapshot {
            let digest = snapshot.digest.as_deref();
            facts.in_force_for = tracker.in_force_for(&self.name, digest, floor, Instant::now());
        }
        // The leases that Redis knows may end before one that it does not know.
        let was_lost = facts.desired.deleted_at.is_some() && tracker.is_lost(&self.name);
        if was_lost || withdrawal::is_lost(facts, &seen) {
            facts.lost_for = Some(tracker.lost_for(&self.name, Instant::now()));
        }
        facts.seen = Some(seen);
        Ok(())
    }

    /// Reclaims from pods by their names, and reports it, also if a call fails before the last one.
    async fn reclaim(&self, tokens: BTreeMap<String, Vec<String>>) -> Result<(), Failure> {
        self.reachable()?;
        let (mut ended, mut outcome) = (Vec::new(), Ok(()));
        for (pod, tokens) in tokens {
            let cause = format!("pod {pod} has ended");
            match self.context.control.reclaim(&self.name, &tokens, &cause).await {
                // They have been released in the meantime.
                Ok(0) => {}
                Ok(leases) => {
                    tracing::info!(object = %self.name, pod, leases, "took back what an ended pod had");
                    let reclaimed = &self.context.metrics.reclaimed;
                    reclaimed.get_or_create(&OfKind::of::<K>()).inc_by(leases as u64);
                    ended.push((pod, leases));
                }
                Err(error) => {
                    outcome = Err(error.into());
                    break;
                }
            }
        }
        for event in events::reclaimed(ended) {
            self.publish(&event).await;
        }
        outcome
    }

    /// Notes the holders and waiters of an observation, and finds the ended pods among them. `ended_before`: the number of pods that had
    /// ended before it.
    fn look_for_ended_pods(&self, facts: &mut Facts, snapshot: Option<&Snapshot>, ended_before: u64) {
        let (ended, holders) = (&self.context.ended, &self.context.holders);
        holders.observed(&self.name, snapshot);
        let Some(snapshot) = snapshot else {
            return;
        };
        facts.ended = ended.among(snapshot);
        if facts.desired.lease.reclaim_policy != ReclaimPolicy::OnPodEnd || facts.reclaimed {
            return;
        }
        facts.ended_before = ended_before;
        if facts.ended.is_empty() && lists_all(snapshot) {
            holders.searched(&self.name, ended_before);
        }
        facts.pod_ended = !holders.is_searched(&self.name, ended.count());
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

    /// Returns the status as the API server has it now.
    async fn write_status(&mut self, report: StatusDraft) -> Result<StatusDraft, Failure> {
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
        self.resource_version = written.resource_version();
        Ok(written.report())
    }

    async fn set_finalizers(
        &mut self,
        finalizers: &[String],
        annotations: Option<&BTreeMap<&str, String>>,
    ) -> Result<(), Failure> {
        let mut patch = json!({
            "metadata": { "finalizers": finalizers, "resourceVersion": self.resource_version },
        });
        if let Some(annotations) = annotations {
            patch["metadata"]["annotations"] = json!(annotations);
        }
        let patch = Patch::Merge(&patch);
        let written = bounded(self.api.patch_metadata(self.name.name(), &merge_params(), &patch)).await?;
        let version = written.resource_version();
        let replaced = std::mem::replace(&mut self.resource_version, version.clone());
        self.context.tracker.wrote(&self.name, replaced, version, false);
        Ok(())
    }

    async fn publish(&self, event: &ObjectEvent) {
        let regarding = Resource::object_ref(self.object, &());
        self.context.events.publish(&regarding, event).await;
    }
}
