//! From the server's clock to this process' own (see [`Uptime`](super::uptime::Uptime)), on the safe side.
//!
//! Only spans of the server's clock are used that begin when the script has read it: a lease with the times `now` and
//! `expires` runs for `expires - now` from the execution of that script. The client needs an instant before the
//! execution; the lease's local deadline is that instant and the span. So neither earlier readings of the server's
//! clock nor the delay of an answer matter.
//!
//! - A **reply**: its own request was sent before the execution.
//! - A **push**: no request of ours was on its way. But a server puts replies and pushes into a connection in the order of
//!   execution, and they are read in that order. So the script that granted was executed after the last request whose
//!   reply had come in over the same connection before the push, and that request was sent earlier still. (Before the
//!   first reply: after the connection was begun, for the client subscribes over it.) A queue entry is renewed at a third of its life, so that this is at most some three seconds ago, or a third of a short lease;
//!   the first renewal makes up for it.
//!
//! An earlier pair of a local and a server's time would bound it more closely if the server's clock only went on:
//! `expires` comes no earlier than `sent + (expires - server's time)`. If that clock jumps ahead between the pair and
//! the grant, this bound lies too late by the jump, and the arrival of the push, the only bound from the other side,
//! lies too late by its delay. A late push cannot be distinguished from a jump of that length. That is why such a pair
//! is not used.
//!
//! A jump ahead *after* a grant ends the lease earlier than any bound; the holder is notified by push, or at its next
//! renewal.

use std::{sync::Mutex, time::Duration};

use crate::transport::{lock, uptime::Moment};

/// When a script was asked for, and the server's time when it ran (milliseconds).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) sent: Moment,
    pub(crate) server_ms: u64,
}

/// When the newest request was sent that has been answered over one connection.
#[derive(Debug)]
pub(crate) struct Clock(Mutex<Moment>);

impl Clock {
    pub(crate) fn of_a_connection_begun_at(begun: Moment) -> Self {
        Self(Mutex::new(begun))
    }

    pub(crate) fn answered(&self, sent: Moment) {
        let mut newest = lock(&self.0);
        *newest = (*newest).max(sent);
    }

    /// The local deadline of a lease that was granted by push over this connection.
    pub(crate) fn pushed_deadline(&self, granted_ms: u64, expires_ms: u64) -> Moment {
        after(*lock(&self.0), granted_ms, expires_ms)
    }
}

/// When a script was asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SentAt {
    pub(crate) sent: Moment,
}

impl SentAt {
    /// Adds the server's time in the answer.
    pub(crate) fn answered_at(self, server_ms: u64) -> Sample {
        Sample {
            sent: self.sent,
            server_ms,
        }
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

/// Returns the local deadline of a lease that ends at `expires_ms`, from the reply to a request sent at `sample.sent`.
pub(crate) fn deadline(sample: Sample, expires_ms: u64) -> Moment {
    after(sample.sent, sample.server_ms, expires_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: u64 = 30_000;

    fn second(n: u64) -> Moment {
        Moment::after(Duration::from_secs(n))
    }

    #[test]
    fn the_local_deadline_never_lies_behind_the_servers_expiry() {
        let t0 = second(1000);
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

    /// Granted at 1003 s, whatever the server's clock shows then, and however late the push is.
    #[test]
    fn a_pushed_lease_ends_before_the_servers_expiry_whatever_its_clock_has_said_before() {
        let clock = Clock::of_a_connection_begun_at(second(900));
        clock.answered(second(1000));
        // Noted late: it takes nothing back.
        clock.answered(second(950));
        let true_expiry = second(1003) + Duration::from_millis(LEASE);
        for said in [0, 1_003_000, 4_600_000] {
            let deadline = clock.pushed_deadline(said, said + LEASE);
            assert!(deadline < true_expiry, "{said}");
            assert!(true_expiry - deadline < Duration::from_millis(3050), "{said}");
        }
    }
}
