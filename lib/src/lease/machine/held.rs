//! The life of a lease, from its grant until it is lost.

use std::{fmt, time::Duration};

use crate::{
    protocol::message::{End, How},
    transport::uptime::Moment,
};

/// The state of a lease.
///
/// ```
/// # fn watch(lease: &tenure::Lease) {
/// if let tenure::LeaseState::Lost { cause } = lease.state() {
///     eprintln!("stop working: {cause}");
/// }
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LeaseState {
    /// It is ours until its deadline, and is being renewed.
    Held,
    /// The lease is ours until its deadline, but the last renewal had no answer, or an error as its answer. The renewal is
    /// repeated until the deadline. After a broken connection the state changes at the next renewal, at a third of the
    /// remaining time at the latest, and not at the moment of the break. It becomes [`LeaseState::Held`] with the first
    /// renewal that succeeds, and [`LeaseState::Lost`] at the deadline.
    Unsure {
        /// The error of the last renewal.
        reason: String,
    },
    /// The lease has ended: another client may hold.
    Lost {
        /// Why.
        cause: String,
    },
}

impl fmt::Display for LeaseState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Held => f.write_str("Held"),
            Self::Unsure { reason } => write!(f, "Unsure: {reason}"),
            Self::Lost { cause } => write!(f, "Lost: {cause}"),
        }
    }
}

const LONGEST_HOLD: &str = "it has come to its longest hold";
const OUTRUN: &str = "its deadline has passed without a renewal";
const GONE: &str = "Redis does not have it any more: it ran out, or its keys were removed";
const DATA_LOST: &str = "Redis has lost the object";
const CLOSED: &str = "the client cannot be used any more: the runtime in which it was made has ended";

#[derive(Debug)]
pub(crate) enum Event {
    /// A renewal: the server has the lease until the deadline.
    Confirmed {
        deadline: Moment,
        /// The longest hold ends at the deadline.
        is_last: bool,
    },
    /// The renewal of the queue entry, sent before the grant, has met the lease on the server.
    Extended { deadline: Moment },
    /// A renewal had no answer, or an error: the lease may still run.
    NoAnswer { reason: String },
    /// A renewal: the server has lost the declared object, which is not declared again yet.
    ObjectMissing,
    /// A renewal: the declared object recovers from a loss of data, and admits its holders.
    Recovering,
    /// A renewal: the server does not have the lease any more.
    Gone,
    /// A push: the server has ended the lease.
    Ended(End),
    /// A script has found that the lease has ended.
    Refused { cause: String },
    /// The machine was suspended.
    Suspended,
    /// The client cannot be used any more.
    Closed,
}

#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Action {
    None,
    /// Renew the lease in time: so much is left.
    Renew {
        left: Duration,
    },
    /// Renew it soon, because the last renewal had no answer.
    Retry,
    /// Readmit the holder, and renew the lease soon, in case that this has no answer.
    Readmit,
    /// Forget the lease, and give it back: its holder counts it as lost, so that others would wait for its expiry.
    GiveBack,
    /// Forget the lease.
    Forget,
}

/// The state of a lease between two events, as this client knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Status {
    deadline: Moment,
    state: LeaseState,
    /// The longest hold ends at the deadline.
    is_last: bool,
}

impl Status {
    pub(crate) fn granted(deadline: Moment) -> Self {
        Self {
            deadline,
            state: LeaseState::Held,
            is_last: false,
        }
    }

    pub(crate) fn deadline(&self) -> Moment {
        self.deadline
    }

    pub(crate) fn is_lost(&self) -> bool {
        matches!(self.state, LeaseState::Lost { .. })
    }

    /// The cause of a loss that was noted.
    pub(crate) fn cause(&self) -> Option<&str> {
        match &self.state {
            LeaseState::Lost { cause } => Some(cause),
            LeaseState::Held | LeaseState::Unsure { .. } => None,
        }
    }

    /// Returns the state at a time. The deadline counts even if no task has had the time to note it: this is how a process
    /// that was paused learns of the loss.
    pub(crate) fn at(&self, now: Moment) -> LeaseState {
        match &self.state {
            LeaseState::Held | LeaseState::Unsure { .. } if self.deadline <= now => {
                let cause = match &self.state {
                    _ if self.is_last => LONGEST_HOLD.to_owned(),
                    LeaseState::Unsure { reason } => format!("{OUTRUN}: {reason}"),
                    _ => OUTRUN.to_owned(),
                };
                LeaseState::Lost { cause }
            }
            state => state.clone(),
        }
    }

