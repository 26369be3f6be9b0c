//! The signals that `tenure exec` passes on.

use std::{fs, io};

use rustix::process::Signal as Number;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Signals that end a program. A terminal sends them to all processes of a group, and so does `tenure`.
const ENDING: [Number; 4] = [Number::TERM, Number::INT, Number::HUP, Number::QUIT];
/// Signals with a meaning of the program's own: for the command alone.
const OWN: [Number; 2] = [Number::USR1, Number::USR2];

/// Does the signal ask a program to end?
pub(crate) fn ends(number: Number) -> bool {
    ENDING.contains(&number)
}

/// The signals that arrive at this process, from the start on: one that arrives before the command runs is kept.
pub(crate) struct Signals {
    pub(crate) passed_on: PassedOn,
    /// A child of this process has ended.
    pub(crate) child: Signal,
}

pub(crate) struct PassedOn(Vec<(Number, Signal)>);

impl Signals {
    pub(crate) fn listen() -> io::Result<Self> {
        let ignored = ignored(&fs::read_to_string("/proc/self/status").unwrap_or_default());
        let passed_on = ENDING
            .into_iter()
            .chain(OWN)
            // As under nohup: the command ignores it, too.
            .filter(|number| !is_in(ignored, *number))
            .map(|number| Ok((number, signal(SignalKind::from_raw(number.as_raw()))?)))
            .collect::<io::Result<_>>()?;
        Ok(Self {
            passed_on: PassedOn(passed_on),
            child: signal(SignalKind::child())?,
        })
    }

    /// As [`PassedOn::ending`].
    pub(crate) async fn ending(&mut self) -> Number {
        self.passed_on.ending().await
    }
}

impl PassedOn {
    /// Waits for the next signal. Cancel safe.
    pub(crate) async fn next(&mut self) -> Number {
        std::future::poll_fn(|context| {
            for (number, signal) in &mut self.0 {
                if signal.poll_recv(context).is_ready() {
                    return std::task::Poll::Ready(*number);
                }
            }
            std::task::Poll::Pending
        })
        .await
    }

    /// Waits for the next signal that asks to end. Cancel safe; other signals are dropped.
    pub(crate) async fn ending(&mut self) -> Number {
        loop {
            let number = self.next().await;
            if ends(number) {
                return number;
            }
        }
    }
}

/// The mask of ignored signals, of `/proc/self/status`.
fn ignored(status: &str) -> u64 {
    status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}

fn is_in(mask: u64, number: Number) -> bool {
    u32::try_from(number.as_raw() - 1).is_ok_and(|bit| mask.checked_shr(bit).unwrap_or(0) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_that_was_ignored_at_the_start_stays_ignored() {
        let mask = ignored("Name:\tx\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000001001\n");
        assert!(is_in(mask, Number::HUP));
        assert!(!is_in(mask, Number::TERM));
        assert_eq!(ignored("on another system"), 0);
    }
}
