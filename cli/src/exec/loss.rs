//! The decision when a command is ended, as a function of the time that its lease has left.
//!
//! A lease is renewed at each third of its length, so that a lease of which less than a third is left has missed two
//! renewals: Redis does not answer, or the longest hold is reached. Then the command is asked to end, so that it has time
//! before the deadline. At the deadline another may be granted the object: the command is killed a little before it.

use std::time::Duration;

/// The action when the lease is lost, or its time runs out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum OnLoss {
    /// SIGTERM, and SIGKILL before the lease's deadline
    Term,
    /// SIGKILL, before the lease's deadline
    Kill,
    /// The command goes on without the lease
    Keep,
}

/// The next action for a command that runs under a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing, until this much time has passed.
    Wait(Duration),
    /// SIGTERM now, and SIGKILL after this time.
    Term { kill_in: Duration },
    /// SIGKILL now.
    Kill,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Policy {
    pub(crate) on_loss: OnLoss,
    /// The longest time from SIGTERM to SIGKILL.
    pub(crate) kill_after: Duration,
}

/// A killed process needs a moment to end.
const MARGIN: Duration = Duration::from_millis(200);
/// Looked at this often at least where no deadline matters.
const IDLE: Duration = Duration::from_secs(5);

impl Policy {
    /// The step of a lease that is not lost yet. `longest` is the most time that it ever had left.
    pub(crate) fn step(self, remaining: Duration, longest: Duration) -> Step {
        let margin = margin(longest);
        match self.on_loss {
            OnLoss::Keep => Step::Wait(IDLE),
            OnLoss::Kill if remaining <= margin => Step::Kill,
            OnLoss::Kill => Step::Wait(remaining.saturating_sub(margin)),
            OnLoss::Term => match remaining.checked_sub(self.grace(longest)) {
                Some(left) if !left.is_zero() => Step::Wait(left),
                _ => self.lost(remaining, longest),
            },
        }
    }

    /// The step once the lease is lost. It may have time left: the server has taken it back.
    pub(crate) fn lost(self, remaining: Duration, longest: Duration) -> Step {
        let kill_in = self.grace(longest).min(remaining.saturating_sub(margin(longest)));
        match self.on_loss {
            OnLoss::Keep => Step::Wait(IDLE),
            OnLoss::Term if !kill_in.is_zero() => Step::Term { kill_in },
            OnLoss::Term | OnLoss::Kill => Step::Kill,
        }
    }

    fn grace(self, longest: Duration) -> Duration {
        self.kill_after.min(longest / 3)
    }
}

fn margin(longest: Duration) -> Duration {
    MARGIN.min(longest / 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn policy(on_loss: OnLoss) -> Policy {
        Policy {
            on_loss,
            kill_after: s(5),
        }
    }

    #[test]
    fn a_lease_that_is_renewed_in_time_is_left_alone() {
        for lease in [1, 3, 30, 3600] {
            for on_loss in [OnLoss::Term, OnLoss::Kill, OnLoss::Keep] {
                let step = policy(on_loss).step(s(lease) * 2 / 3, s(lease));
                assert!(
                    matches!(step, Step::Wait(wait) if !wait.is_zero()),
                    "{lease} {on_loss:?}: {step:?}"
                );
            }
        }
    }

    #[test]
    fn the_command_has_its_grace_before_the_deadline() {
        let term = policy(OnLoss::Term);
        assert_eq!(term.step(s(12), s(30)), Step::Wait(s(7)));
        assert_eq!(
            term.step(s(5), s(30)),
            Step::Term {
                kill_in: s(5).saturating_sub(MARGIN)
            }
        );
        // A short lease has a short grace.
        assert_eq!(term.step(s(2), s(3)), Step::Wait(s(1)));
        let kill_in = Duration::from_millis(850);
        assert_eq!(term.step(s(1), s(3)), Step::Term { kill_in });
    }

    #[test]
    fn nothing_runs_beyond_the_deadline_but_what_is_kept() {
        for lease in [s(1), s(30)] {
            for remaining in [Duration::ZERO, Duration::from_millis(1)] {
                for on_loss in [OnLoss::Term, OnLoss::Kill] {
                    assert_eq!(policy(on_loss).step(remaining, lease), Step::Kill);
                    assert_eq!(policy(on_loss).lost(remaining, lease), Step::Kill);
                }
                assert_eq!(policy(OnLoss::Keep).lost(remaining, lease), Step::Wait(IDLE));
            }
        }
    }

    #[test]
    fn a_lease_that_was_taken_back_early_leaves_the_grace_at_most() {
        assert_eq!(
            policy(OnLoss::Term).lost(s(25), s(30)),
            Step::Term { kill_in: s(5) }
        );
        assert_eq!(policy(OnLoss::Kill).lost(s(25), s(30)), Step::Kill);
    }
}
