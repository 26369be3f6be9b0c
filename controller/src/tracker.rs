//! Tracks each object: when it is reconciled next, how long a failing one waits, and since when its spec is in force.

use std::{
    collections::{HashMap, HashSet},
    sync::Mutex,
    time::Duration,
};

use jiff::Timestamp;
use tenure::ObjectRef;
use tokio::time::Instant;

use crate::{lock::lock, writes::StatusWrites};

/// At most four looks a second at one object, however often it changes; the first change is looked at at once.
const BETWEEN_LOOKS: Duration = Duration::from_millis(250);
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(60);
/// Deletions have deadlines.
const LONGEST_RETRY_OF_A_DELETION: Duration = Duration::from_secs(5);

/// The state that the controller keeps of each object, by name: back-off, the last observation, and writes.
#[derive(Debug, Default)]
pub(crate) struct ObjectTracker(Mutex<HashMap<ObjectRef, Box<Entry>>>, Mutex<HashSet<ObjectRef>>);

/// The right to reconcile an object, until it is dropped.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    tracker: &'a ObjectTracker,
    object: ObjectRef,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        lock(&self.tracker.1).remove(&self.object);
    }
}

#[derive(Debug, Default)]
struct Entry {
    looked_at: Option<Instant>,
    failures: u32,
    failing_since: Option<Timestamp>,
    /// The declaration that this controller last saw in Redis, and the time at which it first saw it.
    in_force: Option<(DeclarationId, Instant)>,
    /// When this controller first saw that Redis had lost it while it was being deleted.
    lost_since: Option<Instant>,
    /// The installation that the object was left to, of which an event was published.
    left_to: Option<String>,
    writes: StatusWrites,
}

/// Identifies a declaration: its digest, and the floor that was written for it. A controller that declares the same spec
/// again, after a loss of data, writes another floor.
type DeclarationId = (Option<String>, Option<u64>);

