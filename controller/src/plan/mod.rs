//! Plan: the decisions of a reconciliation, as pure functions of the facts that are known.
//!
//! [`next`] returns the next steps. [`apply`](crate::apply) executes them and adds their results to the facts, and so on
//! until a plan is the last one. A step that changes Redis makes the observation outdated, so that the object is
//! observed again before anything is decided about it.
//!
//! | the facts | the steps | decided in |
//! |---|---|---|
//! | another installation manages it | leave it alone, or take it over | [`ownership`] |
//! | the object is not observed | observe it | |
//! | the finalizer is missing | add it | [`finalizer`] |
//! | Redis does not have the declaration | write its floor to the status, or with the finalizer, then declare it | [`declaration`] |
//! | Redis has lost it | declare it under the epoch, and write the status later | [`declaration`] |
//! | ended pods hold leases, or wait | reclaim from them | [`reclaim`] |
//! | all of this is done | write the status if it has changed, and not too often | [`status`] |
//! | the custom resource is being deleted | withdraw the object, reclaim from ended pods, remove the finalizer | [`withdrawal`] |
//! | a step has failed | report the failure in the status, or give up the deletion | [`failure`] |
//!
//! The sequence of a first apply:
//!
//! 1. Observe: Redis does not have the object.
//! 2. Add the finalizer and the floor in one write, then declare the object. The declaration makes the observation outdated.
//! 3. Observe again: Redis has the declaration.
//! 4. Write the status, in which `Ready` is `True`. This reconciliation is done.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use jiff::Timestamp;
use kube::runtime::controller::Action;
use tenure::control::{self, Declaration, Kept, Life, Observation, Snapshot, Withdrawal};

use crate::{
    epochs::Ahead,
    events::ObjectEvent,
    failure::Failure,
    installations::Owner,
    kinds::{Desired, StatusDraft},
};

pub(crate) mod declaration;
pub(crate) mod failure;
pub(crate) mod finalizer;
pub(crate) mod ownership;
pub(crate) mod reclaim;
pub(crate) mod status;
pub(crate) mod withdrawal;

/// The facts that a plan is made from. Steps add to them.
#[derive(Debug)]
pub(crate) struct Facts {
    /// The custom resource.
    pub(crate) desired: Desired,
    /// The status, as the API server has it as far as is known.
    pub(crate) report: StatusDraft,
    /// The limits of a deletion.
    pub(crate) limits: withdrawal::Limits,
    /// The prefix of all keys in Redis.
    pub(crate) key_prefix: String,
    /// The installation of this controller.
    pub(crate) installation: Option<String>,
    /// The installation that statuses get. `None`: the definitions lack the field.
    pub(crate) recorded_as: Option<String>,
    /// The result of [`Step::FindOwner`].
    pub(crate) owner: Option<Owner>,
    /// The time of the first failure since the last success.
    pub(crate) failing_since: Option<Timestamp>,
    /// The time until a status is written in which only holders and waiters have changed; absent: now.
    pub(crate) status_waits: Option<Duration>,
    /// The state of the object as far as it differs from its status.
    pub(crate) ahead: Ahead,
    /// The beginning of the reconciliation, before Redis was asked for anything.
    pub(crate) started: Timestamp,
    /// The time of the plan.
    pub(crate) now: Timestamp,

    /// The object in Redis. Absent before [`Step::Observe`], and after a step that changed Redis.
    pub(crate) seen: Option<Observation>,
    /// The result of [`Step::List`] since then.
    pub(crate) listing: Option<Listing>,
    /// The uids of ended pods among the observed holders and waiters.
    pub(crate) ended: HashSet<String>,
    /// A pod has ended, and the object may have leases of it that are not listed.
    pub(crate) pod_ended: bool,
    /// The number of pods that had ended before the object was observed or listed.
    pub(crate) ended_before: u64,
    /// The time for which the observed declaration has been in Redis.
    pub(crate) in_force_for: Duration,
    /// The time for which it has been known that Redis has lost the object while it is being deleted.
    pub(crate) lost_for: Option<Duration>,

    /// The declaration that was made in this reconciliation.
    pub(crate) declared: Option<control::Plan>,
    /// A client asks for the object, so that it is declared, and the rest is left to the queue.
    pub(crate) asked_for: bool,
    /// The rest is done after this time: other lost objects are declared before the status is written, or another controller
    /// declares this one.
    pub(crate) waits: Option<Duration>,
    /// [`Step::Reclaim`] is done.
    pub(crate) reclaimed: bool,
    /// The number of permits or resources that were still held after [`Step::Withdraw`].
    pub(crate) withdrawn: Option<u64>,
}

/// An object as [`Step::List`] has read it; absent if it does not exist.
#[derive(Debug)]
pub(crate) struct Listing(pub(crate) Option<Snapshot>);