    pub(crate) fn on(&mut self, event: Event, now: Moment) -> Action {
        let is_over = self.deadline <= now;
        match event {
            // A caller that has looked since the deadline has seen a lost lease, and it stays lost, even if the server still
            // has it.
            Event::Confirmed { .. } if is_over || self.is_lost() => {
                let _ = self.lose("it was renewed too late".to_owned());
                Action::GiveBack
            }
            _ if self.is_lost() => Action::Forget,
            Event::Confirmed { deadline, is_last } => {
                *self = Self {
                    deadline,
                    state: LeaseState::Held,
                    is_last,
                };
                // Also when the deadline did not move: a lease that was shortened moves again later. One at its longest
                // hold does not, which costs a few renewals more.
                Action::Renew { left: deadline - now }
            }
            Event::Extended { deadline } => {
                if !is_over {
                    self.deadline = self.deadline.max(deadline);
                }
                Action::None
            }
            Event::NoAnswer { reason } => self.doubt(&reason, now),
            Event::ObjectMissing => self.doubt(DATA_LOST, now),
            Event::Recovering => match self.doubt(DATA_LOST, now) {
                Action::Retry => Action::Readmit,
                // Past its deadline the lease may have another holder by now.
                over => over,
            },
            Event::Gone => self.expire(GONE.to_owned()),
            Event::Ended(end) if end.how == How::Expired => self.expire(end.to_string()),
            Event::Ended(end) => self.lose(end.to_string()),
            Event::Refused { cause } => self.lose(cause),
            Event::Suspended if is_over => {
                self.expire("the machine was suspended past its deadline".to_owned())
            }
            Event::Suspended => Action::None,
            Event::Closed => {
                self.become_unsure(CLOSED);
                Action::None
            }
        }
    }

    fn doubt(&mut self, reason: &str, now: Moment) -> Action {
        self.become_unsure(reason);
        if self.deadline <= now {
            return self.expire(format!("it could not be renewed in time: {reason}"));
        }
        Action::Retry
    }

    fn become_unsure(&mut self, reason: &str) {
        if self.state == LeaseState::Held {
            self.state = LeaseState::Unsure {
                reason: reason.to_owned(),
            };
        }
    }

    /// The lease has ended without another client: for this cause, unless it has come to its longest hold.
    fn expire(&mut self, cause: String) -> Action {
        self.lose(if self.is_last {
            LONGEST_HOLD.to_owned()
        } else {
            cause
        })
    }

