//! When what a client holds and waits for has to be renewed.
//!
//! Ordered by time, so that neither a wake-up nor a new entry looks at all of them. After a reconnect, or a suspend of the
//! machine, all that stands here is overdue: it is set aside as it is, in its order, and taken in parts, leases first.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use tokio::time::Instant;

use crate::protocol::secret::Token;

/// The entries, in the order in which they are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
    Lease,
    ObjectKeys,
}

/// Taken at once, at most, so that the ledger is not locked for long.
const PART: usize = 1000;

type Key = (Class, Instant, Token);

#[derive(Default)]
pub(super) struct Schedule {
    keys: HashMap<Token, Key>,
    overdue: BTreeSet<Key>,
    leases: BTreeSet<Key>,
    places: BTreeSet<Key>,
}

impl Schedule {
    pub(super) fn set(&mut self, token: &Token, class: Class, at: Instant) {
        self.unset(token);
        let key = (class, at, token.clone());
        self.keys.insert(token.clone(), key.clone());
        match class {
            Class::Lease => self.leases.insert(key),
            Class::ObjectKeys => self.places.insert(key),
        };
    }

    pub(super) fn unset(&mut self, token: &str) {
        if let Some(key) = self.keys.remove(token) {
            let found = match key.0 {
                Class::Lease => self.leases.remove(&key),
                Class::ObjectKeys => self.places.remove(&key),
            };
            if !found {
                self.overdue.remove(&key);
            }
        }
    }

    /// All that stands here is due, in the order in which it would have been.
    pub(super) fn hurry(&mut self) {
        for times in [&mut self.leases, &mut self.places] {
            self.overdue.append(times);
        }
    }

    /// When the next one is due. It may be past.
    pub(super) fn next(&self, now: Instant) -> Option<Instant> {
        if !self.overdue.is_empty() {
            return Some(now);
        }
        let first = |times: &BTreeSet<Key>| times.first().map(|(_, at, _)| *at);
        first(&self.leases).into_iter().chain(first(&self.places)).min()
    }

    /// Takes what is due, and what is due so soon that `slack` allows for it to go along; not all at once where it is much.
    pub(super) fn take(&mut self, now: Instant, slack: impl Fn(&Token) -> Duration) -> Vec<Token> {
        let mut taken = Vec::new();
        while taken.len() < PART
            && let Some((_, _, token)) = self.overdue.pop_first()
        {
            taken.push(token);
        }
        for times in [&mut self.leases, &mut self.places] {
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

#[cfg(test)]
mod tests {
    use super::*;

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
                Class::ObjectKeys
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
        let places = (1..5000).step_by(2).map(token);
        assert!(all.into_iter().eq(leases.chain(places)));
        assert_eq!(schedule.take(later, none), [token(2)]);
        assert!(schedule.keys.is_empty() && schedule.next(now).is_none());
    }
}