impl ObjectTracker {
    /// Takes the right to reconcile the object; `None`: it is being reconciled.
    pub(crate) fn take_turn(&self, object: &ObjectRef) -> Option<Turn<'_>> {
        let free = lock(&self.1).insert(object.clone());
        free.then(|| Turn {
            tracker: self,
            object: object.clone(),
        })
    }

    /// Returns the time until the object is reconciled, or `None`: now.
    pub(crate) fn begin_look(&self, object: &ObjectRef, now: Instant) -> Option<Duration> {
        let mut entries = lock(&self.0);
        let entry = entries.entry(object.clone()).or_default();
        let left = entry
            .looked_at
            .and_then(|at| (at + BETWEEN_LOOKS).checked_duration_since(now));
        let left = left.filter(|left| !left.is_zero());
        if left.is_none() {
            entry.looked_at = Some(now);
        }
        left
    }

    /// Notes a failure and returns the time until the next attempt: twice as long each time, a quarter up or down so
    /// that objects that failed together do not come back together.
    pub(crate) fn failed(&self, object: &ObjectRef, deleting: bool, now: Timestamp, random: f64) -> Duration {
        let mut entries = lock(&self.0);
        let entry = entries.entry(object.clone()).or_default();
        let longest = if deleting {
            LONGEST_RETRY_OF_A_DELETION
        } else {
            LONGEST_RETRY
        };
        let wait = FIRST_RETRY
            .saturating_mul(1 << entry.failures.min(6))
            .min(longest);
        entry.failures = entry.failures.saturating_add(1);
        entry.failing_since.get_or_insert(now);
        wait.mul_f64(0.75 + random / 2.0)
    }

    /// Notes a success.
    pub(crate) fn succeeded(&self, object: &ObjectRef) {
        if let Some(entry) = lock(&self.0).get_mut(object) {
            (entry.failures, entry.failing_since) = (0, None);
        }
    }

    /// Notes that another controller reaches the server of the object: the time for which Redis has been unreachable begins anew.
    pub(crate) fn reached_by_another(&self, object: &ObjectRef) {
        if let Some(entry) = lock(&self.0).get_mut(object) {
            entry.failing_since = None;
        }
    }

    /// Since when every try has failed.
    pub(crate) fn failing_since(&self, object: &ObjectRef) -> Option<Timestamp> {
        lock(&self.0).get(object).and_then(|entry| entry.failing_since)
    }

    /// Notes the version of the custom resource that is reconciled, and returns the time until a status is written in which only
    /// holders and waiters have changed; `None`: now.
    pub(crate) fn status_waits(
        &self,
        object: &ObjectRef,
        version: Option<String>,
        now: Instant,
    ) -> Option<Duration> {
        let mut entries = lock(&self.0);
        let writes = &mut entries.entry(object.clone()).or_default().writes;
        writes.seen(version, now);
        writes.wait(now)
    }

    /// Returns whether a cache with this version of the custom resource will soon have the last write of this process.
    pub(crate) fn cache_lags(&self, object: &ObjectRef, version: Option<&String>, now: Instant) -> bool {
        let entries = lock(&self.0);
        entries
            .get(object)
            .is_some_and(|entry| entry.writes.lags(version, now))
    }

    /// Notes that this process has written the custom resource, and the version that it has replaced; `is_counted`: only holders and
    /// waiters have changed.
    pub(crate) fn wrote(
        &self,
        object: &ObjectRef,
        replaced: Option<String>,
        version: Option<String>,
        is_counted: bool,
    ) {
        if let Some(entry) = lock(&self.0).get_mut(object) {
            let now = Instant::now();
            entry.writes.wrote(replaced, version, is_counted, now);
        }
    }

    /// Notes that Redis has a new declaration.
    pub(crate) fn declared(&self, object: &ObjectRef) {
        lock(&self.0).entry(object.clone()).or_default().in_force = None;
    }

    /// Notes that this controller has raised the floor of a declaration, which stays in force.
    pub(crate) fn raised(&self, object: &ObjectRef, floor: Option<u64>) {
        if let Some(entry) = lock(&self.0).get_mut(object)
            && let Some(((_, known), _)) = &mut entry.in_force
        {
            *known = floor;
        }
    }

    /// Returns for how long Redis has had the declaration that it has now, as far as this controller has seen. Another
    /// controller may have made it.
    pub(crate) fn in_force_for(
        &self,
        object: &ObjectRef,
        digest: Option<&str>,
        floor: Option<u64>,
        now: Instant,
    ) -> Duration {
        let mut entries = lock(&self.0);
        let entry = entries.entry(object.clone()).or_default();
        let declared = (digest.map(str::to_owned), floor);
        let known = entry.in_force.take().filter(|(known, _)| *known == declared);
        let (_, since) = entry.in_force.insert(known.unwrap_or((declared, now)));
        now.saturating_duration_since(*since)
    }

    /// For how long it has been known that Redis has lost the object while it was being deleted.
    pub(crate) fn lost_for(&self, object: &ObjectRef, now: Instant) -> Duration {
        let mut entries = lock(&self.0);
        let entry = entries.entry(object.clone()).or_default();
        now.saturating_duration_since(*entry.lost_since.get_or_insert(now))
    }

    /// Returns whether Redis was known to have lost the object while it was being deleted.
    pub(crate) fn is_lost(&self, object: &ObjectRef) -> bool {
        lock(&self.0)
            .get(object)
            .is_some_and(|entry| entry.lost_since.is_some())
    }

    /// Notes that the object is left to another installation; returns whether that is news.
    pub(crate) fn left_to(&self, object: &ObjectRef, other: &str) -> bool {
        let mut entries = lock(&self.0);
        let entry = entries.entry(object.clone()).or_default();
        let before = entry.left_to.replace(other.to_owned());
        before.as_deref() != Some(other)
    }

    /// Returns when no task holds the state.
    pub(crate) fn touch(&self) {
        drop(lock(&self.0));
        drop(lock(&self.1));
    }

    /// Forgets an object that is gone.
    pub(crate) fn forget(&self, object: &ObjectRef) {
        lock(&self.0).remove(object);
    }
}

#[cfg(test)]
mod tests {
    use tenure::Kind;

    use super::*;

    fn object() -> ObjectRef {
        ObjectRef::new(Kind::Pool, "ml", "seats").unwrap()
    }

    #[test]
    fn an_object_is_reconciled_once_at_a_time() {
        let tracker = ObjectTracker::default();
        let turn = tracker.take_turn(&object()).unwrap();
        assert!(tracker.take_turn(&object()).is_none());
        drop(turn);
        assert!(tracker.take_turn(&object()).is_some());
    }

    #[test]
    fn the_first_change_is_looked_at_at_once_and_a_burst_four_times_a_second() {
        let (tracker, start) = (ObjectTracker::default(), Instant::now());
        let mut now = start;
        let mut looks = 0;
        while now < start + Duration::from_secs(2) {
            match tracker.begin_look(&object(), now) {
                None => looks += 1,
                Some(wait) => assert!(wait <= BETWEEN_LOOKS),
            }
            now += Duration::from_millis(1);
        }
        assert_eq!(looks, 8);
        assert_eq!(tracker.begin_look(&object(), now + Duration::from_secs(60)), None);
    }

