//! Holders: the objects that a pod holds or waits for, by the uid of the pod, as each object was observed last.
//!
//! The end of a pod concerns the objects that are listed for it, and those whose last observation did not list all holders and waiters.
//! That is enough although an observation may be out of date. A lease that was granted since, or a request that was queued since, has
//! published a change, so that another observation follows, and finds the ended pod among what it lists. If it does not list all, the
//! object is *searched* in full, because pods have ended since the last search.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
};

use tenure::{ObjectRef, control::Snapshot};

use crate::lock::lock;

/// Returns whether all holders and waiters of the object are listed.
pub(crate) fn lists_all(snapshot: &Snapshot) -> bool {
    let listed: u64 = snapshot.holders.iter().map(|holder| holder.permits).sum();
    listed >= snapshot.held && snapshot.waiters.len() as u64 >= snapshot.waiting
}

/// Returns the uids of the pods among the listed holders and waiters.
pub(crate) fn uids(snapshot: &Snapshot) -> impl Iterator<Item = &String> {
    let holders = snapshot.holders.iter().map(|holder| &holder.holder);
    let waiters = snapshot.waiters.iter().map(|waiter| &waiter.holder);
    holders
        .chain(waiters)
        .filter_map(|identity| identity.uid.as_ref())
}

/// The holders and waiters of all objects.
#[derive(Debug, Default)]
pub(crate) struct Holders(Mutex<Index>);

#[derive(Debug, Default)]
struct Index {
    objects: HashMap<ObjectRef, Listed>,
    by_uid: HashMap<Arc<str>, HashSet<ObjectRef>>,
    /// The objects whose last observation did not list all.
    incomplete: HashSet<ObjectRef>,
}

#[derive(Debug, Default)]
struct Listed {
    uids: HashSet<Arc<str>>,
    /// Nothing is left of the pods that had ended when this number of pods had.
    searched: u64,
}

impl Holders {
    /// Notes an observation. Must be noted before the ended pods are looked up: a pod that ends in between is found by the one or the
    /// other.
    pub(crate) fn observed(&self, object: &ObjectRef, snapshot: Option<&Snapshot>) {
        let index = &mut *lock(&self.0);
        let seen: HashSet<&str> = snapshot
            .map(uids)
            .into_iter()
            .flatten()
            .map(String::as_str)
            .collect();
        let listed = index.objects.entry(object.clone()).or_default();
        let gone: Vec<_> = listed
            .uids
            .iter()
            .filter(|uid| !seen.contains(&***uid))
            .cloned()
            .collect();
        for uid in gone {
            listed.uids.remove(&uid);
            remove(&mut index.by_uid, &uid, object);
        }
        for uid in seen {
            if !listed.uids.contains(uid) {
                let uid: Arc<str> = index
                    .by_uid
                    .get_key_value(uid)
                    .map_or_else(|| uid.into(), |(known, _)| known.clone());
                listed.uids.insert(uid.clone());
                index.by_uid.entry(uid).or_default().insert(object.clone());
            }
        }
        if snapshot.is_none_or(lists_all) {
            index.incomplete.remove(object);
        } else {
            index.incomplete.insert(object.clone());
        }
    }

    /// Returns the objects that the end of these pods concerns.
    pub(crate) fn of(&self, pods: &[String]) -> HashSet<ObjectRef> {
        let index = lock(&self.0);
        let held = pods.iter().filter_map(|uid| index.by_uid.get(&**uid)).flatten();
        held.chain(&index.incomplete).cloned().collect()
    }

    /// Notes that nothing is left in an object of the first so many pods that have ended.
    pub(crate) fn searched(&self, object: &ObjectRef, ended: u64) {
        if let Some(listed) = lock(&self.0).objects.get_mut(object) {
            listed.searched = listed.searched.max(ended);
        }
    }

    /// Returns whether an object is searched for the first so many pods that have ended.
    pub(crate) fn is_searched(&self, object: &ObjectRef, ended: u64) -> bool {
        let searched = lock(&self.0)
            .objects
            .get(object)
            .map_or(0, |listed| listed.searched);
        searched >= ended
    }

    /// Forgets an object that is gone.
    pub(crate) fn forget(&self, object: &ObjectRef) {
        let index = &mut *lock(&self.0);
        for uid in index.objects.remove(object).unwrap_or_default().uids {
            remove(&mut index.by_uid, &uid, object);
        }
        index.incomplete.remove(object);
    }
}

fn remove(by_uid: &mut HashMap<Arc<str>, HashSet<ObjectRef>>, uid: &str, object: &ObjectRef) {
    if let Some(objects) = by_uid.get_mut(uid) {
        objects.remove(object);
        if objects.is_empty() {
            by_uid.remove(uid);
        }
    }
}

#[cfg(test)]
mod tests {
    use tenure::Kind;

    use super::*;
    use crate::fixtures::{START, holder, snapshot, waiter, with_uid};

    fn object(name: &str) -> ObjectRef {
        ObjectRef::new(Kind::Pool, "ml", name).unwrap()
    }

    /// Held by these pods, and waited for by one.
    fn held(holding: &[&str], waiting: &str) -> Snapshot {
        let mut holders = vec![];
        for (number, uid) in (1..).zip(holding) {
            let mut one = holder(number, &[], START);
            one.holder = with_uid(one.holder, uid);
            holders.push(one);
        }
        let mut waits = waiter(9);
        waits.holder = with_uid(waits.holder, waiting);
        snapshot(START, holders, vec![waits])
    }

    fn of(holders: &Holders, uid: &str) -> HashSet<ObjectRef> {
        holders.of(&[uid.to_owned()])
    }

    #[test]
    fn a_pod_concerns_the_objects_that_it_holds_or_waits_for_as_they_were_observed_last() {
        let holders = Holders::default();
        holders.observed(&object("one"), Some(&held(&["a", "b"], "c")));
        holders.observed(&object("two"), Some(&held(&["b"], "b")));
        let (one, two) = (HashSet::from([object("one")]), HashSet::from([object("two")]));
        assert_eq!(of(&holders, "a"), one);
        assert_eq!(of(&holders, "b"), &one | &two);
        assert_eq!(of(&holders, "c"), one);
        assert!(of(&holders, "z").is_empty());

        holders.observed(&object("one"), Some(&held(&["a"], "a")));
        assert_eq!(of(&holders, "b"), two);
        holders.observed(&object("two"), None);
        holders.forget(&object("one"));
        assert!(of(&holders, "a").is_empty() && of(&holders, "b").is_empty());
        assert!(lock(&holders.0).by_uid.is_empty(), "pods are left");
    }

    #[test]
    fn each_pod_concerns_an_object_that_is_not_listed_in_full() {
        let holders = Holders::default();
        let mut many = held(&["a"], "b");
        many.held = 9;
        holders.observed(&object("many"), Some(&many));
        assert_eq!(of(&holders, "z"), HashSet::from([object("many")]));
        holders.observed(&object("many"), Some(&held(&["a"], "b")));
        assert!(of(&holders, "z").is_empty());
    }

    #[test]
    fn an_object_is_searched_until_another_pod_ends() {
        let holders = Holders::default();
        holders.observed(&object("one"), Some(&held(&["a"], "b")));
        assert!(holders.is_searched(&object("one"), 0));
        assert!(
            !holders.is_searched(&object("one"), 1),
            "a pod may have ended before"
        );
        holders.searched(&object("one"), 3);
        holders.searched(&object("one"), 2);
        assert!(holders.is_searched(&object("one"), 3));
        assert!(!holders.is_searched(&object("one"), 4));
    }
}
