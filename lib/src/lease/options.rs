//! Options that all acquisitions share.

use std::time::Duration;

use crate::Error;

/// Options of a lease: its length, the time for which it may be renewed, and the reason for which it is held.
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
    grace: Duration,
    priority: i8,
    replicas: u8,
    reason: String,
}

/// Options that have been checked, as the scripts want them: milliseconds, 0 where the declaration decides.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Checked<'a> {
    pub(crate) lease_ms: u64,
    pub(crate) max_hold_ms: u64,
    pub(crate) grace_ms: u64,
    pub(crate) priority: i8,
    pub(crate) reason: &'a str,
}

const DEFAULT_LEASE: Duration = Duration::from_secs(30);
const LEASE: std::ops::RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(86_400);
const LONGEST_HOLD: Duration = Duration::from_secs(30 * 86_400);
const LONGEST_GRACE: Duration = Duration::from_secs(3600);
const LONGEST_REASON: usize = 256;

impl Options {
    /// The defaults: the declared lease, or 30 s for what is not declared; no longest hold; no reason.
    ///
    /// ```
    /// let options = tenure::Options::new();
    /// ```
    pub fn new() -> Self {
        Self::default()
    }

    /// The length of the lease when it is not renewed: 100 ms to one day, exact to the millisecond. A declared object's
    /// `leaseDurationSeconds` is the upper bound.
    ///
    /// A crash of the holder keeps others waiting for this long; a pause of the holder, or of Redis, that is longer than
    /// this loses the lease. It should be several times the longest round trip to Redis: a grant that arrives after its
    /// lease has run out is not returned. The request is then made again, at the end of the queue, for as long as the
    /// caller waits; a caller that waits no longer gets [`Error::Unreachable`].
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let options = tenure::Options::new().lease(Duration::from_secs(10));
    /// ```
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = Some(lease);
        self
    }

    /// For how long in all the lease is renewed, up to 30 days, so that a hung holder lets go at last. A declared
    /// object's `maxHoldSeconds` is the upper bound.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let options = tenure::Options::new().max_hold(Duration::from_secs(3600));
    /// ```
    pub fn max_hold(mut self, max_hold: Duration) -> Self {
        self.max_hold = Some(max_hold);
        self
    }

    /// The time for which the object stays taken after the lease has *expired* (not after a release): up to one hour,
    /// none by default. For resources that cannot check a fencing token: a holder that is late by less than this meets
    /// no other holder. Consul calls it lock-delay. A grace does not outlast a loss of Redis' data by more than the
    /// longest lease.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let options = tenure::Options::new().grace(Duration::from_secs(5));
    /// ```
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// The priority in the queue: a larger number stands before all smaller ones, and behind its equals. 0 by default.
    /// A request with a small number may wait for ever while larger ones keep arriving.
    ///
    /// ```
    /// let options = tenure::Options::new().priority(10);
    /// ```
    pub fn priority(mut self, priority: i8) -> Self {
        self.priority = priority;
        self
    }

    /// The number of replicas that must have acknowledged the lease before the caller gets it: none by default. It
    /// narrows the window in which a failover loses a lease, and does not close it: the fencing token does. It costs
    /// one more command, and a `WAIT`, over a second connection of the client that is made for the first of these; they
    /// take turns on it.
    ///
    /// Acquiring fails with [`Error::NotReplicated`] when fewer have it within half a response timeout, or by the end of a
    /// shorter timeout of the caller, and what was acquired is given back.
    ///
    /// ```
    /// let options = tenure::Options::new().replicas(1);
    /// ```
    pub fn replicas(mut self, replicas: u8) -> Self {
        self.replicas = replicas;
        self
    }

    pub(crate) fn replicas_asked(&self) -> u8 {
        self.replicas
    }

    /// Why it is held, for the people who look: at most 256 bytes.
    ///
    /// ```
    /// let options = tenure::Options::new().reason("nightly training");
    /// ```
    pub fn reason(mut self, reason: impl Into<String>) -> Self {
        self.reason = reason.into();
        self
    }

    pub(crate) fn check(&self, declared: bool) -> Result<Checked<'_>, Error> {
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
        let shortest_hold = lease.unwrap_or(*LEASE.start());
        if let Some(max_hold) = self.max_hold
            && !(shortest_hold..=LONGEST_HOLD).contains(&max_hold)
        {
            return Err(Error::invalid(
                "max_hold",
                format!("is {max_hold:?}"),
                format!("use at least the lease, which is {shortest_hold:?}, and at most 30 days"),
            ));
        }
        check_text("reason", &self.reason)?;
        if self.grace > LONGEST_GRACE {
            return Err(Error::invalid(
                "grace",
                format!("is {:?}", self.grace),
                "use at most one hour",
            ));
        }
        Ok(Checked {
            lease_ms: millis(lease.unwrap_or_default()),
            max_hold_ms: millis(self.max_hold.unwrap_or_default()),
            grace_ms: millis(self.grace),
            priority: self.priority,
            reason: &self.reason,
        })
    }
}

/// A text for the people who look.
pub(crate) fn check_text(field: &'static str, text: &str) -> Result<(), Error> {
    if text.len() <= LONGEST_REASON {
        return Ok(());
    }
    Err(Error::invalid(
        field,
        format!("has {} bytes", text.len()),
        format!("use at most {LONGEST_REASON}"),
    ))
}

fn millis(duration: Duration) -> u64 {
    // In range by the checks above.
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
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
            (Options::new().grace(ms(3_600_001)), "grace"),
        ] {
            let error = options.check(false).unwrap_err().to_string();
            assert!(error.starts_with(field) && error.contains("use "), "{error}");
        }
    }

    #[test]
    fn where_the_declaration_decides_nothing_is_asked_for() {
        let none = Options::new();
        let declared = none.check(true).unwrap();
        assert_eq!(
            (declared.lease_ms, declared.max_hold_ms, declared.reason),
            (0, 0, "")
        );
        assert_eq!(none.check(false).unwrap().lease_ms, 30_000);
        let all = Options::new()
            .lease(Duration::from_millis(1500))
            .max_hold(Duration::from_secs(9))
            .grace(Duration::from_secs(2))
            .priority(-3)
            .reason("r");
        let all = all.check(true).unwrap();
        assert_eq!((all.lease_ms, all.max_hold_ms, all.grace_ms), (1500, 9000, 2000));
        assert_eq!((all.priority, all.reason), (-3, "r"));
    }
}
