//! Writes of statuses: how often the status of an object is written while its holders and waiters keep changing.
//!
//! The first changes are written at once. While the changes go on, a write follows each [`BETWEEN`] with the state of that moment, and
//! the last state is always written. Writes of other processes count as own ones, so that two controllers write no more than one.

use std::time::Duration;

use tokio::time::Instant;

/// Changes that are written at once after a rest.
const AT_ONCE: u32 = 4;
/// The time between two writes while changes go on. In no minute there are more than twelve writes.
const BETWEEN: Duration = Duration::from_millis(7_500);

/// A cache that is behind for longer does not keep an object from being reconciled: its watch may be broken.
const LONGEST_LAG: Duration = Duration::from_secs(2);
/// The replaced versions that are kept.
const MOST_REPLACED: usize = 4;

/// The recent writes of the status of one object.
#[derive(Debug, Default)]
pub(crate) struct StatusWrites {
    /// The time at which all changes have had their share of time: a generic cell rate algorithm.
    paid_until: Option<Instant>,
    /// The version of the custom resource that was seen last.
    seen: Option<String>,
    /// The version that this process has written last.
    own: Option<String>,
    /// The versions that its writes have replaced since the cache had an own one, and the time of the last write.
    replaced: Vec<String>,
    wrote_at: Option<Instant>,
}

impl StatusWrites {
    /// Notes the version of the custom resource at the beginning of a reconciliation. One that is new was written by another process.
    pub(crate) fn seen(&mut self, version: Option<String>, now: Instant) {
        if version == self.seen {
            return;
        }
        if version == self.own {
            self.replaced = Vec::new();
        }
        if self.seen.is_some() && version != self.own {
            self.pay(now);
        }
        self.seen = version;
    }

    /// Returns whether a cache with this version of the custom resource will soon have the last write of this process.
    pub(crate) fn lags(&self, version: Option<&String>, now: Instant) -> bool {
        let is_recent = self
            .wrote_at
            .is_some_and(|at| now.saturating_duration_since(at) < LONGEST_LAG);
        is_recent && version.is_some_and(|version| self.replaced.contains(version))
    }

    /// Notes a write of this process, and the version that it has replaced. Only writes of changed holders and waiters are counted.
    pub(crate) fn wrote(
        &mut self,
        replaced: Option<String>,
        version: Option<String>,
        is_counted: bool,
        now: Instant,
    ) {
        self.own = version;
        self.wrote_at = Some(now);
        self.replaced.truncate(MOST_REPLACED - 1);
        self.replaced.splice(..0, replaced);
        if is_counted {
            self.pay(now);
        }
    }

    /// Returns the time until changed holders and waiters are written, or `None`: now.
    pub(crate) fn wait(&self, now: Instant) -> Option<Duration> {
        let credit = BETWEEN * (AT_ONCE - 1);
        let wait = self.paid_until?.checked_duration_since(now + credit)?;
        (!wait.is_zero()).then_some(wait)
    }

    fn pay(&mut self, now: Instant) {
        self.paid_until = Some(self.paid_until.map_or(now, |until| until.max(now)) + BETWEEN);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    /// Writes whenever that is allowed, and returns the times of the writes.
    fn busy(start: Instant, span: Duration) -> Vec<Duration> {
        let (mut writes, mut at, mut now) = (StatusWrites::default(), Vec::new(), start);
        while now < start + span {
            if writes.wait(now).is_none() {
                writes.wrote(None, None, true, now);
                at.push(now - start);
            }
            now += Duration::from_millis(250);
        }
        at
    }

    #[test]
    fn the_first_changes_are_written_at_once_and_no_minute_has_more_than_twelve_writes() {
        let at = busy(Instant::now(), 5 * MINUTE);
        assert!(at[3] <= Duration::from_secs(1), "{at:?}");
        assert!(at[4] >= Duration::from_secs(7), "{at:?}");
        for first in &at {
            let minute = at
                .iter()
                .filter(|other| (*first..=*first + MINUTE).contains(*other));
            assert!(minute.count() <= 12, "{at:?}");
        }
        assert!(at.len() >= 40, "{at:?}");
    }

    #[test]
    fn after_a_rest_changes_are_written_at_once_again() {
        let (mut writes, start) = (StatusWrites::default(), Instant::now());
        for _ in 0..4 {
            assert_eq!(writes.wait(start), None);
            writes.wrote(None, None, true, start);
        }
        assert_eq!(writes.wait(start), Some(BETWEEN));
        assert_eq!(writes.wait(start + BETWEEN), None);
        for _ in 0..4 {
            assert_eq!(writes.wait(start + 4 * BETWEEN), None);
            writes.wrote(None, None, true, start + 4 * BETWEEN);
        }
    }

    #[test]
    fn a_write_of_another_process_counts_once_and_an_own_one_not_again() {
        let (mut writes, now) = (StatusWrites::default(), Instant::now());
        let version = |number: u32| Some(number.to_string());
        writes.seen(version(0), now);
        for number in 1..=3 {
            writes.wrote(None, version(number), true, now);
            writes.seen(version(number), now);
            writes.seen(version(number), now);
            assert_eq!(writes.wait(now), None);
        }
        writes.seen(version(4), now);
        assert_eq!(writes.wait(now), Some(BETWEEN));
    }

    #[test]
    fn a_cache_without_the_last_write_lags_for_a_while() {
        let (mut writes, now) = (StatusWrites::default(), Instant::now());
        let version = |number: u32| number.to_string();
        let lags = |writes: &StatusWrites, number, now| writes.lags(Some(&version(number)), now);
        writes.seen(Some(version(1)), now);
        assert!(!lags(&writes, 1, now));
        for number in 1..=2 {
            writes.wrote(Some(version(number)), Some(version(number + 1)), false, now);
        }
        assert!(lags(&writes, 1, now) && lags(&writes, 2, now));
        assert!(!lags(&writes, 3, now), "the last write");
        assert!(!lags(&writes, 4, now), "a later one of another process");
        assert!(!lags(&writes, 1, now + LONGEST_LAG));
        writes.seen(Some(version(3)), now);
        assert!(writes.replaced.is_empty());
        for number in 3..=20 {
            writes.wrote(Some(version(number)), Some(version(number + 1)), false, now);
        }
        assert_eq!(writes.replaced.len(), MOST_REPLACED);
        assert!(lags(&writes, 20, now));
    }

    #[test]
    fn a_write_of_conditions_is_not_counted() {
        let (mut writes, now) = (StatusWrites::default(), Instant::now());
        for _ in 0..9 {
            writes.wrote(None, None, false, now);
        }
        assert_eq!(writes.wait(now), None);
    }
}
