//! The life of a request, until its caller has a lease, an answer that it gets none, or an error.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    Error,
    protocol::message::Grant,
    transport::{router::Failed, uptime::Moment},
};

/// The time for which a waiting request waits for an object to be declared: for the first time, or again after a loss of
/// data.
const DECLARE_GRACE: Duration = Duration::from_secs(5);
const DECLARE_POLL: Duration = Duration::from_millis(100);

/// The time for which a request waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    Not,
    Until(Instant),
    Forever,
}

impl Wait {
    pub(crate) fn end(self) -> Option<Instant> {
        match self {
            Self::Until(at) => Some(at),
            Self::Not | Self::Forever => None,
        }
    }

    /// Returns whether there is no time for another attempt, after the first.
    pub(crate) fn is_over(self, now: Instant) -> bool {
        match self {
            Self::Not => true,
            Self::Until(at) => at <= now,
            Self::Forever => false,
        }
    }
}

/// A lease that the server has granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Granted {
    pub(crate) grant: Grant,
    pub(crate) deadline: Moment,
}

#[derive(Debug)]
pub(crate) enum Event {
    Granted {
        granted: Granted,
        /// The lease had ended before this client knew of it, so that another client may hold.
        has_run_out: bool,
    },
    /// The request has a queue entry. The call has looked at one of so many parts of the free resources.
    Queued { parts: u64 },
    /// The permits are held, and the request does not wait. Parts: as of [`Event::Queued`].
    Busy { parts: u64 },
    /// The call has left work, which may free permits.
    Unfinished,
    Failed {
        failed: Failed,
        /// The server answers other calls.
        is_connected: bool,
    },
    /// A push may be lost, or the queue entry.
    InDoubt,
    /// The server has removed the queue entry.
    Removed(Error),
    /// The time to wait is over.
    TimeOver,
}

#[derive(Debug)]
#[must_use]
pub(crate) enum Action {
    /// Send the request, with the same token, after this time.
    Ask {
        after: Duration,
    },
    /// Listen to the events of the queue entry.
    Listen,
    TakeUp(Granted),
    /// Leave the queue.
    Leave,
    /// There is no lease.
    End {
        outcome: Result<(), Error>,
        /// `false`: the server may have a lease or a queue entry of the token, which is given back.
        took_nothing: bool,
    },
}

const ASK_NOW: Action = Action::Ask {
    after: Duration::ZERO,
};

/// The state of a request between two events.
#[derive(Debug)]
pub(crate) struct RequestState {
    wait: Wait,
    /// Until when the parts of one answer are asked for, one after another.
    patience: Instant,
    /// The request was sent before, so that an error proves less.
    was_sent: bool,
    /// The parts of the free resources that were looked at in vain.
    looks: u64,
    undeclared_since: Option<Instant>,
}

impl RequestState {
    pub(crate) fn new(wait: Wait, patience: Instant, was_sent: bool) -> Self {
        Self {
            wait,
            patience,
            was_sent,
            looks: 0,
            undeclared_since: None,
        }
    }

    pub(crate) fn on(&mut self, event: Event, now: Instant) -> Action {
        let was_sent = std::mem::replace(&mut self.was_sent, true);
        if !matches!(event, Event::Failed { .. }) {
            self.undeclared_since = None;
        }
        match event {
            Event::Failed { failed, is_connected } => self.failed(failed, was_sent, is_connected, now),
            Event::Granted {
                granted,
                has_run_out: false,
            } => Action::TakeUp(granted),
            Event::Granted { .. } if self.wait.is_over(now) => Action::End {
                outcome: Err(Error::Unreachable {
                    reason: "the grant arrived after the lease had run out: ask for a longer lease"
                        .to_owned(),
                }),
                took_nothing: false,
            },
            Event::Queued { .. } if self.wait == Wait::Not => Action::End {
                outcome: Err(Error::protocol("queued without having asked for it")),
                took_nothing: false,
            },
            // Resources that are freed from now on are offered to the queue entry; the request itself must look at those
            // that were free before.
            Event::Queued { parts } if self.looks_again(parts) => ASK_NOW,
            Event::Queued { .. } => Action::Listen,
            Event::Busy { parts } if now < self.patience && self.looks_again(parts) => ASK_NOW,
            Event::Unfinished if now < self.patience => ASK_NOW,
            Event::Busy { .. } | Event::Unfinished => Action::End {
                outcome: Ok(()),
                took_nothing: true,
            },
            Event::Granted { .. } | Event::InDoubt => ASK_NOW,
            Event::Removed(error) => Action::End {
                outcome: Err(error),
                took_nothing: true,
            },
            Event::TimeOver => Action::Leave,
        }
    }

    fn looks_again(&mut self, parts: u64) -> bool {
        let more = self.looks + 1 < parts;
        self.looks += u64::from(more);
        more
    }

