//! Reclaim: leases and places in the queue of pods that have ended.
//!
//! Only a pod that was seen to end counts: one that was never seen may run in another cluster.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::Pod;
use kube::runtime::watcher::Event;
use tenure::control::Snapshot;

/// How long it is remembered that a pod has ended: longer than a failing object is left alone.
const REMEMBER: Duration = Duration::from_secs(600);

/// The pods of one watch, as far as it takes to see one end.
#[derive(Debug, Default)]
pub(crate) struct Pods {
    running: HashSet<String>,
    /// Those of a list that is still being read.
    listed: HashSet<String>,
}

impl Pods {
    /// The uids of the pods of which `event` says that they have ended.
    pub(crate) fn apply(&mut self, event: &Event<Pod>) -> Vec<String> {
        match event {
            Event::Init => {
                self.listed.clear();
                Vec::new()
            }
            Event::InitApply(pod) => {
                let Some(uid) = pod.metadata.uid.clone() else {
                    return Vec::new();
                };
                if has_ended(pod) {
                    return vec![uid];
                }
                self.listed.insert(uid);
                Vec::new()
            }
            // What was there before the watch broke off and is not any more has ended in between.
            Event::InitDone => {
                let before = std::mem::replace(&mut self.running, std::mem::take(&mut self.listed));
                before
                    .into_iter()
                    .filter(|uid| !self.running.contains(uid))
                    .collect()
            }
            Event::Apply(pod) => {
                let Some(uid) = pod.metadata.uid.clone() else {
                    return Vec::new();
                };
                if has_ended(pod) {
                    self.running.remove(&uid);
                    return vec![uid];
                }
                self.running.insert(uid);
                Vec::new()
            }
            Event::Delete(pod) => {
                let Some(uid) = pod.metadata.uid.clone() else {
                    return Vec::new();
                };
                self.running.remove(&uid);
                vec![uid]
            }
        }
    }
}

fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// The pods that have ended of late.
#[derive(Debug, Default)]
pub(crate) struct Ended(Mutex<HashMap<String, Instant>>);

impl Ended {
    /// Notes that pods have ended; tells whether any of them is news.
    pub(crate) fn note(&self, uids: Vec<String>, now: Instant) -> bool {
        let mut ended = self.lock();
        ended.retain(|_, at| now.duration_since(*at) < REMEMBER);
        let before = ended.len();
        for uid in uids {
            ended.entry(uid).or_insert(now);
        }
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

    use k8s_openapi::{api::core::v1::PodStatus, apimachinery::pkg::apis::meta::v1::ObjectMeta};
    use tenure::{
        Identity,
        control::{HolderView, WaiterView},
    };

    use super::*;

    fn pod(uid: &str, phase: &str) -> Pod {
        Pod {
            metadata: ObjectMeta {
                uid: Some(uid.to_owned()),
                ..ObjectMeta::default()
            },
            status: Some(PodStatus {
                phase: Some(phase.to_owned()),
                ..PodStatus::default()
            }),
            spec: None,
        }
    }

    fn ends(pods: &mut Pods, events: impl IntoIterator<Item = Event<Pod>>) -> Vec<String> {
        let mut ended: Vec<String> = events.into_iter().flat_map(|event| pods.apply(&event)).collect();
        ended.sort();
        ended
    }

    #[test]
    fn a_pod_ends_when_it_succeeds_fails_or_is_deleted() {
        let mut pods = Pods::default();
        let running = ["a", "b", "c", "d"].map(|uid| Event::Apply(pod(uid, "Running")));
        assert!(ends(&mut pods, running).is_empty());
        assert!(
            ends(&mut pods, [Event::Apply(pod("a", "Unknown"))]).is_empty(),
            "a lost node is no end"
        );
        let over = [
            Event::Apply(pod("a", "Succeeded")),
            Event::Apply(pod("b", "Failed")),
            Event::Delete(pod("c", "Running")),
        ];
        assert_eq!(ends(&mut pods, over), ["a", "b", "c"]);
    }

    #[test]
    fn a_pod_that_went_while_the_watch_was_broken_has_ended_and_one_never_seen_has_not() {
        let mut pods = Pods::default();
        let first = [
            Event::Init,
            Event::InitApply(pod("a", "Running")),
            Event::InitApply(pod("b", "Pending")),
            Event::InitDone,
        ];
        assert!(ends(&mut pods, first).is_empty());
        let again = [
            Event::Init,
            Event::InitApply(pod("b", "Running")),
            Event::InitApply(pod("c", "Running")),
            Event::InitDone,
        ];
        assert_eq!(ends(&mut pods, again), ["a"]);
    }

    #[test]
    fn a_pod_that_ended_while_the_controller_was_away_and_is_still_there_has_ended() {
        let first = [
            Event::Init,
            Event::InitApply(pod("a", "Succeeded")),
            Event::InitDone,
        ];
        assert_eq!(ends(&mut Pods::default(), first), ["a"]);
    }

    #[test]
    fn a_list_that_breaks_off_ends_nobody() {
        let mut pods = Pods::default();
        ends(
            &mut pods,
            [
                Event::Init,
                Event::InitApply(pod("a", "Running")),
                Event::InitDone,
            ],
        );
        assert!(ends(&mut pods, [Event::Init, Event::Init]).is_empty());
        let again = [Event::InitApply(pod("a", "Running")), Event::InitDone];
        assert!(ends(&mut pods, again).is_empty());
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
            holders: vec![holder("1", Some("a")), holder("2", Some("b")), holder("3", None)],
            waiters: vec![waiter("4", Some("a")), waiter("5", Some("c"))],
        };
        let ended = Ended::default();
        assert!(ended.tokens(&snapshot).is_empty());
        ended.note(vec!["a".to_owned()], Instant::now());
        let tokens = BTreeMap::from([("pod-a".to_owned(), vec!["1".to_owned(), "4".to_owned()])]);
        assert_eq!(ended.tokens(&snapshot), tokens);
    }

    #[test]
    fn an_end_is_news_once_and_is_forgotten_in_time() {
        let (ended, start) = (Ended::default(), Instant::now());
        assert!(ended.note(vec!["a".to_owned()], start));
        assert!(!ended.note(vec!["a".to_owned()], start));
        assert!(!ended.note(Vec::new(), start));
        assert!(
            ended.note(vec!["a".to_owned()], start + REMEMBER),
            "it was forgotten in between"
        );
    }
}
