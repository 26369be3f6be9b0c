//! A clock that goes on while the machine is suspended.
//!
//! Tokio's clock, like the standard library's, stands still in a suspend on Linux and on Apple's systems, while the
//! server's goes on: a lease of 30 s would look young after a night. So what is compared with the server's clock is
//! measured in moments of this clock: `CLOCK_BOOTTIME` on Linux and Android, `CLOCK_MONOTONIC` on Apple's systems, where
//! it counts the suspend. On Windows tokio's clock counts it. On other systems the suspend is not counted, and a lease
//! seems to last longer by it.
//!
//! Timers, and what is not compared with the server's clock, stay with tokio's clock. The twin's clients have both in
//! virtual time: tokio's clock, and how long [`Memory::suspend`](crate::Memory::suspend) has stopped it.

use std::{
    fmt,
    ops::{Add, Sub},
    time::Duration,
};

use tokio::time::Instant;

use crate::transport::later;

/// The time since the client began, suspends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(Duration);

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(span))
    }
}

/// The time from another moment to this one; zero if the other is later.
impl Sub for Moment {
    type Output = Duration;

    fn sub(self, other: Self) -> Duration {
        self.0.saturating_sub(other.0)
    }
}

pub(crate) struct Uptime {
    origin: Instant,
    source: Source,
}

enum Source {
    /// The reading of the system's clock at the origin. `None`: the system has no clock that counts suspends.
    System(Option<Duration>),
    /// Tokio's clock, and for how long the clients of a local server have been suspended.
    Virtual(Box<dyn Fn() -> Duration + Send + Sync>),
}

impl fmt::Debug for Uptime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uptime").finish_non_exhaustive()
    }
}

impl Uptime {
    pub(crate) fn system() -> Self {
        Self {
            origin: Instant::now(),
            source: Source::System(since_boot()),
        }
    }

    #[allow(dead_code, reason = "for the feature `memory`")]
    pub(crate) fn with_suspends(suspended: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        Self {
            origin: Instant::now(),
            source: Source::Virtual(Box::new(suspended)),
        }
    }

    pub(crate) fn now(&self) -> Moment {
        let awake = self.origin.elapsed();
        Moment(match &self.source {
            Source::System(Some(origin)) => since_boot().map_or(awake, |now| now.saturating_sub(*origin)),
            Source::System(None) => awake,
            Source::Virtual(suspended) => awake + suspended(),
        })
    }

    /// For how long the machine has been suspended so far, from any beginning.
    pub(crate) fn suspended(&self) -> Duration {
        let awake = self.origin.elapsed();
        (self.now() - Moment(Duration::ZERO)).saturating_sub(awake)
    }

    /// When a moment comes by tokio's clock, unless the machine is suspended until then. The same moment is always the same
    /// instant, until the machine is suspended.
    pub(crate) fn instant(&self, moment: Moment) -> Instant {
        // The two clocks are not read at once, and whole milliseconds hide that. A timer must not fire before its moment, so
        // that the instant is less than a millisecond late rather than early.
        let suspended = u64::try_from(self.suspended().as_millis()).unwrap_or(u64::MAX);
        let suspended = Duration::from_millis(suspended);
        let awake = moment.0.saturating_sub(suspended);
        self.origin.checked_add(awake).unwrap_or_else(|| later(awake))
    }
}

#[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
fn since_boot() -> Option<Duration> {
    use nix::time::{ClockId, clock_gettime};
    #[cfg(target_vendor = "apple")]
    const CLOCK: ClockId = ClockId::CLOCK_MONOTONIC;
    #[cfg(not(target_vendor = "apple"))]
    const CLOCK: ClockId = ClockId::CLOCK_BOOTTIME;
    clock_gettime(CLOCK).ok().map(Duration::from)
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
fn since_boot() -> Option<Duration> {
    None
}

#[cfg(test)]
impl Moment {
    pub(crate) fn after(span: Duration) -> Self {
        Self(span)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_clock_goes_on_and_a_moment_is_an_instant() {
        let uptime = Uptime::system();
        let first = uptime.now();
        assert!(uptime.now() >= first);
        let second = Duration::from_secs(1);
        let early = Instant::now();
        let later = uptime.instant(uptime.now() + second);
        // The clocks were not read at once.
        let jitter = Duration::from_millis(1);
        assert!(later + jitter >= early + second, "{:?}", later - early);
        assert!(uptime.instant(first) <= Instant::now());
        assert_eq!(uptime.instant(first), uptime.instant(first));
    }
}