    #[test]
    fn what_is_waited_for_is_exactly_the_next_look() {
        let (tracker, start) = (ObjectTracker::default(), Instant::now());
        assert_eq!(tracker.begin_look(&object(), start), None);
        let wait = tracker
            .begin_look(&object(), start + Duration::from_millis(100))
            .unwrap();
        assert_eq!(wait, Duration::from_millis(150));
        assert_eq!(
            tracker.begin_look(&object(), start + Duration::from_millis(100) + wait),
            None
        );
    }

    #[test]
    fn a_failing_object_is_tried_ever_less_often_until_it_succeeds() {
        let tracker = ObjectTracker::default();
        let retry = || {
            tracker
                .failed(&object(), false, Timestamp::UNIX_EPOCH, 0.5)
                .as_secs()
        };
        let waits: Vec<u64> = std::iter::repeat_with(retry).take(8).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        tracker.succeeded(&object());
        assert_eq!(retry(), 1);
    }

    #[test]
    fn retries_of_objects_that_failed_together_spread() {
        let retry = |random| ObjectTracker::default().failed(&object(), false, Timestamp::UNIX_EPOCH, random);
        assert_eq!(retry(0.0), Duration::from_millis(750));
        assert_eq!(retry(1.0), Duration::from_millis(1250));
    }

    #[test]
    fn a_deletion_is_never_left_alone_for_long() {
        let tracker = ObjectTracker::default();
        for _ in 0..20 {
            assert!(
                tracker.failed(&object(), true, Timestamp::UNIX_EPOCH, 1.0) <= Duration::from_millis(6250)
            );
        }
    }

    #[test]
    fn failing_since_is_the_first_failure_after_a_success() {
        let tracker = ObjectTracker::default();
        let at = |second| Timestamp::from_second(second).unwrap();
        assert_eq!(tracker.failing_since(&object()), None);
        tracker.failed(&object(), false, at(1), 0.0);
        tracker.failed(&object(), false, at(2), 0.0);
        assert_eq!(tracker.failing_since(&object()), Some(at(1)));
        tracker.succeeded(&object());
        assert_eq!(tracker.failing_since(&object()), None);
    }

    #[test]
    fn a_spec_is_in_force_from_the_first_look_after_it_was_declared() {
        let (tracker, start) = (ObjectTracker::default(), Instant::now());
        let (first, later) = (start + Duration::from_secs(5), start + Duration::from_secs(7));
        let in_force_for = |now| tracker.in_force_for(&object(), Some("d"), Some(1), now);
        assert_eq!(in_force_for(first), Duration::ZERO);
        assert_eq!(in_force_for(later), Duration::from_secs(2));
        tracker.declared(&object());
        assert_eq!(in_force_for(later), Duration::ZERO);
    }

    #[test]
    fn a_raised_floor_is_no_new_declaration() {
        let (tracker, start) = (ObjectTracker::default(), Instant::now());
        let later = start + Duration::from_secs(100);
        tracker.in_force_for(&object(), Some("d"), Some(1), start);
        tracker.raised(&object(), Some(2));
        let in_force_for = tracker.in_force_for(&object(), Some("d"), Some(2), later);
        assert_eq!(in_force_for, Duration::from_secs(100));
    }

    #[test]
    fn a_declaration_of_another_controller_is_in_force_from_its_own_first_look_on() {
        let (tracker, start) = (ObjectTracker::default(), Instant::now());
        let later = start + Duration::from_secs(100);
        for (digest, floor, case) in [
            ("other", 1, "the spec was changed"),
            ("d", 2, "the same spec was declared again, after a loss"),
        ] {
            tracker.in_force_for(&object(), Some("d"), Some(1), start);
            let in_force_for = tracker.in_force_for(&object(), Some(digest), Some(floor), later);
            assert_eq!(in_force_for, Duration::ZERO, "{case}");
        }
    }

    #[test]
    fn an_object_is_left_to_an_installation_once() {
        let tracker = ObjectTracker::default();
        let news = ["a/a", "a/a", "b/b", "a/a"].map(|other| tracker.left_to(&object(), other));
        assert_eq!(news, [true, false, true, true]);
    }
}
