//! Failure: what is done after a failure, and when the object is reconciled again.

use std::time::Duration;

use kube::runtime::controller::Action;

use crate::{
    failure::Failure,
    plan::{
        Facts, Plan, Step, finalizer,
        status::{self, BackendProblem, Outcome},
        withdrawal,
    },
};

/// The cache catches up with the API server in less than this.
const AFTER_CONFLICT: Duration = Duration::from_millis(100);

/// Plans the last steps of a reconciliation after a failure. A plan that is not done leaves the reconciliation failed.
pub(crate) fn plan(facts: &Facts, failure: &Failure) -> Plan {
    let Failure::Redis(error) = failure else {
        return Plan::unfinished(Vec::new());
    };
    if failure.is_outdated() {
        return Plan::unfinished(Vec::new());
    }
    if let Some(deleted_at) = facts.desired.deleted_at
        && withdrawal::give_up(deleted_at, facts.failing_since, facts.started, facts.limits)
    {
        let command = facts.desired.name.removal_command(&facts.key_prefix);
        let mut steps = vec![Step::LeaveBehind { command }];
        steps.extend(finalizer::removal(&facts.desired));
        return Plan::last(steps, Action::await_change());
    }
    let mut problem = BackendProblem::from(error);
    if let Some(deleted_at) = facts.desired.deleted_at {
        let failing_since = facts.failing_since.unwrap_or(facts.now);
        problem = problem.of_a_deletion(withdrawal::given_up_at(deleted_at, failing_since, facts.limits));
    }
    let steps = status::steps(facts, Outcome::BackendProblem(&problem));
    Plan::unfinished(steps)
}

/// Returns when to reconcile again after a failure that is none: the object has changed, or is gone. `None`: after a
/// back-off.
pub(crate) fn requeue(failure: &Failure) -> Option<Action> {
    if failure.is_outdated() {
        Some(Action::requeue(AFTER_CONFLICT))
    } else if failure.is_not_found() {
        Some(Action::await_change())
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;
    use tenure_crds::ConditionReason;

    use super::*;
    use crate::{
        events::ObjectEvent,
        fixtures::{START, desired, facts, time},
    };

    fn unreachable() -> Failure {
        let reason = "connection refused".to_owned();
        tenure::Error::Unreachable { reason }.into()
    }

    fn other_life() -> Failure {
        let object = desired().name;
        tenure::Error::OtherLife { object }.into()
    }

    fn api(code: u16, reason: &str) -> Failure {
        let status = Status::failure("no", reason).with_code(code);
        kube::Error::Api(Box::new(status)).into()
    }

    #[test]
    fn a_failure_of_redis_is_reported_in_the_status_and_no_other() {
        let facts = facts(Some(100));
        let plan_of_unreachable = plan(&facts, &unreachable());
        assert_eq!(plan_of_unreachable.done, None, "the reconciliation stays failed");
        let [Step::WriteStatus(report)] = &plan_of_unreachable.steps[..] else {
            panic!("{plan_of_unreachable:?}")
        };
        let reason = ConditionReason::BackendUnreachable.as_str();
        assert!(report.common.conditions.iter().all(|c| c.reason == reason));
        for failure in [
            other_life(),
            api(409, "Conflict"),
            api(500, "InternalError"),
            Failure::ApiTimeout,
            Failure::Vanished,
            Failure::Timeout,
        ] {
            assert_eq!(plan(&facts, &failure), Plan::unfinished(Vec::new()), "{failure}");
        }
    }

    #[test]
    fn a_failure_that_needs_an_action_is_an_event_too() {
        let object = desired().name;
        let reason = "it holds another type of value".to_owned();
        let plan = plan(
            &facts(Some(100)),
            &tenure::Error::Damaged { object, reason }.into(),
        );
        assert!(
            matches!(
                &plan.steps[..],
                [Step::WriteStatus(_), Step::Publish(ObjectEvent::Stalled { .. })]
            ),
            "{plan:?}"
        );
    }

    #[test]
    fn a_deletion_gives_up_after_a_time_names_the_command_and_removes_the_finalizer() {
        let mut facts = facts(Some(100));
        (facts.desired.deleted_at, facts.failing_since) = (Some(time(START - 60)), Some(time(START - 59)));
        let early = plan(&facts, &unreachable());
        let [Step::WriteStatus(report)] = &early.steps[..] else {
            panic!("{early:?}")
        };
        let condition = &report.common.conditions[0];
        assert_eq!(condition.reason, ConditionReason::BackendUnreachable.as_str());
        let until = time(START + 1).to_string();
        let message = &condition.message;
        assert!(
            message.starts_with("being deleted: ")
                && message.contains(&until)
                && message.contains("connection refused"),
            "{message}"
        );
        assert_eq!(early.done, None);
        // Another controller, or this one after a restart, began to fail later.
        let (before, failing_since) = (facts.report.clone(), facts.failing_since);
        (facts.report, facts.failing_since) = ((**report).clone(), Some(time(START - 30)));
        assert_eq!(
            plan(&facts, &unreachable()).steps,
            [],
            "the time that is shown stays"
        );
        (facts.report, facts.failing_since) = (before, failing_since);

        facts.failing_since = Some(time(START - 60));
        let given_up = plan(&facts, &unreachable());
        assert_eq!(given_up.done, Some(Action::await_change()));
        let [
            Step::LeaveBehind { command },
            Step::SetFinalizers(finalizers),
            Step::Forget,
        ] = &given_up.steps[..]
        else {
            panic!("{given_up:?}")
        };
        assert!(finalizers.is_empty());
        assert!(command.contains("tenure:{ml/semaphore/callers}"), "{command}");

        let other = plan(&facts, &Failure::ApiTimeout);
        assert_eq!(other.steps, [], "only an unreachable Redis is given up");
        facts.desired.deleted_at = None;
        assert_eq!(plan(&facts, &unreachable()).done, None, "it is not deleted");
    }

    #[test]
    fn an_outdated_plan_is_repeated_soon_and_an_object_that_is_gone_is_left_alone() {
        let soon = Some(Action::requeue(AFTER_CONFLICT));
        let cases = [
            (api(409, "Conflict"), soon.clone()),
            (other_life(), soon),
            (api(404, "NotFound"), Some(Action::await_change())),
            (api(500, "InternalError"), None),
            (Failure::ApiTimeout, None),
            (unreachable(), None),
            (Failure::Vanished, None),
            (Failure::Timeout, None),
        ];
        for (failure, expected) in cases {
            assert_eq!(requeue(&failure), expected, "{failure}");
        }
    }
}
