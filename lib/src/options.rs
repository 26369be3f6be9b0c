//! What all acquisitions have in common.

use std::time::Duration;

use crate::Error;

/// How to hold: how long a lease runs, for how long it may be renewed, and why it is held.
///
/// ```
/// use std::time::Duration;
///
/// let options = tenure::Options::new()
///     .lease(Duration::from_secs(10))
///     .max_hold(Duration::from_secs(600))
///     .reason("nightly training");
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use = "options do nothing until an object uses them: `lock.with(options)`"]
pub struct Options {
    lease: Option<Duration>,
    max_hold: Option<Duration>,
    reason: String,
}

const DEFAULT_LEASE: Duration = Duration::from_secs(30);
const LEASE: std::ops::RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(86_400);
const LONGEST_HOLD: Duration = Duration::from_secs(30 * 86_400);
const LONGEST_REASON: usize = 256;

impl Options {
    /// The defaults: the declared lease, or 30 s for what is not declared; no longest hold; no reason.
    pub fn new() -> Self {
        Self::default()
    }

    /// How long the lease runs when it is not renewed: 100 ms to one day, exact to the millisecond. A declared object's
    /// `leaseDurationSeconds` is the upper bound.
    ///
    /// A crash of the holder keeps others waiting for this long; a pause of the holder, or of Redis, that is longer than
    /// this loses the lease.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = Some(lease);
        self
    }

    /// For how long in all the lease is renewed, up to 30 days, so that a hung holder lets go at last. A declared
    /// object's `maxHoldSeconds` is the upper bound.
    pub fn max_hold(mut self, max_hold: Duration) -> Self {
        self.max_hold = Some(max_hold);
        self
    }

    /// Why it is held, for the people who look: at most 256 bytes.
    pub fn reason(mut self, reason: impl Into<String>) -> Self {
        self.reason = reason.into();
        self
    }

    /// The lease and longest hold in milliseconds, 0 where the declaration decides.
    pub(crate) fn check(&self, declared: bool) -> Result<(u64, u64, &str), Error> {
        let lease = self.lease.or((!declared).then_some(DEFAULT_LEASE));
        if let Some(lease) = lease
            && !LEASE.contains(&lease)
        {
            return Err(Error::invalid(
                "lease",
                format!("is {lease:?}"),
                "use 100 ms to 24 h",
            ));
        }
        if let Some(max_hold) = self.max_hold
            && (max_hold < lease.unwrap_or(*LEASE.start()) || max_hold > LONGEST_HOLD)
        {
            return Err(Error::invalid(
                "max_hold",
                format!("is {max_hold:?}"),
                "use at least one lease and at most 30 days",
            ));
        }
        if self.reason.len() > LONGEST_REASON {
            return Err(Error::invalid(
                "reason",
                format!("has {} bytes", self.reason.len()),
                format!("use at most {LONGEST_REASON}"),
            ));
        }
        Ok((millis(lease), millis(self.max_hold), &self.reason))
    }
}

fn millis(duration: Option<Duration>) -> u64 {
    // In range by the checks above.
    duration.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_checked_with_the_field_and_the_fix() {
        let ms = Duration::from_millis;
        for (options, field) in [
            (Options::new().lease(Duration::ZERO), "lease"),
            (Options::new().lease(ms(99)), "lease"),
            (Options::new().lease(ms(86_400_001)), "lease"),
            (Options::new().max_hold(Duration::ZERO), "max_hold"),
            (Options::new().lease(ms(2000)).max_hold(ms(1999)), "max_hold"),
            (Options::new().reason("x".repeat(257)), "reason"),
        ] {
            let error = options.check(false).unwrap_err().to_string();
            assert!(error.starts_with(field) && error.contains("use "), "{error}");
        }
    }

    #[test]
    fn where_the_declaration_decides_nothing_is_asked_for() {
        assert_eq!(Options::new().check(true).unwrap(), (0, 0, ""));
        assert_eq!(Options::new().check(false).unwrap(), (30_000, 0, ""));
        let all = Options::new()
            .lease(Duration::from_millis(1500))
            .max_hold(Duration::from_secs(9))
            .reason("r");
        assert_eq!(all.check(true).unwrap(), (1500, 9000, "r"));
    }
}
