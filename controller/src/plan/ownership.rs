//! Ownership: whether this installation manages an object, and the record of that in the status.
//!
//! | the status names | this installation |
//! |---|---|
//! | no installation, and the object was never declared | records itself with the floor of the first declaration |
//! | no installation, as before an upgrade | records itself before anything else |
//! | this installation | manages the object |
//! | another one, whose Lease exists or cannot be read | does nothing, and publishes one event |
//! | another one, whose Lease is gone | takes the object over |
//!
//! An object that is taken over has a floor and a longest lease in its status. To another Redis it is an object that was lost, which
//! grants nothing new for that lease.

use kube::runtime::controller::Action;

use crate::{
    events::ObjectEvent,
    installations::{LOOK_AGAIN, Owner},
    plan::{Facts, Plan, Step, status},
};

/// Plans the reconciliation of an object of another installation. `None`: it is none.
pub(super) fn of_another(facts: &Facts) -> Option<Plan> {
    let other = facts.report.common.controller.as_ref()?;
    if Some(other) == facts.installation.as_ref() {
        return None;
    }
    let Some(owner) = &facts.owner else {
        return Some(Plan::unfinished(vec![Step::FindOwner(other.clone())]));
    };
    if let (Owner::Gone, Some(own)) = (owner, &facts.recorded_as) {
        let (holds, held) = (&facts.report.holds, facts.report.common.held);
        let event = ObjectEvent::TakenOver {
            from: other.clone(),
            holders: status::named(holds, held.into()),
        };
        let steps = vec![recorded(facts, own), Step::Publish(event)];
        return Some(Plan::unfinished(steps));
    }
    let event = ObjectEvent::ManagedByAnother {
        other: other.clone(),
        resource: facts.desired.resource.to_owned(),
        name: facts.desired.name.name().to_owned(),
        namespace: facts.desired.name.namespace().to_owned(),
        problem: match owner {
            Owner::Unknown(problem) => Some(problem.clone()),
            Owner::Installed | Owner::Gone => None,
        },
    };
    let steps = vec![Step::LeaveAlone { event }];
    Some(Plan::last(steps, Action::requeue(LOOK_AGAIN)))
}

/// Returns the step that records this installation in the status of an object that was declared before, and names none.
pub(super) fn claim(facts: &Facts) -> Option<Step> {
    let own = facts.recorded_as.as_ref()?;
    let common = &facts.report.common;
    let is_declared = common.fencing_floor.is_some();
    (is_declared && common.controller.is_none()).then(|| recorded(facts, own))
}

fn recorded(facts: &Facts, own: &str) -> Step {
    let mut report = facts.report.clone();
    report.common.controller = Some(own.to_owned());
    Step::WriteStatus(Box::new(report))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::facts;

    fn named(own: Option<&str>, controller: Option<&str>) -> Facts {
        let mut facts = facts(Some(100));
        facts.installation = own.map(str::to_owned);
        facts.recorded_as.clone_from(&facts.installation);
        facts.report.common.controller = controller.map(str::to_owned);
        facts
    }

    #[test]
    fn an_object_of_another_installation_is_left_alone_unless_that_is_gone() {
        for (own, controller) in [(None, None), (Some("a/a"), None), (Some("a/a"), Some("a/a"))] {
            assert_eq!(
                of_another(&named(own, controller)),
                None,
                "{own:?} {controller:?}"
            );
        }
        for own in [None, Some("a/a")] {
            let mut facts = named(own, Some("b/b"));
            let find = Plan::unfinished(vec![Step::FindOwner("b/b".to_owned())]);
            assert_eq!(of_another(&facts), Some(find));
            for owner in [
                Owner::Installed,
                Owner::Unknown("no permission".to_owned()),
                Owner::Gone,
            ] {
                facts.owner = Some(owner.clone());
                let plan = of_another(&facts).unwrap();
                let taken_over = owner == Owner::Gone && own.is_some();
                match &plan.steps[..] {
                    [Step::LeaveAlone { .. }] if !taken_over => {
                        assert_eq!(plan.done, Some(Action::requeue(LOOK_AGAIN)));
                    }
                    [
                        Step::WriteStatus(report),
                        Step::Publish(ObjectEvent::TakenOver { .. }),
                    ] if taken_over => {
                        assert_eq!(report.common.controller.as_deref(), own);
                        assert_eq!(plan.done, None);
                    }
                    other => panic!("{owner:?}: {other:?}"),
                }
            }
        }
    }

    #[test]
    fn an_object_of_before_an_upgrade_is_recorded_and_no_other() {
        assert!(claim(&named(Some("a/a"), None)).is_some());
        assert_eq!(claim(&named(Some("a/a"), Some("a/a"))), None);
        assert_eq!(claim(&named(None, None)), None);
        let mut never_declared = named(Some("a/a"), None);
        never_declared.report.common.fencing_floor = None;
        assert_eq!(claim(&never_declared), None);
    }
}
