//! Finalizer: keeps a custom resource in the API server until the keys of its object are gone.
//!
//! kube's `finalizer` helper is not used: its patches carry no resource version, so that it would remove the finalizer
//! although the spec, with its deletion policy, has changed since it was read.

use kube::runtime::controller::Action;

use crate::{
    kinds::Desired,
    plan::{Plan, Step},
};

/// The name of the finalizer.
pub(crate) const FINALIZER: &str = "tenure.dev/redis-keys";

/// Plans a reconciliation of a custom resource without the finalizer. `None`: it has the finalizer.
pub(super) fn plan(desired: &Desired) -> Option<Plan> {
    if is_set(desired) {
        return None;
    }
    let step = if desired.deleted_at.is_some() {
        Step::Forget
    } else {
        let mut finalizers = desired.finalizers.clone();
        finalizers.push(FINALIZER.to_owned());
        Step::SetFinalizers(finalizers)
    };
    // The watch delivers the change.
    Some(Plan::last(vec![step], Action::await_change()))
}

/// Returns whether the custom resource has the finalizer.
pub(crate) fn is_set(desired: &Desired) -> bool {
    desired.finalizers.iter().any(|finalizer| finalizer == FINALIZER)
}

/// Plans the end of a deletion: the API server removes the custom resource.
pub(super) fn removal(desired: &Desired) -> [Step; 2] {
    let others = desired.finalizers.iter().filter(|f| *f != FINALIZER);
    [Step::SetFinalizers(others.cloned().collect()), Step::Forget]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{desired, time};

    #[test]
    fn the_finalizer_comes_before_all_else_and_the_others_stay() {
        let mut new = desired();
        new.finalizers = vec!["other".to_owned()];
        let finalizers = vec!["other".to_owned(), FINALIZER.to_owned()];
        let expected = Plan::last(vec![Step::SetFinalizers(finalizers)], Action::await_change());
        assert_eq!(plan(&new), Some(expected));
    }

    #[test]
    fn a_deletion_without_the_finalizer_is_none_of_ours() {
        let mut deleted = desired();
        (deleted.finalizers, deleted.deleted_at) = (vec!["other".to_owned()], Some(time(1)));
        let expected = Plan::last(vec![Step::Forget], Action::await_change());
        assert_eq!(plan(&deleted), Some(expected));
    }

    #[test]
    fn an_object_with_the_finalizer_is_reconciled() {
        assert_eq!(plan(&desired()), None);
    }

    #[test]
    fn a_removal_leaves_the_finalizers_of_others() {
        let mut object = desired();
        object.finalizers.push("other".to_owned());
        let expected = [Step::SetFinalizers(vec!["other".to_owned()]), Step::Forget];
        assert_eq!(removal(&object), expected);
    }
}
