//! Reclaim: which leases and queue entries of ended pods are taken back, and when the long lists must be read for it.

use std::collections::{BTreeMap, HashSet};

use tenure::control::Snapshot;
use tenure_crds::ReclaimPolicy;

use crate::{
    holders::lists_all,
    plan::{Facts, Step},
};

/// The longest lists of holders and waiters that are searched for an ended pod.
const ALL: usize = 100_000;

/// Returns the steps that reclaim from ended pods. `None`: there is nothing to reclaim, or it is done.
pub(super) fn steps(facts: &Facts, snapshot: &Snapshot) -> Option<Vec<Step>> {
    if facts.desired.lease.reclaim_policy != ReclaimPolicy::OnPodEnd || facts.reclaimed {
        return None;
    }
    let searched = match &facts.listing {
        Some(listing) => listing.0.as_ref()?,
        None if facts.pod_ended && !lists_all(snapshot) => return Some(vec![Step::List(ALL)]),
        None => snapshot,
    };
    let tokens = tokens(searched, &facts.ended);
    (!tokens.is_empty()).then(|| vec![Step::Reclaim(tokens)])
}

/// Returns the tokens of pods that have ended, by the name of the pod.
fn tokens(snapshot: &Snapshot, ended: &HashSet<String>) -> BTreeMap<String, Vec<String>> {
    let mut tokens: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let holders = snapshot.holders.iter().map(|h| (&h.holder, &h.token));
    let waiters = snapshot.waiters.iter().map(|w| (&w.holder, &w.token));
    for (identity, token) in holders.chain(waiters) {
        if let Some(uid) = &identity.uid
            && ended.contains(uid)
        {
            tokens
                .entry(identity.pod.clone().unwrap_or_else(|| uid.clone()))
                .or_default()
                .push(token.clone());
        }
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        fixtures::{START, facts, holder, snapshot, waiter, with_uid},
        plan::Listing,
    };

    /// The pods with the uids `a` and `b` hold, and those with `a` and `c` wait.
    fn shared() -> Snapshot {
        let mut holders = vec![
            holder(1, &[], START),
            holder(2, &[], START),
            holder(3, &[], START),
        ];
        let mut waiters = vec![waiter(4), waiter(5)];
        for (holder, uid) in holders.iter_mut().zip(["a", "b"]) {
            holder.holder = with_uid(holder.holder.clone(), uid);
        }
        for (waiter, uid) in waiters.iter_mut().zip(["a", "c"]) {
            waiter.holder = with_uid(waiter.holder.clone(), uid);
            waiter.holder.pod = Some(format!("worker-of-{uid}"));
        }
        snapshot(START, holders, waiters)
    }

    fn ended(uids: &[&str]) -> Facts {
        let mut facts = facts(Some(1));
        facts.ended = uids.iter().map(|&uid| uid.to_owned()).collect();
        facts
    }

    fn reclaimed(pods: &[(&str, &str)]) -> Vec<Step> {
        let tokens = pods
            .iter()
            .map(|&(pod, token)| (pod.to_owned(), vec![token.to_owned()]));
        vec![Step::Reclaim(tokens.collect())]
    }

    #[test]
    fn leases_and_queue_entries_of_ended_pods_are_reclaimed_and_no_others() {
        let cases = [
            ("no pod has ended", &[][..], None),
            ("a pod that has nothing", &["z"], None),
            ("a holder", &["b"], Some(reclaimed(&[("worker-2", "token-2")]))),
            (
                "a holder and a waiter",
                &["a"],
                Some(reclaimed(&[("worker-1", "token-1"), ("worker-of-a", "waiter-4")])),
            ),
        ];
        for (case, uids, expected) in cases {
            assert_eq!(steps(&ended(uids), &shared()), expected, "{case}");
        }
    }

    #[test]
    fn all_tokens_of_a_pod_are_reclaimed_together() {
        let mut snapshot = shared();
        snapshot.waiters[0].holder = snapshot.holders[0].holder.clone();
        let tokens = vec!["token-1".to_owned(), "waiter-4".to_owned()];
        let expected = Step::Reclaim(BTreeMap::from([("worker-1".to_owned(), tokens)]));
        assert_eq!(steps(&ended(&["a"]), &snapshot), Some(vec![expected]));
    }

    #[test]
    fn nothing_is_reclaimed_twice_nor_where_the_policy_is_to_wait_for_the_expiry() {
        let mut facts = ended(&["a"]);
        facts.reclaimed = true;
        assert_eq!(steps(&facts, &shared()), None);
        let mut facts = ended(&["a"]);
        facts.desired.lease.reclaim_policy = ReclaimPolicy::OnExpiry;
        facts.pod_ended = true;
        assert_eq!(steps(&facts, &shared()), None);
    }

    #[test]
    fn the_long_lists_are_read_once_if_a_pod_has_ended_and_may_be_in_their_rest() {
        let (whole, mut holders, mut waiters) = (shared(), shared(), shared());
        (holders.held, waiters.waiting) = (9, 9);
        let cases = [
            ("all are listed", true, &whole, None),
            ("more holders", true, &holders, Some(vec![Step::List(ALL)])),
            ("more waiters", true, &waiters, Some(vec![Step::List(ALL)])),
            ("no pod has ended", false, &holders, None),
        ];
        for (case, pod_ended, snapshot, expected) in cases {
            let mut facts = ended(&[]);
            facts.pod_ended = pod_ended;
            assert_eq!(steps(&facts, snapshot), expected, "{case}");
        }
    }

    #[test]
    fn the_long_lists_decide_once_they_are_read() {
        let mut head = shared();
        (head.held, head.holders) = (3, Vec::new());
        let mut facts = ended(&["b"]);
        facts.pod_ended = true;
        facts.listing = Some(Listing(Some(shared())));
        assert_eq!(steps(&facts, &head), Some(reclaimed(&[("worker-2", "token-2")])));
        facts.listing = Some(Listing(None));
        assert_eq!(steps(&facts, &shared()), None, "the object is gone");
    }
}