    fn failed(&mut self, failed: Failed, was_sent: bool, is_connected: bool, now: Instant) -> Action {
        let Failed { error, repeated } = failed;
        let waits = self.wait != Wait::Not;
        if matches!(error, Error::NotDeclared { .. }) && waits {
            let since = *self.undeclared_since.get_or_insert(now);
            if now < since + DECLARE_GRACE && !self.wait.is_over(now) {
                return Action::Ask { after: DECLARE_POLL };
            }
        }
        // The server had answered before, and is connected: the time has ended while the caller waited for the next answer.
        if waits && was_sent && is_connected && error.is_unreachable() && self.wait.is_over(now) {
            return Action::End {
                outcome: Ok(()),
                took_nothing: false,
            };
        }
        Action::End {
            took_nothing: took_nothing(&error, repeated || was_sent),
            outcome: Err(error),
        }
    }
}

/// Returns whether an error proves that its request has taken nothing: a named error of the protocol does, and so does
/// a request that was not sent, and a server that refuses a script before it runs, if the request was not sent before
/// (`repeated`). Any other error may have followed the effects, or replaced the reply.
pub(crate) fn took_nothing(error: &Error, repeated: bool) -> bool {
    match error {
        Error::NotDeclared { .. }
        | Error::Lost { .. }
        | Error::NoSuchResource { .. }
        | Error::TooLarge { .. }
        | Error::InvalidInput { .. } => true,
        // For an error of a command within a script, the server names the script.
        Error::Refused { reason } => {
            let before = ["OOM ", "NOPERM ", "DENIED "]
                .iter()
                .any(|code| reason.starts_with(code));
            before && !repeated && !reason.contains("script: ")
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Kind, ObjectRef, lease::machine};

    const RESPONSE_TIMEOUT: Duration = Duration::from_secs(3);

    fn granted(has_run_out: bool) -> Event {
        Event::Granted {
            granted: machine::granted(1),
            has_run_out,
        }
    }

    fn failed(error: Error) -> Event {
        Event::Failed {
            failed: error.into(),
            is_connected: false,
        }
    }

    fn not_declared() -> Error {
        Error::NotDeclared {
            object: ObjectRef::new(Kind::Semaphore, "ml", "x").unwrap(),
        }
    }

    fn unreachable() -> Error {
        Error::Unreachable {
            reason: "no answer".to_owned(),
        }
    }

    /// A request at its first event.
    fn request(wait: Wait) -> (RequestState, Instant) {
        let now = Instant::now();
        (RequestState::new(wait, now + RESPONSE_TIMEOUT, false), now)
    }

    fn asks(action: &Action, after: Duration) -> bool {
        matches!(action, Action::Ask { after: wait } if *wait == after)
    }

    #[track_caller]
    fn assert_ends(action: Action, expected: Result<(), &str>, expected_nothing: bool) {
        let Action::End {
            outcome,
            took_nothing,
        } = action
        else {
            panic!("{action:?}")
        };
        match (&outcome, expected) {
            (Ok(()), Ok(())) => {}
            (Err(error), Err(text)) if error.to_string().contains(text) => {}
            _ => panic!("{outcome:?} instead of {expected:?}"),
        }
        assert_eq!(took_nothing, expected_nothing, "{outcome:?}");
    }

    #[test]
    fn a_grant_is_taken_up_before_its_deadline() {
        let (mut request, now) = request(Wait::Not);
        assert!(matches!(request.on(granted(false), now), Action::TakeUp(_)));
    }

    #[test]
    fn a_grant_that_has_run_out_is_asked_for_again_while_there_is_time() {
        let (mut waiting, now) = request(Wait::Until(Instant::now() + RESPONSE_TIMEOUT));
        assert!(asks(&waiting.on(granted(true), now), Duration::ZERO));
        let over = now + RESPONSE_TIMEOUT;
        assert_ends(waiting.on(granted(true), over), Err("had run out"), false);
        let (mut once, now) = request(Wait::Not);
        assert_ends(once.on(granted(true), now), Err("had run out"), false);
    }

    #[test]
    fn each_part_of_the_free_resources_is_looked_at_once() {
        for (wait, event) in [
            (
                Wait::Forever,
                (|parts| Event::Queued { parts }) as fn(u64) -> Event,
            ),
            (Wait::Not, |parts| Event::Busy { parts }),
        ] {
            let (mut request, now) = request(wait);
            assert!(asks(&request.on(event(3), now), Duration::ZERO));
            assert!(asks(&request.on(event(3), now), Duration::ZERO));
            let last = request.on(event(3), now);
            match wait {
                Wait::Not => assert_ends(last, Ok(()), true),
                _ => assert!(matches!(last, Action::Listen), "{last:?}"),
            }
        }
    }

    #[test]
    fn a_request_that_does_not_wait_looks_for_no_longer_than_a_response_timeout() {
        let (mut busy, now) = request(Wait::Not);
        let busy = busy.on(Event::Busy { parts: 9 }, now + RESPONSE_TIMEOUT);
        assert_ends(busy, Ok(()), true);
        let (mut unfinished, now) = request(Wait::Not);
        assert!(asks(&unfinished.on(Event::Unfinished, now), Duration::ZERO));
        let unfinished = unfinished.on(Event::Unfinished, now + RESPONSE_TIMEOUT);
        assert_ends(unfinished, Ok(()), true);
    }

    #[test]
    fn a_queue_entry_of_a_request_that_does_not_wait_is_an_error_and_is_given_back() {
        let (mut request, now) = request(Wait::Not);
        assert_ends(request.on(Event::Queued { parts: 1 }, now), Err("queued"), false);
    }

    #[test]
    fn a_lost_push_is_asked_for_and_a_removal_ends_the_request() {
        let (mut request, now) = request(Wait::Forever);
        assert!(matches!(
            request.on(Event::Queued { parts: 1 }, now),
            Action::Listen
        ));
        assert!(asks(&request.on(Event::InDoubt, now), Duration::ZERO));
        assert!(matches!(request.on(Event::TimeOver, now), Action::Leave));
        assert_ends(
            request.on(Event::Removed(not_declared()), now),
            Err("not declared"),
            true,
        );
    }

    #[test]
    fn a_waiting_request_waits_five_seconds_for_a_declaration() {
        let (mut waiting, now) = request(Wait::Forever);
        assert!(asks(&waiting.on(failed(not_declared()), now), DECLARE_POLL));
        let at = |seconds| now + Duration::from_secs(seconds);
        assert!(asks(&waiting.on(failed(not_declared()), at(4)), DECLARE_POLL));
        // Declared, and lost again: the time begins anew.
        assert!(matches!(
            waiting.on(Event::Queued { parts: 1 }, at(4)),
            Action::Listen
        ));
        assert!(asks(&waiting.on(failed(not_declared()), at(6)), DECLARE_POLL));
        assert_ends(
            waiting.on(failed(not_declared()), at(11)),
            Err("not declared"),
            true,
        );
        let (mut short, now) = request(Wait::Until(Instant::now() + Duration::from_secs(1)));
        assert_ends(
            short.on(failed(not_declared()), now + Duration::from_secs(1)),
            Err("not declared"),
            true,
        );
        let (mut once, now) = request(Wait::Not);
        assert_ends(once.on(failed(not_declared()), now), Err("not declared"), true);
    }

    #[test]
    fn no_answer_until_the_end_of_the_wait_is_no_error_if_the_server_answers_others() {
        let no_answer = |is_connected| Event::Failed {
            failed: unreachable().into(),
            is_connected,
        };
        let end = Instant::now() + RESPONSE_TIMEOUT;
        for (was_sent, is_connected, at, expected) in [
            (true, true, end, Ok(())),
            (false, true, end, Err("no answer")),
            (true, false, end, Err("no answer")),
            (true, true, end - Duration::from_millis(1), Err("no answer")),
        ] {
            let mut request = RequestState::new(Wait::Until(end), end, was_sent);
            assert_ends(request.on(no_answer(is_connected), at), expected, false);
        }
    }

    #[test]
    fn a_refusal_before_the_script_proves_nothing_if_the_request_was_sent_before() {
        let refused = || {
            failed(Error::Refused {
                reason: "OOM command not allowed when used memory > 'maxmemory'.".to_owned(),
            })
        };
        let (mut first, now) = request(Wait::Forever);
        assert_ends(first.on(refused(), now), Err("OOM"), true);
        let (mut second, now) = request(Wait::Forever);
        assert!(asks(&second.on(granted(true), now), Duration::ZERO));
        assert_ends(second.on(refused(), now), Err("OOM"), false);
    }

    #[test]
    fn only_a_named_refusal_proves_that_nothing_was_taken() {
        let object = ObjectRef::new(Kind::Lock, "ml", "x").unwrap();
        let reason = || "ERR too many results to unpack".to_owned();
        for error in [
            Error::Refused { reason: reason() },
            Error::Unreachable { reason: reason() },
            Error::Protocol { reply: reason() },
            Error::Refused {
                reason: "NOPERM No permissions to access a channel script: 12ab, on @user_script:7."
                    .to_owned(),
            },
            // Redis 7.0, for a command within the script.
            Error::Refused {
                reason:
                    "ERR The user executing the script can't run this command or subcommand script: 12ab, on \
                         @user_script:7."
                        .to_owned(),
            },
        ] {
            assert!(!took_nothing(&error, false), "{error}");
        }
        for error in [
            Error::Refused {
                reason: "OOM command not allowed when used memory > 'maxmemory'.".to_owned(),
            },
            not_declared(),
            Error::TooLarge {
                object,
                asked: 5,
                limit: 3,
            },
        ] {
            assert!(took_nothing(&error, false), "{error}");
            let by_the_server = matches!(error, Error::Refused { .. });
            assert_eq!(took_nothing(&error, true), !by_the_server, "{error}");
        }
    }
}
