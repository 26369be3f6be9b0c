//! Ended pods: the pods that have ended of late, whose leases and queue entries are reclaimed.
//!
//! A pod has ended when its phase is `Succeeded` or `Failed`. The kubelet reports such a phase only after all
//! containers have stopped, also for a pod that is deleted, evicted or preempted. An object that vanishes from the API
//! server proves nothing: a forced deletion removes the pod at once, while its processes may go on, on a node that the
//! control plane does not reach. The leases of such a pod run until they expire. A person who removes a node, or taints
//! it `out-of-service`, states that its processes have stopped: the control plane then sets the phase `Failed` in place
//! of the kubelet.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    sync::Mutex,
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::Pod;
use kube::{core::PartialObjectMeta, runtime::watcher::Event};
use tenure::control::Snapshot;

use crate::{holders::uids, lock::lock};

/// The time for which the end of a pod is remembered: longer than the longest back-off of an object.
const REMEMBER: Duration = Duration::from_secs(600);
/// The phases of a pod whose containers have all stopped.
pub(crate) const ENDED: [&str; 2] = ["Succeeded", "Failed"];

/// Returns the uid of the pod in an event of the watch of ended pods. The removal of such a pod adds nothing.
pub(crate) fn ended(event: &Event<PartialObjectMeta<Pod>>) -> Option<String> {
    match event {
        Event::Apply(pod) | Event::InitApply(pod) => pod.metadata.uid.clone(),
        Event::Init | Event::InitDone | Event::Delete(_) => None,
    }
}

/// The pods that have ended of late.
#[derive(Debug, Default)]
pub(crate) struct EndedPods(Mutex<Ended>);

#[derive(Debug, Default)]
struct Ended {
    /// The number of pods that have ended, with those that are forgotten.
    count: u64,
    /// By the uid of a pod: when its end was noted, and as which of them.
    pods: HashMap<String, (Instant, u64)>,
}

impl EndedPods {
    /// Notes that a pod has ended; returns whether that is news.
    pub(crate) fn note(&self, uid: String, now: Instant) -> bool {
        let ended = &mut *lock(&self.0);
        ended.pods.retain(|_, (at, _)| now.duration_since(*at) < REMEMBER);
        let Entry::Vacant(entry) = ended.pods.entry(uid) else {
            return false;
        };
        ended.count += 1;
        entry.insert((now, ended.count));
        true
    }

    /// Returns how many pods have ended so far.
    pub(crate) fn count(&self) -> u64 {
        lock(&self.0).count
    }

    /// Returns the uids of the pods that have ended since there were `count` of them, and their number now.
    pub(crate) fn since(&self, count: u64) -> (Vec<String>, u64) {
        let ended = lock(&self.0);
        let new = ended.pods.iter().filter(|(_, (_, number))| *number > count);
        (new.map(|(uid, _)| uid.clone()).collect(), ended.count)
    }

    /// Returns the uids of the ended pods among the holders and waiters in a snapshot.
    pub(crate) fn among(&self, snapshot: &Snapshot) -> HashSet<String> {
        let ended = lock(&self.0);
        let among = uids(snapshot).filter(|uid| ended.pods.contains_key(*uid));
        among.cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use kube::core::{ObjectMeta, PartialObjectMetaExt};

    use super::*;
    use crate::fixtures::{START, holder, snapshot, waiter};

    #[test]
    fn a_pod_has_ended_when_it_is_seen_in_a_final_phase_and_not_when_it_vanishes() {
        let pod = || {
            let uid = Some("a".to_owned());
            ObjectMeta {
                uid,
                ..ObjectMeta::default()
            }
            .into_response_partial::<Pod>()
        };
        let seen = Some("a".to_owned());
        assert_eq!(ended(&Event::Apply(pod())), seen);
        assert_eq!(
            ended(&Event::InitApply(pod())),
            seen,
            "while the controller was away"
        );
        for event in [Event::Init, Event::InitDone, Event::Delete(pod())] {
            assert_eq!(ended(&event), None, "{event:?}");
        }
    }

    #[test]
    fn ended_pods_are_found_among_holders_and_waiters() {
        let mut snapshot = snapshot(START, vec![holder(1, &[], START)], vec![waiter(2), waiter(3)]);
        let ended = EndedPods::default();
        snapshot.holders[0].holder.uid = Some("a".to_owned());
        snapshot.waiters[0].holder.uid = Some("b".to_owned());
        assert!(ended.among(&snapshot).is_empty());
        ended.note("a".to_owned(), Instant::now());
        ended.note("c".to_owned(), Instant::now());
        assert_eq!(ended.among(&snapshot), HashSet::from(["a".to_owned()]));
        ended.note("b".to_owned(), Instant::now());
        assert_eq!(
            ended.among(&snapshot),
            HashSet::from(["a".to_owned(), "b".to_owned()])
        );
    }

    #[test]
    fn an_end_is_news_once_and_is_forgotten_in_time() {
        let (ended, start) = (EndedPods::default(), Instant::now());
        assert!(ended.note("a".to_owned(), start));
        assert!(!ended.note("a".to_owned(), start));
        assert_eq!(ended.since(0), (vec!["a".to_owned()], 1));
        assert!(ended.note("b".to_owned(), start));
        assert_eq!(ended.since(1), (vec!["b".to_owned()], 2));
        assert_eq!(ended.since(2), (vec![], 2));
        assert!(
            ended.note("a".to_owned(), start + REMEMBER),
            "it was forgotten in between"
        );
    }
}
