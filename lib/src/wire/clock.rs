//! From the server's clock to this process' own (see [`Uptime`](super::uptime::Uptime)), on the safe side.
//!
//! A reply that carries the server's time S was sent for at the local instant t: the server read S no earlier than t.
//! So the server reaches a later time E no earlier than t + (E - S). That bound is a lease's local deadline: the holder
//! stops at it, and the server's expiry lies behind it, however long the reply took.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use super::{lock, uptime::Moment};

/// When the server was asked for the time, and what it said (milliseconds).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) sent: Moment,
    pub(crate) server_ms: u64,
}

/// What one server's clock was last known to be. Each server of a cluster has its own.
#[derive(Debug, Default)]
pub(crate) struct Clock(Mutex<Option<Sample>>);

impl Clock {
    /// Another server may answer at the same address from now on.
    pub(crate) fn forget(&self) {
        *lock(&self.0) = None;
    }

    /// The local deadline of a lease that this server has granted by push: see [`pushed_deadline`].
    pub(crate) fn pushed_deadline(
        &self,
        received: Moment,
        granted_ms: u64,
        expires_ms: u64,
    ) -> Option<Moment> {
        pushed_deadline(*lock(&self.0), received, granted_ms, expires_ms)
    }
}

/// When a server was asked, and whose time its answer will tell.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) sent: Moment,
    pub(crate) clock: Arc<Clock>,
}

impl Asked {
    /// The answer has told the server's time: a sample, which is kept for pushes to come.
    pub(crate) fn told(&self, server_ms: u64) -> Sample {
        let sample = Sample {
            sent: self.sent,
            server_ms,
        };
        *lock(&self.clock.0) = Some(sample);
        sample
    }
}

/// The server truncates its time to milliseconds, and two good clocks differ by less than a thousandth in their pace.
fn margin(span: Duration) -> Duration {
    Duration::from_millis(1) + span / 1000
}

fn after(at: Moment, from_ms: u64, to_ms: u64) -> Moment {
    let span = Duration::from_millis(to_ms.saturating_sub(from_ms));
    at + span.saturating_sub(margin(span))
}

/// The local deadline of a lease that ends at `expires_ms`, told by a reply to a request sent at `sample.sent`.
pub(crate) fn deadline(sample: Sample, expires_ms: u64) -> Moment {
    after(sample.sent, sample.server_ms, expires_ms)
}

/// The same for a lease granted by push: no request of ours was on its way, so an earlier sample bounds the offset.
/// Should the server's clock have jumped ahead since, the push itself bounds it from the other side. None: there is no
/// sample of this connection yet, or the server's clock was set back since, so that only asking can tell.
fn pushed_deadline(
    sample: Option<Sample>,
    received: Moment,
    granted_ms: u64,
    expires_ms: u64,
) -> Option<Moment> {
    let sample = sample.filter(|sample| sample.server_ms <= granted_ms)?;
    Some(deadline(sample, expires_ms).min(after(received, granted_ms, expires_ms)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: u64 = 30_000;

    #[test]
    fn the_local_deadline_never_lies_behind_the_servers_expiry() {
        let t0 = Moment::after(Duration::from_secs(1000));
        // The server reads its clock at any moment between the request and its reply.
        for executed_after in [0, 1, 500, 4_999] {
            let executed = t0 + Duration::from_millis(executed_after);
            let server_expiry = executed + Duration::from_millis(LEASE);
            let sample = Sample {
                sent: t0,
                server_ms: 1_000_000,
            };
            let deadline = deadline(sample, 1_000_000 + LEASE);
            assert!(deadline < server_expiry);
            assert!(
                server_expiry - deadline
                    <= Duration::from_millis(executed_after) + margin(Duration::from_millis(LEASE))
            );
        }
    }

    #[test]
    fn a_late_push_shortens_nothing_and_lengthens_nothing() {
        let t0 = Moment::after(Duration::from_secs(1000));
        let sample = Sample {
            sent: t0,
            server_ms: 1_000_000,
        };
        // Granted 5 s after the sample, received another 7 s later: the true expiry is t0 + 5 s + lease.
        let received = t0 + Duration::from_secs(12);
        let deadline = pushed_deadline(Some(sample), received, 1_005_000, 1_005_000 + LEASE).unwrap();
        let true_expiry = t0 + Duration::from_secs(5) + Duration::from_millis(LEASE);
        assert!(deadline < true_expiry);
        assert!(true_expiry - deadline < Duration::from_millis(50));
    }

    #[test]
    fn a_server_clock_that_jumped_ahead_does_not_move_the_deadline_out() {
        let t0 = Moment::after(Duration::from_secs(1000));
        let sample = Sample {
            sent: t0,
            server_ms: 1_000_000,
        };
        let hour = 3_600_000;
        let deadline = pushed_deadline(Some(sample), t0, 1_000_000 + hour, 1_000_000 + hour + LEASE);
        assert!(deadline.unwrap() < t0 + Duration::from_millis(LEASE));
    }

    #[test]
    fn a_push_that_no_sample_bounds_has_no_deadline() {
        let t0 = Moment::after(Duration::from_secs(1000));
        assert_eq!(pushed_deadline(None, t0, 1_000_000, 1_000_000 + LEASE), None);
        // Set back by an hour: by the sample, the lease would have ended long ago.
        let sample = Sample {
            sent: t0,
            server_ms: 1_000_000 + 3_600_000,
        };
        assert_eq!(
            pushed_deadline(Some(sample), t0, 1_000_000, 1_000_000 + LEASE),
            None
        );
    }
}
