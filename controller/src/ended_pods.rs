//! Reclaim: leases and queue entries of pods that have ended.
//!
//! A pod has ended when its phase is `Succeeded` or `Failed`. The kubelet reports such a phase only after all
//! containers have stopped, also for a pod that is deleted, evicted or preempted. An object that vanishes from the API
//! server proves nothing: a forced deletion removes the pod at once, while its processes may go on, on a node that the
//! control plane does not reach. The leases of such a pod run until they expire. A person who removes a node, or taints
//! it `out-of-service`, states that its processes have stopped: the control plane then sets the phase `Failed` in place
//! of the kubelet.

use std::collections::{BTreeMap, HashMap};
use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::Pod;
use kube::{core::PartialObjectMeta, runtime::watcher::Event};
use tenure::control::Snapshot;

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
pub(crate) struct EndedPods(Mutex<HashMap<String, Instant>>);

impl EndedPods {
    /// Notes that a pod has ended; returns whether that is news.
    pub(crate) fn note(&self, uid: String, now: Instant) -> bool {
        let mut ended = self.lock();
        ended.retain(|_, at| now.duration_since(*at) < REMEMBER);
        let before = ended.len();
        ended.entry(uid).or_insert(now);
        ended.len() > before
    }

    /// The tokens in the snapshot whose pods have ended, by the name of the pod.
    pub(crate) fn tokens(&self, snapshot: &Snapshot) -> BTreeMap<String, Vec<String>> {
        let ended = self.lock();
        let mut tokens: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let holders = snapshot.holders.iter().map(|h| (&h.holder, &h.token));
        let waiters = snapshot.waiters.iter().map(|w| (&w.holder, &w.token));
        for (who, token) in holders.chain(waiters) {
            if let Some(uid) = &who.uid
                && ended.contains_key(uid)
            {
                tokens
                    .entry(who.pod.clone().unwrap_or_else(|| uid.clone()))
                    .or_default()
                    .push(token.clone());
            }
        }
        tokens
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        // Every change is complete at any moment, so what a panic left behind is good.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use kube::core::{ObjectMeta, PartialObjectMetaExt};
    use tenure::{
        Identity,
        control::{HolderView, WaiterView},
    };

    use super::*;

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

    fn who(uid: Option<&str>) -> Identity {
        let json =
            serde_json::json!({"pod": uid.map(|uid| format!("pod-{uid}")), "uid": uid, "process": "h/1"});
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn leases_and_places_of_ended_pods_are_found_and_no_others() {
        let at = SystemTime::UNIX_EPOCH;
        let holder = |token: &str, uid| HolderView {
            token: token.to_owned(),
            fence: 1,
            permits: 1,
            resources: Vec::new(),
            since: at,
            expires: at,
            holder: who(uid),
            reason: String::new(),
        };
        let waiter = |token: &str, uid| WaiterView {
            token: token.to_owned(),
            permits: 1,
            since: at,
            holder: who(uid),
            reason: String::new(),
        };
        let snapshot = Snapshot {
            now: at,
            digest: None,
            current: false,
            limit: 3,
            held: 3,
            free: 0,
            waiting: 2,
            last_fence: 1,
            recovering_until: None,
            withdrawing: false,
            next_change: None,
            longest_lease: Duration::ZERO,
            holders: vec![holder("1", Some("a")), holder("2", Some("b")), holder("3", None)],
            waiters: vec![waiter("4", Some("a")), waiter("5", Some("c"))],
        };
        let ended = EndedPods::default();
        assert!(ended.tokens(&snapshot).is_empty());
        ended.note("a".to_owned(), Instant::now());
        let tokens = BTreeMap::from([("pod-a".to_owned(), vec!["1".to_owned(), "4".to_owned()])]);
        assert_eq!(ended.tokens(&snapshot), tokens);
    }

    #[test]
    fn an_end_is_news_once_and_is_forgotten_in_time() {
        let (ended, start) = (EndedPods::default(), Instant::now());
        assert!(ended.note("a".to_owned(), start));
        assert!(!ended.note("a".to_owned(), start));
        assert!(
            ended.note("a".to_owned(), start + REMEMBER),
            "it was forgotten in between"
        );
    }
}
