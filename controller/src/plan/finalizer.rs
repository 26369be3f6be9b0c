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

/// Plans a reconciliation of a custom resource that is being deleted without the finalizer: others keep it.
pub(super) fn of_another(desired: &Desired) -> Option<Plan> {
    let others = desired.deleted_at.is_some() && !is_set(desired);
    others.then(|| Plan::last(vec![Step::Forget], Action::await_change()))
}

/// The finalizers of a custom resource that gets the finalizer.
pub(crate) fn with_own(desired: &Desired) -> Vec<String> {
    let own = (!is_set(desired)).then(|| FINALIZER.to_owned());
    desired.finalizers.iter().cloned().chain(own).collect()
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
    fn the_finalizer_is_added_once_and_the_others_stay() {
        let mut new = desired();
        new.finalizers = vec!["other".to_owned()];
        let finalizers = vec!["other".to_owned(), FINALIZER.to_owned()];
        assert_eq!(with_own(&new), finalizers);
        new.finalizers.clone_from(&finalizers);
        assert_eq!(with_own(&new), finalizers);
    }

    #[test]
    fn a_deletion_without_the_finalizer_is_none_of_ours() {
        let mut deleted = desired();
        (deleted.finalizers, deleted.deleted_at) = (vec!["other".to_owned()], Some(time(1)));
        let expected = Plan::last(vec![Step::Forget], Action::await_change());
        assert_eq!(of_another(&deleted), Some(expected));
        deleted.finalizers.push(FINALIZER.to_owned());
        assert_eq!(of_another(&deleted), None);
    }

    #[test]
    fn a_removal_leaves_the_finalizers_of_others() {
        let mut object = desired();
        object.finalizers.push("other".to_owned());
        let expected = [Step::SetFinalizers(vec!["other".to_owned()]), Step::Forget];
        assert_eq!(removal(&object), expected);
    }
}