/// One step of a reconciliation.
#[derive(Debug, PartialEq)]
pub(crate) enum Step {
    /// Looks up whether the installation that the status names exists.
    FindOwner(String),
    /// Publishes an event, unless it was published before, and notes that the object is left alone.
    LeaveAlone { event: ObjectEvent },
    /// Observes the object, with the heads of its lists. Its next change triggers a reconciliation.
    Observe,
    /// Reads the object with at most so many holders and waiters.
    List(usize),
    /// Adds the finalizer; with the floor of a first declaration, which this report has.
    AddFinalizer(Option<Box<StatusDraft>>),
    /// Replaces the finalizers of the custom resource.
    SetFinalizers(Vec<String>),
    /// Writes the status, unless the custom resource has changed since it was read.
    WriteStatus(Box<StatusDraft>),
    /// Declares the object, unless Redis has lost data since it was observed.
    Declare {
        plan: control::Plan,
        life: Life,
        declaration: Declaration,
    },
    /// Declares an object that Redis has lost, unless Redis has lost data again since it was observed. If the record of epochs
    /// does not back the floor, the status is written first, with this report.
    Recover {
        plan: control::Plan,
        kept: Kept,
        seen: Box<Observation>,
        declaration: Declaration,
        report: Box<StatusDraft>,
    },
    /// Ends the leases and queue entries that have these tokens, by the name of the pod.
    Reclaim(BTreeMap<String, Vec<String>>),
    /// Withdraws the object.
    Withdraw(Withdrawal),
    /// Records the object, so that its keys are removed when Redis is reachable, and publishes that they are left behind. The command
    /// removes them.
    LeaveBehind { command: String },
    /// Publishes an event.
    Publish(ObjectEvent),
    /// Forgets what the tracker has of the object.
    Forget,
}

/// The next steps of a reconciliation.
#[derive(Debug, PartialEq)]
pub(crate) struct Plan {
    pub(crate) steps: Vec<Step>,
    /// When the object is reconciled again, if the reconciliation is done after the steps. If not, it is planned again.
    pub(crate) done: Option<Action>,
}

impl Plan {
    fn unfinished(steps: Vec<Step>) -> Self {
        Self { steps, done: None }
    }

    fn last(steps: Vec<Step>, action: Action) -> Self {
        Self {
            steps,
            done: Some(action),
        }
    }
}

impl Facts {
    /// The facts at the beginning of a reconciliation.
    pub(crate) fn new(
        desired: Desired,
        report: StatusDraft,
        limits: withdrawal::Limits,
        key_prefix: &str,
        failing_since: Option<Timestamp>,
        started: Timestamp,
    ) -> Self {
        Self {
            desired,
            report,
            limits,
            key_prefix: key_prefix.to_owned(),
            installation: None,
            recorded_as: None,
            owner: None,
            failing_since,
            status_waits: None,
            ahead: Ahead::default(),
            started,
            now: started,
            seen: None,
            listing: None,
            ended: HashSet::new(),
            pod_ended: false,
            ended_before: 0,
            in_force_for: Duration::ZERO,
            lost_for: None,
            declared: None,
            asked_for: false,
            waits: None,
            reclaimed: false,
            withdrawn: None,
        }
    }

    /// Notes that Redis has changed, so that the object must be observed again.
    pub(crate) fn redis_changed(&mut self) {
        (self.seen, self.listing) = (None, None);
        self.ended.clear();
    }
}

/// Plans the next steps of a reconciliation.
pub(crate) fn next(facts: &Facts) -> Result<Plan, Failure> {
    if let Some(plan) = ownership::of_another(facts) {
        return Ok(plan);
    }
    if let Some(plan) = finalizer::of_another(&facts.desired) {
        return Ok(plan);
    }
    if let Some(step) = ownership::claim(facts) {
        return Ok(Plan::unfinished(vec![step]));
    }
    match facts.desired.deleted_at {
        Some(deleted_at) => Ok(withdrawal::plan(facts, deleted_at)),
        None => keep_declared(facts),
    }
}

fn keep_declared(facts: &Facts) -> Result<Plan, Failure> {
    if let Some(wait) = facts.waits {
        return Ok(Plan::last(Vec::new(), Action::requeue(wait)));
    }
    let Some(seen) = &facts.seen else {
        return Ok(Plan::unfinished(vec![Step::Observe]));
    };
    if let Some(steps) = declaration::steps(facts, seen) {
        return Ok(Plan::unfinished(steps));
    }
    if facts.asked_for {
        return Ok(Plan::last(Vec::new(), Action::requeue(Duration::ZERO)));
    }
    let snapshot = seen.snapshot.as_ref().ok_or(Failure::Vanished)?;
    if let Some(steps) = reclaim::steps(facts, snapshot) {
        return Ok(Plan::unfinished(steps));
    }
    Ok(status::plan(facts, snapshot))
}

#[cfg(test)]
mod tests;
