//! The times at which the leases and queue entries of a client are renewed.
//!
//! They are ordered by time, so that neither a wake-up nor a new entry looks at all of them. After a reconnect, or a suspend
//! of the machine, all of them are overdue: they are set aside in their order, and taken in parts, leases first.

use std::{collections::BTreeSet, time::Duration};

use tokio::time::Instant;

use crate::protocol::secret::{ByToken, Token};

/// The entries, in the order in which they are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
    Lease,
    QueueEntry,
}

/// The entries that are taken at once, at most, so that the registry is not locked for long.
const PART: usize = 1000;

/// Entries that are due within this time are renewed along with those that are due now.
pub(super) const COALESCE: Duration = Duration::from_millis(50);
/// While Redis does not answer, or does not know the object, a renewal is tried this often.
pub(super) const RETRY: Duration = Duration::from_millis(200);
/// Nothing is renewed more often, however little time is left.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(20);

type Key = (Class, Instant, Token);

#[derive(Default)]
pub(super) struct Schedule {
    keys: ByToken<Key>,
    overdue: BTreeSet<Key>,
    leases: BTreeSet<Key>,
    queue_entries: BTreeSet<Key>,
}

impl Schedule {
    pub(super) fn set(&mut self, token: &Token, class: Class, at: Instant) {
        self.unset(token);
        let key = (class, at, token.clone());
        self.keys.insert(token.clone(), key.clone());
        match class {
            Class::Lease => self.leases.insert(key),
            Class::QueueEntry => self.queue_entries.insert(key),
        };
    }

    pub(super) fn unset(&mut self, token: &str) {
        if let Some(key) = self.keys.remove(token) {
            let found = match key.0 {
                Class::Lease => self.leases.remove(&key),
                Class::QueueEntry => self.queue_entries.remove(&key),
            };
            if !found {
                self.overdue.remove(&key);
            }
        }
    }

    /// All that stands here is due, in the order in which it would have been.
    pub(super) fn hurry(&mut self) {
        for times in [&mut self.leases, &mut self.queue_entries] {
            self.overdue.append(times);
        }
    }

    /// When the next one is due. It may be past.
    pub(super) fn next(&self, now: Instant) -> Option<Instant> {
        if !self.overdue.is_empty() {
            return Some(now);
        }
        let first = |times: &BTreeSet<Key>| times.first().map(|(_, at, _)| *at);
        first(&self.leases)
            .into_iter()
            .chain(first(&self.queue_entries))
            .min()
    }

    /// Takes what is due, and what is due so soon that `slack` allows for it to go along; not all at once where it is much.
    pub(super) fn take(&mut self, now: Instant, slack: impl Fn(&Token) -> Duration) -> Vec<Token> {
        let mut taken = Vec::new();
        while taken.len() < PART
            && let Some((_, _, token)) = self.overdue.pop_first()
        {
            taken.push(token);
        }
        for times in [&mut self.leases, &mut self.queue_entries] {
            let mut left = PART;
            while left > 0
                && let Some((_, at, token)) = times.first()
                && *at <= now + slack(token)
                && let Some((_, _, token)) = times.pop_first()
            {
                taken.push(token);
                left -= 1;
            }
        }
        for token in &taken {
            self.keys.remove(token);
        }
        taken
    }
}

/// Returns the time until the next renewal of a lease: a third of the rest.
pub(super) fn held_interval(token: &Token, left: Duration) -> Duration {
    jittered(token, left / 3).max(SHORTEST_INTERVAL)
}

/// Returns the time until the first renewal of a lease. Over a slow connection a grant has lost much of its time when it
/// arrives; the lease is renewed at once.
pub(super) fn first_interval(token: &Token, left: Duration, granted: Duration) -> Duration {
    if left < granted / 2 {
        return Duration::ZERO;
    }
    held_interval(token, left)
}

/// Returns the time until the next renewal of a queue entry: a third of its life, or just after the next lease expires, which
/// may be a dead holder's; zero where the server has left work for the next call.
pub(super) fn waiting_interval(token: &Token, ttl: Duration, wake: Duration) -> Duration {
    if wake.is_zero() {
        return wake;
    }
    let after_expiry = wake + Duration::from_millis(2);
    jittered(token, ttl / 3).min(after_expiry).max(SHORTEST_INTERVAL)
}

/// Up to a tenth earlier, by the token, so that the leases of many clients do not all come due together.
fn jittered(token: &Token, span: Duration) -> Duration {
    let byte = token.bytes().last().map_or(0, u32::from) % 16;
    span.saturating_sub(span * byte / 160)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_entry_is_renewed_at_a_third_of_its_life_or_when_a_lease_expires() {
        let token: Token = "0".into();
        let (ttl, millis) = (Duration::from_secs(9), Duration::from_millis);
        for (wake, expected) in [
            (ttl, Duration::from_secs(3)),
            (millis(500), millis(502)),
            (millis(1), SHORTEST_INTERVAL),
            (Duration::ZERO, Duration::ZERO),
        ] {
            assert_eq!(waiting_interval(&token, ttl, wake), expected);
        }
    }

    #[test]
    fn a_lease_that_arrives_late_is_renewed_at_once() {
        let (token, second) = (Token::from("0"), Duration::from_secs);
        assert_eq!(first_interval(&token, second(29), second(30)), second(29) / 3);
        assert_eq!(first_interval(&token, second(14), second(30)), Duration::ZERO);
    }

    fn token(n: usize) -> Token {
        format!("{n:05}").into()
    }

    #[test]
    fn what_is_due_comes_in_parts_leases_first_and_each_once() {
        let (mut schedule, now) = (Schedule::default(), Instant::now());
        let later = now + Duration::from_secs(10);
        for n in 0..5000 {
            let class = if n % 2 == 0 {
                Class::Lease
            } else {
                Class::QueueEntry
            };
            let at = later + Duration::from_millis(n as u64);
            schedule.set(&token(n), class, at);
        }
        let none = |_: &Token| Duration::ZERO;
        assert!(schedule.take(now, none).is_empty());
        assert_eq!(schedule.next(now), Some(later));
        schedule.hurry();
        assert_eq!(schedule.next(now), Some(now));
        // Given back meanwhile, and set anew.
        schedule.unset(&token(0));
        schedule.set(&token(2), Class::Lease, later);
        let mut all = Vec::new();
        while !schedule.overdue.is_empty() {
            let part = schedule.take(now, none);
            assert!(part.len() <= PART);
            all.extend(part);
        }
        let leases = (4..5000).step_by(2).map(token);
        let queue_entries = (1..5000).step_by(2).map(token);
        assert!(all.into_iter().eq(leases.chain(queue_entries)));
        assert_eq!(schedule.take(later, none), [token(2)]);
        assert!(schedule.keys.is_empty() && schedule.next(now).is_none());
    }
}
