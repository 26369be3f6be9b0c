//! The life of a queue entry, from the first request of its token until the request takes up a lease or ends.

use std::time::Duration;

use crate::{
    lease::machine::request::Granted,
    protocol::message::{End, How},
};

/// The event that ends the wait of a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum WaiterEvent {
    Granted(Granted),
    /// The queue entry is in doubt, or the push was lost: the request asks again with the same token.
    AskAgain,
    Removed(End),
}

#[derive(Debug)]
pub(crate) enum Event {
    /// A push: the server has granted the lease.
    Granted(Granted),
    /// A push: the server has removed the queue entry.
    Removed(End),
    /// A push: a call has left work, which the renewal of a queue entry continues.
    Unfinished,
    /// A push: the lease that the token was granted has ended.
    Ended(End),
    /// A reply: the entry stands for so long, and the next lease of another client may expire after `wake`.
    Confirmed { ttl: Duration, wake: Duration },
    /// A renewal: the server does not have the entry any more. A push may be lost, or the server's data.
    Missing,
    /// A renewal had no answer.
    NoAnswer,
    /// The server denies the credentials of the client.
    Denied,
    /// The client cannot be used any more.
    Closed,
}

#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Action {
    None,
    /// Send the event to the request, and renew the entry no more.
    Resolve(WaiterEvent),
    /// Renew the entry in time for its life, and when the next lease may have expired.
    Renew {
        ttl: Duration,
        wake: Duration,
    },
    RenewNow,
    /// Renew the entry soon, because the last renewal had no answer.
    Retry,
}

/// The state of a queue entry between two events.
#[derive(Debug, Default)]
pub(crate) struct QueueEntry {
    /// The event that ends the wait was sent. The future of the request has not been polled since.
    resolved: bool,
    /// The lease of the token has ended before its request took it up.
    ended: Option<End>,
}

impl QueueEntry {
    pub(crate) fn on(&mut self, event: Event) -> Action {
        match event {
            Event::Ended(end) => {
                self.ended = Some(end);
                Action::None
            }
            // The event may be late, and the token a lease by now.
            _ if self.resolved => Action::None,
            Event::Granted(granted) => self.resolve(WaiterEvent::Granted(granted)),
            // The entry has expired while it could not be renewed; its request is still here, and gets another one.
            Event::Removed(end) if end.how == How::Expired => self.resolve(WaiterEvent::AskAgain),
            Event::Removed(end) => self.resolve(WaiterEvent::Removed(end)),
            // After the end of the client the request asks again, and gets the error. Where credentials are denied, it waits for others
            // as long as there may be some, and then gets the error.
            Event::Missing | Event::Closed | Event::Denied => self.resolve(WaiterEvent::AskAgain),
            Event::Unfinished => Action::RenewNow,
            Event::Confirmed { ttl, wake } => Action::Renew { ttl, wake },
            Event::NoAnswer => Action::Retry,
        }
    }

    fn resolve(&mut self, event: WaiterEvent) -> Action {
        self.resolved = true;
        // An end that was published before is that of an earlier grant to this token.
        self.ended = None;
        Action::Resolve(event)
    }

    /// Returns the end of the lease of the token, if it has ended before its request took it up.
    pub(crate) fn ended(&self) -> Option<&End> {
        self.ended.as_ref()
    }

    /// Returns whether the lease has expired before its request took it up: the request may ask for another one.
    pub(crate) fn has_run_out(&self) -> bool {
        self.ended.as_ref().is_some_and(|end| end.how == How::Expired)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::machine::granted;

    fn end(how: How) -> End {
        End {
            how,
            why: String::new(),
        }
    }

    #[test]
    fn each_event_of_a_waiting_entry_has_its_action() {
        let (ttl, wake) = (Duration::from_secs(10), Duration::from_secs(1));
        for (event, expected) in [
            (
                Event::Granted(granted(1)),
                Action::Resolve(WaiterEvent::Granted(granted(1))),
            ),
            (
                Event::Removed(end(How::Expired)),
                Action::Resolve(WaiterEvent::AskAgain),
            ),
            (
                Event::Removed(end(How::Reclaimed)),
                Action::Resolve(WaiterEvent::Removed(end(How::Reclaimed))),
            ),
            (Event::Missing, Action::Resolve(WaiterEvent::AskAgain)),
            (Event::Closed, Action::Resolve(WaiterEvent::AskAgain)),
            (Event::Denied, Action::Resolve(WaiterEvent::AskAgain)),
            (Event::Unfinished, Action::RenewNow),
            (Event::Confirmed { ttl, wake }, Action::Renew { ttl, wake }),
            (Event::NoAnswer, Action::Retry),
            (Event::Ended(end(How::Expired)), Action::None),
        ] {
            let named = format!("{event:?}");
            assert_eq!(QueueEntry::default().on(event), expected, "{named}");
        }
    }

    #[test]
    fn a_resolved_entry_resolves_no_second_time_and_is_not_renewed() {
        let mut entry = QueueEntry::default();
        let _ = entry.on(Event::Granted(granted(1)));
        let (ttl, wake) = (Duration::from_secs(10), Duration::from_secs(1));
        for event in [
            Event::Granted(granted(1)),
            Event::Granted(granted(2)),
            Event::Removed(end(How::Withdrawn)),
            Event::Missing,
            Event::Closed,
            Event::Unfinished,
            Event::Confirmed { ttl, wake },
            Event::NoAnswer,
        ] {
            let named = format!("{event:?}");
            assert_eq!(entry.on(event), Action::None, "{named}");
        }
    }

    #[test]
    fn the_end_of_a_lease_is_noted_until_its_request_takes_it_up() {
        let mut entry = QueueEntry::default();
        let _ = entry.on(Event::Granted(granted(1)));
        assert_eq!(entry.on(Event::Ended(end(How::Taken))), Action::None);
        assert_eq!(entry.ended(), Some(&end(How::Taken)));
        assert!(
            !entry.has_run_out(),
            "a lease that was taken over is no reason to ask again"
        );
        let _ = entry.on(Event::Ended(end(How::Expired)));
        assert!(entry.has_run_out());
    }

    #[test]
    fn the_end_of_an_earlier_grant_is_not_that_of_a_later_one() {
        let mut entry = QueueEntry::default();
        let _ = entry.on(Event::Ended(end(How::Expired)));
        // The push of that grant is lost; this is a later one.
        let _ = entry.on(Event::Granted(granted(2)));
        assert_eq!(entry.ended(), None);
    }
}
