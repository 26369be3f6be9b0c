//! Watches the command and its lease until the command has ended.

use std::time::Duration;

use rustix::process::Signal;
use tenure::{Lease, LeaseState};
use tokio::time::{Instant, sleep_until};

use crate::{
    exec::{
        child::Child,
        loss::{OnLoss, Policy, Step, kill_in},
        signals::{self, Signals},
    },
    report,
};

/// The end of a command.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Its exit code, as a shell reports it.
    pub(crate) code: u8,
    /// Why the lease was lost, or its time ran out, before the command had ended.
    pub(crate) lost: Option<String>,
    /// The command was asked to end by a signal, so that its exit code is not its outcome.
    pub(crate) interrupted: bool,
}

/// The shortest time between two steps.
const POLL: Duration = Duration::from_millis(10);
/// The time that the guardian has to kill the command, and to end.
const PATIENCE: Duration = Duration::from_millis(200);

pub(crate) async fn supervise(
    child: &mut Child,
    lease: &Lease,
    policy: Policy,
    signals: &mut Signals,
) -> Ended {
    let mut watched = Watched {
        longest: lease.remaining(),
        lost: None,
        kill_at: None,
    };
    let mut interrupted = false;
    while !child.reap() {
        let wake = watched.act(child, lease, policy);
        tokio::select! {
            biased;
            _ = signals.child.recv() => {}
            signal = signals.passed_on.next() => {
                interrupted |= signals::ends(signal);
                child.signal(signal);
                child.continue_guardian();
            }
            cause = lease.lost(), if watched.lost.is_none() => watched.lose(child, lease, policy, cause),
            () = sleep_until(wake) => {}
        }
    }
    if watched.lost.is_none() {
        // It may have been the guardian that has ended the command.
        watched.lost = lease.check().err().map(|_| cause(lease));
        if let Some(cause) = &watched.lost {
            report(format_args!("the lease of {} was lost: {cause}", lease.object()));
        }
    }
    Ended {
        code: child.code().unwrap_or(1),
        lost: watched.lost,
        interrupted,
    }
}

struct Watched {
    /// The most time that the lease ever had left.
    longest: Duration,
    lost: Option<String>,
    kill_at: Option<Instant>,
}

impl Watched {
    /// Does what is due, and returns when the next step may be due.
    fn act(&mut self, child: &mut Child, lease: &Lease, policy: Policy) -> Instant {
        let now = Instant::now();
        if self.lost.is_some() {
            return match self.kill_at {
                Some(at) if at + PATIENCE <= now => {
                    child.kill_guardian();
                    self.kill_at = None;
                    now
                }
                Some(at) if at <= now => {
                    child.signal(Signal::KILL);
                    at + PATIENCE
                }
                Some(at) => at,
                None => now + Duration::from_secs(5),
            };
        }
        let remaining = lease.remaining();
        self.longest = self.longest.max(remaining);
        let guarded = kill_in(remaining, self.longest);
        child.guard_until(guarded);
        match policy.step(remaining, self.longest) {
            // The guardian hears of a renewal long before the end that it knows.
            Step::Wait(time) => now + time.min((guarded / 2).max(POLL)),
            step => {
                self.begin_to_end(child, lease, step, policy, cause(lease));
                now
            }
        }
    }

    fn lose(&mut self, child: &mut Child, lease: &Lease, policy: Policy, cause: String) {
        let step = policy.lost(lease.remaining(), self.longest);
        self.begin_to_end(child, lease, step, policy, cause);
    }

    fn begin_to_end(&mut self, child: &mut Child, lease: &Lease, step: Step, policy: Policy, cause: String) {
        match step {
            Step::Wait(_) => {}
            Step::Term { kill_in } => {
                child.signal(Signal::TERM);
                self.kill_at = Some(Instant::now() + kill_in);
            }
            Step::Kill => {
                child.signal(Signal::KILL);
                self.kill_at = Some(Instant::now());
            }
        }
        let action = match policy.on_loss {
            OnLoss::Keep => "the command goes on without it",
            OnLoss::Term | OnLoss::Kill => "the command is ended",
        };
        let object = lease.object();
        report(format_args!("the lease of {object} is lost, {action}: {cause}"));
        self.lost = Some(cause);
    }
}

/// Why a lease that is not lost yet has little time left, or has none.
fn cause(lease: &Lease) -> String {
    match lease.state() {
        LeaseState::Lost { cause } => cause,
        LeaseState::Unsure { reason } => format!("it was not renewed in time: {reason}"),
        // A call that has no answer yet looks like a lease that is renewed no more.
        _ => "it was not renewed in time: Redis does not answer, or the longest hold is reached".to_owned(),
    }
}
