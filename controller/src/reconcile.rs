//! Reconcile: one reconciliation of one object. It plans, applies the steps, and plans again with the new facts, until
//! a plan is the last one.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use kube::{Client, runtime::controller::Action};
use tenure::{Control, ObjectRef, control::Server};
use tokio::{sync::watch, time::Instant};

use crate::{
    apply::Applier,
    data_loss::DataLosses,
    ended_pods::EndedPods,
    epochs::EpochRecord,
    events::Publisher,
    failure::{Failure, RECONCILE_LIMIT},
    holders::Holders,
    installations::Installations,
    kinds::Declared,
    plan::{self, Facts, finalizer, withdrawal::Limits},
    redis_health,
    replicas::Replicas,
    telemetry::{Metrics, OfFailure},
    tracker::ObjectTracker,
};

/// An object that is being reconciled because a client asks for it, or of which the cache is behind, is reconciled again after this.
const AFTER_ANOTHER: Duration = Duration::from_millis(100);

/// The state that all reconciliations share.
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) control: Control,
    pub(crate) events: Publisher,
    pub(crate) tracker: ObjectTracker,
    pub(crate) epochs: EpochRecord,
    pub(crate) installations: Installations,
    pub(crate) replicas: Replicas,
    /// Redis refuses to let the controller work.
    pub(crate) refused: watch::Sender<bool>,
    pub(crate) ended: EndedPods,
    pub(crate) holders: Holders,
    pub(crate) losses: DataLosses,
    pub(crate) metrics: Metrics,
    pub(crate) limits: Limits,
    pub(crate) key_prefix: String,
}

impl Context {
    /// Returns whether the reconciliation of an object has failed because this controller has no connection to its server, which was
    /// in this state before. An object that alone gets no answer is no sign of that: others would not get one either.
    async fn is_cut_off(&self, object: &ObjectRef, failure: &Failure, before: &Server) -> bool {
        let Failure::Redis(error) = failure else {
            return false;
        };
        let now = self.control.server_of(object);
        if matches!(now, Server::Disconnected { .. }) {
            return true;
        }
        // A connection that was lost meanwhile is no fault of the object.
        error.is_unreachable() && (now != *before || redis_health::look(&self.control).await.is_err())
    }

    /// Forgets an object that is gone.
    pub(crate) fn forget(&self, object: &ObjectRef) {
        self.tracker.forget(object);
        self.holders.forget(object);
        self.epochs.forget(object);
    }
}

/// One reconciliation.
pub(crate) async fn reconcile<K: Declared>(object: Arc<K>, context: Arc<Context>) -> Result<Action, Failure> {
    if let Ok(name) = object.declares()
        && object.meta().deletion_timestamp.is_none()
        && let Some(wait) = context.epochs.status_waits(&name)
    {
        return Ok(Action::requeue(wait.mul_f64(1.0 + fastrand::f64())));
    }
    reconcile_now(object, context, false).await
}

/// A reconciliation of an object that a client asks for. It does not wait until others are declared, and does nothing but
/// declare this one: another reconciliation has to follow.
pub(crate) async fn asked_for<K: Declared>(object: Arc<K>, context: Arc<Context>) -> Result<Action, Failure> {
    reconcile_now(object, context, true).await
}

async fn reconcile_now<K: Declared>(
    object: Arc<K>,
    context: Arc<Context>,
    asked_for: bool,
) -> Result<Action, Failure> {
    let started = Instant::now();
    let desired = object.desired()?;
    let name = desired.name.clone();
    let Some(_turn) = context.tracker.take_turn(&name) else {
        return Ok(Action::requeue(AFTER_ANOTHER));
    };
    let version = object.meta().resource_version.clone();
    // A write for this version would be refused.
    if !asked_for && context.tracker.cache_lags(&name, version.as_ref(), started) {
        return Ok(Action::requeue(AFTER_ANOTHER));
    }
    let mut facts = Facts::new(
        desired,
        object.report(),
        context.limits,
        &context.key_prefix,
        context.tracker.failing_since(&name),
        Timestamp::now(),
    );
    facts.asked_for = asked_for;
    facts.installation = context.installations.own().map(str::to_owned);
    facts.recorded_as = context.installations.recorded_as().map(str::to_owned);
    facts.status_waits = context.tracker.status_waits(&name, version, started);
    let mut applier = Applier::new(&context, &*object, &name);
    context.epochs.written(&name, facts.report.common.fencing_floor);
    applier.look_ahead(&mut facts);
    let reconciliation = run(&context, &mut applier, &mut facts);
    let outcome = tokio::time::timeout(RECONCILE_LIMIT, reconciliation)
        .await
        .unwrap_or(Err(Failure::Timeout));
    context.metrics.reconciled::<K>(started.elapsed());
    outcome.or_else(|failure| plan::failure::requeue(&failure).ok_or(failure))
}

async fn run<K: Declared>(
    context: &Context,
    applier: &mut Applier<'_, K>,
    facts: &mut Facts,
) -> Result<Action, Failure> {
    let (name, tracker) = (facts.desired.name.clone(), &context.tracker);
    // Others keep it.
    if facts.desired.deleted_at.is_some() && !finalizer::is_set(&facts.desired) {
        return plan_and_apply(applier, facts).await;
    }
    if let Some(wait) = tracker.begin_look(&name, Instant::now()) {
        return Ok(Action::requeue(wait));
    }
    let server = context.control.server_of(&name);
    match plan_and_apply(applier, facts).await {
        Ok(action) => {
            tracker.succeeded(&name);
            Ok(action)
        }
        Err(failure) => {
            if context.is_cut_off(&name, &failure, &server).await
                && context.replicas.another_reaches_redis().await
            {
                // Status and finalizer of the object are left to the other one.
                tracker.reached_by_another(&name);
                return Err(failure);
            }
            facts.now = Timestamp::now();
            let plan = plan::failure::plan(facts, &failure);
            if plan.done.is_some() {
                let command = name.removal_command(&facts.key_prefix);
                tracing::warn!(object = %name, error = %failure, command, "deleted without removing its keys from Redis; remove them with this command");
            }
            for step in plan.steps {
                applier.apply(step, facts).await?;
            }
            plan.done.ok_or(failure)
        }
    }
}

async fn plan_and_apply<K: Declared>(
    applier: &mut Applier<'_, K>,
    facts: &mut Facts,
) -> Result<Action, Failure> {
    loop {
        facts.now = Timestamp::now();
        let plan = plan::next(facts)?;
        for step in plan.steps {
            applier.apply(step, facts).await?;
        }
        if let Some(action) = plan.done {
            return Ok(action);
        }
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
    let wait = context
        .tracker
        .failed(&name, deleting, Timestamp::now(), fastrand::f64());
    Action::requeue(wait)
}

#[cfg(test)]
mod tests;