    fn lose(&mut self, cause: String) -> Action {
        if !self.is_lost() {
            self.state = LeaseState::Lost { cause };
        }
        Action::Forget
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(n: u64) -> Moment {
        Moment::after(Duration::from_secs(n))
    }

    /// A lease of thirty seconds.
    fn held() -> Status {
        Status::granted(second(30))
    }

    fn unsure() -> Status {
        Status {
            state: LeaseState::Unsure {
                reason: "no answer".to_owned(),
            },
            ..held()
        }
    }

    fn confirmed(deadline: u64) -> Event {
        Event::Confirmed {
            deadline: second(deadline),
            is_last: false,
        }
    }

    fn no_answer() -> Event {
        Event::NoAnswer {
            reason: "no answer".to_owned(),
        }
    }

    fn ended(how: How) -> Event {
        let why = String::new();
        Event::Ended(End { how, why })
    }

    fn lost(cause: &str) -> LeaseState {
        LeaseState::Lost {
            cause: cause.to_owned(),
        }
    }

    #[test]
    fn a_confirmed_lease_is_held_until_its_new_deadline() {
        for mut status in [held(), unsure()] {
            let left = Duration::from_secs(30);
            assert_eq!(status.on(confirmed(40), second(10)), Action::Renew { left });
            assert_eq!(status, Status::granted(second(40)));
        }
    }

    #[test]
    fn a_lease_that_is_confirmed_past_its_deadline_stays_lost_and_is_given_back() {
        for mut status in [held(), unsure()] {
            assert_eq!(status.on(confirmed(60), second(30)), Action::GiveBack);
            assert_eq!(status.at(second(30)), lost("it was renewed too late"));
            assert_eq!(
                status.on(confirmed(70), second(40)),
                Action::GiveBack,
                "a second reply"
            );
        }
    }

    #[test]
    fn a_lease_without_an_answer_is_unsure_until_its_deadline() {
        for event in [no_answer as fn() -> Event, || Event::ObjectMissing] {
            let mut status = held();
            assert_eq!(status.on(event(), second(29)), Action::Retry);
            assert!(matches!(status.at(second(29)), LeaseState::Unsure { .. }));
            assert_eq!(status.on(event(), second(30)), Action::Forget);
            assert!(status.is_lost());
        }
    }

    #[test]
    fn the_first_reason_of_an_unsure_lease_is_kept() {
        let mut status = unsure();
        assert_eq!(status.on(Event::ObjectMissing, second(1)), Action::Retry);
        assert_eq!(status, unsure());
    }

    #[test]
    fn a_holder_is_readmitted_before_its_deadline_and_not_after() {
        let mut status = held();
        assert_eq!(status.on(Event::Recovering, second(29)), Action::Readmit);
        assert!(!status.is_lost());
        assert_eq!(status.on(Event::Recovering, second(30)), Action::Forget);
        assert!(status.is_lost());
    }

    #[test]
    fn a_lease_that_the_server_has_ended_is_lost_with_the_cause() {
        for (event, cause) in [
            (Event::Gone, GONE),
            (ended(How::Expired), "expired"),
            (ended(How::Taken), "taken over"),
            (
                Event::Refused {
                    cause: "not held".to_owned(),
                },
                "not held",
            ),
        ] {
            let mut status = unsure();
            assert_eq!(status.on(event, second(1)), Action::Forget);
            assert_eq!(status.at(second(1)), lost(cause));
        }
    }

    #[test]
    fn a_lost_lease_keeps_its_cause_whatever_comes_late() {
        let mut status = held();
        let _ = status.on(ended(How::Taken), second(1));
        for event in [
            Event::Gone,
            ended(How::Expired),
            no_answer(),
            Event::ObjectMissing,
            Event::Recovering,
            Event::Suspended,
            Event::Closed,
            Event::Extended { deadline: second(90) },
        ] {
            assert_eq!(status.on(event, second(2)), Action::Forget);
        }
        assert_eq!(status.on(confirmed(90), second(2)), Action::GiveBack);
        assert_eq!(status.at(second(2)), lost("taken over"));
        assert_eq!(status.deadline(), second(30));
    }

    #[test]
    fn the_longest_hold_is_the_cause_of_an_expiry_but_not_of_a_takeover() {
        let last = || {
            let mut status = held();
            let event = Event::Confirmed {
                deadline: second(40),
                is_last: true,
            };
            let _ = status.on(event, second(10));
            status
        };
        assert_eq!(last().at(second(40)), lost(LONGEST_HOLD));
        for event in [Event::Gone, ended(How::Expired), no_answer()] {
            let mut status = last();
            let _ = status.on(event, second(40));
            assert_eq!(status.at(second(40)), lost(LONGEST_HOLD));
        }
        let mut taken = last();
        let _ = taken.on(ended(How::Taken), second(20));
        assert_eq!(taken.at(second(20)), lost("taken over"));
    }

    #[test]
    fn a_state_is_shown_with_its_reason() {
        assert_eq!(held().at(second(1)).to_string(), "Held");
        assert_eq!(unsure().at(second(1)).to_string(), "Unsure: no answer");
        assert_eq!(lost("taken over").to_string(), "Lost: taken over");
    }

    #[test]
    fn the_deadline_counts_without_an_event() {
        assert_eq!(held().at(second(29)), LeaseState::Held);
        assert_eq!(held().at(second(30)), lost(OUTRUN));
        assert_eq!(
            unsure().at(second(30)),
            lost("its deadline has passed without a renewal: no answer")
        );
    }

    #[test]
    fn a_renewal_of_the_queue_entry_moves_a_deadline_out_and_never_in() {
        let extended = |deadline| Event::Extended {
            deadline: second(deadline),
        };
        let mut status = held();
        assert_eq!(status.on(extended(20), second(1)), Action::None);
        assert_eq!(status.deadline(), second(30));
        assert_eq!(status.on(extended(40), second(1)), Action::None);
        assert_eq!(status.deadline(), second(40));
        assert_eq!(status.on(extended(90), second(40)), Action::None);
        assert_eq!(status.deadline(), second(40), "past its deadline");
    }

    #[test]
    fn a_suspend_past_the_deadline_loses_the_lease() {
        let mut status = held();
        assert_eq!(status.on(Event::Suspended, second(29)), Action::None);
        assert_eq!(status, held());
        assert_eq!(status.on(Event::Suspended, second(30)), Action::Forget);
        assert_eq!(
            status.at(second(30)),
            lost("the machine was suspended past its deadline")
        );
    }

    #[test]
    fn a_lease_of_a_closed_client_is_unsure_until_its_deadline() {
        let mut status = held();
        assert_eq!(status.on(Event::Closed, second(1)), Action::None);
        assert!(matches!(status.at(second(1)), LeaseState::Unsure { .. }));
        assert!(matches!(status.at(second(30)), LeaseState::Lost { .. }));
    }
}
