//! The registry of the leases and waiting requests of a client. Pushes arrive here, and the renewer reads from here
//! which entries are due.
//!
//! The [state machines](crate::lease::machine) decide what follows from an event. The registry finds the entry of a token,
//! passes the event and the time to its machine, and carries out the action: it schedules renewals, resolves requests and
//! forgets entries. Actions that need the server go back to the [renewer](crate::lease::renewer).
//!
//! A token is entered before its request is sent, because its push may arrive before the reply has been looked at.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};
use tracing::{debug, warn};

use crate::{
    lease::{
        hold::Hold,
        machine::{
            held,
            queue_entry::{self, QueueEntry, WaiterEvent},
            request::Granted,
        },
        object_keys::ObjectKeys,
        schedule::{COALESCE, Class, RETRY, Schedule, first_interval, held_interval, waiting_interval},
        telemetry,
    },
    protocol::{
        calls::Renewed,
        message::{self, End, Push},
        secret::{ByToken, Token},
        slot, unusable,
    },
    transport::{
        clock::{self, Clock, Sample},
        connection::Receiver,
        later, lock,
        uptime::{Moment, Uptime},
    },
};

enum Entry {
    /// A request that has no lease yet.
    Waiting {
        target: Arc<ObjectKeys>,
        state: QueueEntry,
        /// Absent once the request is resolved.
        request: Option<oneshot::Sender<WaiterEvent>>,
    },
    Held {
        hold: Arc<Hold>,
    },
}

impl Entry {
    fn target(&self) -> &Arc<ObjectKeys> {
        match self {
            Self::Waiting { target, .. } => target,
            Self::Held { hold } => &hold.target,
        }
    }

    fn class(&self) -> Class {
        match self {
            Self::Held { .. } => Class::Lease,
            Self::Waiting { .. } => Class::QueueEntry,
        }
    }

    /// Returns by how much the entry may be renewed early, along with others: a tenth of the time between two renewals
    /// of a lease, so that leases taken one by one come due in a few big batches.
    fn slack(&self, now: Moment) -> Duration {
        match self {
            Self::Waiting { .. } => COALESCE,
            Self::Held { hold, .. } => {
                let left = hold.status.borrow().deadline() - now;
                COALESCE.max(left / 20)
            }
        }
    }
}

/// An entry that is due for a renewal.
pub(crate) struct Item {
    pub(crate) token: Token,
    pub(crate) target: Arc<ObjectKeys>,
    /// Absent: a queue entry.
    pub(crate) hold: Option<Arc<Hold>>,
}

/// A suspend of the machine is noticed after so long at most, by one wake-up for all entries.
const LOOK_FOR_SUSPEND: Duration = Duration::from_secs(1);
/// Two clocks cannot be read at the same instant: a smaller difference is none.
const SHORTEST_SUSPEND: Duration = Duration::from_millis(50);
/// The life of a queue entry without a renewal, in milliseconds. A lease that is handed off to a waiter lives no longer
/// until its client has renewed it.
const SHORTEST_QUEUE_ENTRY_TTL_MS: u64 = 10_000;
const LONGEST_QUEUE_ENTRY_TTL_MS: u64 = 30_000;

pub(crate) struct LeaseRegistry {
    pub(crate) uptime: Arc<Uptime>,
    entries: Mutex<Entries>,
    changed: Notify,
    closed: AtomicBool,
}

#[derive(Default)]
struct Entries {
    by_token: ByToken<Entry>,
    schedule: Schedule,
    /// Until when the renewal sleeps; it is woken only for what comes due before.
    asleep_until: Option<Instant>,
    /// Slots whose server has changed, so that pushes are missed until their entries are renewed.
    moved: HashSet<u16>,
    /// For how long the machine was suspended when that was last looked at.
    suspended: Duration,
}

impl Entries {
    fn remove(&mut self, token: &Token) {
        self.schedule.unset(token);
        self.by_token.remove(token);
    }

    /// Makes the entries due whose slots have moved.
    fn hurry_moved(&mut self, now: Instant) {
        let moved = std::mem::take(&mut self.moved);
        if moved.is_empty() {
            return;
        }
        for (token, entry) in &self.by_token {
            let key = entry.target().keys.first();
            if key.is_some_and(|key| moved.contains(&slot::of(key))) {
                self.schedule.set(token, entry.class(), now);
            }
        }
    }

    fn holds(&self) -> Vec<Arc<Hold>> {
        let entries = self.by_token.values();
        let holds = entries.filter_map(|entry| match entry {
            Entry::Held { hold } => Some(hold.clone()),
            Entry::Waiting { .. } => None,
        });
        holds.collect()
    }
}

impl LeaseRegistry {
    pub(crate) fn new(uptime: Arc<Uptime>) -> Self {
        let entries = Entries {
            suspended: uptime.suspended(),
            ..Entries::default()
        };
        Self {
            uptime,
            entries: Mutex::new(entries),
            changed: Notify::default(),
            closed: AtomicBool::default(),
        }
    }

    /// Enters the token of a request, and returns the event that will end its wait.
    pub(crate) fn enter(&self, token: &Token, target: &Arc<ObjectKeys>) -> oneshot::Receiver<WaiterEvent> {
        let (request, event) = oneshot::channel();
        let entry = Entry::Waiting {
            target: target.clone(),
            state: QueueEntry::default(),
            request: Some(request),
        };
        let mut entries = lock(&self.entries);
        if entries.by_token.insert(token.clone(), entry).is_some() {
            entries.schedule.unset(token);
        }
        event
    }

    /// Returns the life of a new queue entry without a renewal, in milliseconds. A client with more than 10,000 leases
    /// and queue entries requests a millisecond for each, up to 30 s, so that renewals do not take up the server.
    pub(crate) fn queue_entry_ttl_ms(&self) -> u64 {
        let entries = lock(&self.entries).by_token.len() as u64;
        entries.clamp(SHORTEST_QUEUE_ENTRY_TTL_MS, LONGEST_QUEUE_ENTRY_TTL_MS)
    }

    /// Notes that the server has confirmed a queue entry.
    pub(crate) fn queued(&self, token: &Token, ttl: Duration, wake: Duration) {
        self.on_queue_entry(token, queue_entry::Event::Confirmed { ttl, wake });
    }

    /// Returns whether the lease that this waiting request was granted has expired on the server.
    pub(crate) fn has_run_out(&self, token: &Token) -> bool {
        let entries = lock(&self.entries);
        matches!(entries.by_token.get(token), Some(Entry::Waiting { state, .. }) if state.has_run_out())
    }

    /// Enters a lease in place of its request.
    pub(crate) fn hold(&self, hold: &Arc<Hold>) {
        let token = &hold.token;
        let left = hold.status.borrow().deadline() - self.uptime.now();
        let granted = Duration::from_millis(hold.grant.expires.saturating_sub(hold.grant.now));
        let due = later(first_interval(token, left, granted));
        let ended = {
            let mut entries = lock(&self.entries);
            let entry = Entry::Held { hold: hold.clone() };
            let before = entries.by_token.insert(token.clone(), entry);
            self.set_due_as(&mut entries, token, Class::Lease, due);
            match before {
                Some(Entry::Waiting { state, .. }) => state.ended().cloned(),
                _ => None,
            }
        };
        if let Some(end) = ended {
            let _ = self.on_lease(hold, held::Event::Ended(end));
        }
    }

    pub(crate) fn forget(&self, token: &Token) {
        lock(&self.entries).remove(token);
    }

    /// Like `forget`, but leaves a lease that the request has become.
    pub(crate) fn forget_waiting(&self, token: &Token) {
        let mut entries = lock(&self.entries);
        if matches!(entries.by_token.get(token), Some(Entry::Waiting { .. })) {
            entries.remove(token);
        }
    }

    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.changed.notify_one();
    }

    fn set_due(&self, token: &Token, at: Instant) {
        self.set_due_in(&mut lock(&self.entries), token, at);
    }

    fn set_due_in(&self, entries: &mut Entries, token: &Token, at: Instant) {
        if let Some(class) = entries.by_token.get(token).map(Entry::class) {
            self.set_due_as(entries, token, class, at);
        }
    }

    fn set_due_as(&self, entries: &mut Entries, token: &Token, class: Class, at: Instant) {
        entries.schedule.set(token, class, at);
        if entries.asleep_until.is_none_or(|wakes| at < wakes) {
            self.changed.notify_one();
        }
    }

    /// Waits until something is due, and takes it out of the schedule until its outcome is noted. Nearest deadline
    /// first. None when the client is closed.
    pub(crate) async fn due(&self) -> Option<Vec<Item>> {
        loop {
            if self.closed.load(Ordering::Acquire) {
                return None;
            }
            self.notice_suspend();
            let now = Instant::now();
            let next = match self.take_due(now) {
                Ok(items) => return Some(items),
                Err(next) => next,
            };
            match next {
                Some(at) => {
                    tokio::select! {
                        () = tokio::time::sleep_until(at) => {}
                        () = self.changed.notified() => {}
                    }
                }
                None => self.changed.notified().await,
            }
        }
    }

    /// After a suspend of the machine all timers are late by it. So everything is renewed at once, and a caller that waits
    /// for a loss looks again.
    fn notice_suspend(&self) {
        let suspended = self.uptime.suspended();
        let holds = {
            let mut entries = lock(&self.entries);
            if suspended.saturating_sub(entries.suspended) < SHORTEST_SUSPEND {
                return;
            }
            entries.suspended = suspended;
            entries.schedule.hurry();
            entries.holds()
        };
        debug!(leases = holds.len(), "the machine was suspended");
        for hold in holds {
            let _ = self.on_lease(&hold, held::Event::Suspended);
        }
    }

    fn take_due(&self, now: Instant) -> Result<Vec<Item>, Option<Instant>> {
        let mut entries = lock(&self.entries);
        entries.hurry_moved(now);
        let next = entries.schedule.next(now);
        if next.is_none_or(|at| at > now) {
            // While there are leases, a suspend of the machine is looked for now and then.
            let look = (!entries.by_token.is_empty()).then(|| now + LOOK_FOR_SUSPEND);
            entries.asleep_until = next.into_iter().chain(look).min();
            return Err(entries.asleep_until);
        }
        entries.asleep_until = next;
        let moment = self.uptime.now();
        let Entries {
            by_token, schedule, ..
        } = &mut *entries;
        let slack = |token: &Token| by_token.get(token).map_or(COALESCE, |entry| entry.slack(moment));
        let taken = schedule.take(now, slack);
        let item = |token: Token| {
            let (target, hold) = match by_token.get(&token)? {
                Entry::Waiting { target, .. } => (target.clone(), None),
                Entry::Held { hold, .. } => (hold.target.clone(), Some(hold.clone())),
            };
            Some(Item { token, target, hold })
        };
        let mut items: Vec<Item> = taken.into_iter().filter_map(item).collect();
        // Leases before queue entries, and the nearest deadline first.
        items.sort_by_cached_key(|item| {
            let deadline = item.hold.as_ref().map(|hold| hold.status.borrow().deadline());
            (deadline.is_none(), deadline)
        });
        Ok(items)
    }

    /// Notes the outcome of a renewal that was sent at `sample.sent`. The returned action needs the server.
    pub(crate) fn renewed(&self, item: &Item, outcome: Renewed, sample: Sample) -> held::Action {
        if !lock(&self.entries).by_token.contains_key(&item.token) {
            return held::Action::None; // given back while the renewal was on its way
        }
        if let Renewed::Held { newest, .. } | Renewed::Waiting { newest, .. } = outcome {
            item.target.saw_newest(newest);
        }
        let Some(hold) = &item.hold else {
            self.queue_entry_renewed(item, &outcome, sample);
            return held::Action::None;
        };
        let event = match outcome {
            Renewed::Held { expires, is_last, .. } => held::Event::Confirmed {
                deadline: clock::deadline(sample, expires),
                is_last,
            },
            Renewed::Recovering if hold.grant.declared => held::Event::Recovering,
            Renewed::Missing if hold.grant.declared => held::Event::ObjectMissing,
            Renewed::Failed { error } => held::Event::NoAnswer {
                reason: unusable::error(&item.target.keys, error).to_string(),
            },
            _ => held::Event::Gone,
        };
        self.on_lease(hold, event)
    }

    fn queue_entry_renewed(&self, item: &Item, outcome: &Renewed, sample: Sample) {
        // Meanwhile a push may have made the request a lease, and this renewal extended it.
        let granted = match lock(&self.entries).by_token.get(&item.token) {
            Some(Entry::Held { hold }) => Some(hold.clone()),
            _ => None,
        };
        match (granted, outcome) {
            (Some(hold), Renewed::Held { expires, .. }) if hold.grant.now < sample.server_ms => {
                let deadline = clock::deadline(sample, *expires);
                let _ = self.on_lease(&hold, held::Event::Extended { deadline });
            }
            (Some(_), _) => {}
            (None, Renewed::Waiting { expires, wake, .. }) => {
                let ttl = Duration::from_millis(expires.saturating_sub(sample.server_ms));
                self.queued(&item.token, ttl, Duration::from_millis(*wake));
            }
            (None, _) => self.on_queue_entry(&item.token, queue_entry::Event::Missing),
        }
    }

    /// Notes that a renewal had no answer.
    pub(crate) fn not_renewed(&self, item: &Item, reason: &str) {
        match &item.hold {
            Some(hold) => {
                let reason = reason.to_owned();
                let _ = self.on_lease(hold, held::Event::NoAnswer { reason });
            }
            None => self.on_queue_entry(&item.token, queue_entry::Event::NoAnswer),
        }
    }

    /// Notes that the server has denied the credentials of the renewal of a queue entry.
    pub(crate) fn denied(&self, item: &Item) {
        self.on_queue_entry(&item.token, queue_entry::Event::Denied);
    }

    /// Notes that a script has found the lease ended.
    pub(crate) fn lost(&self, hold: &Hold, cause: &str) {
        let cause = cause.to_owned();
        let _ = self.on_lease(hold, held::Event::Refused { cause });
    }

    fn on_lease(&self, hold: &Hold, event: held::Event) -> held::Action {
        let now = self.uptime.now();
        let (mut action, mut was_lost) = (held::Action::None, false);
        hold.status.send_modify(|status| {
            was_lost = status.is_lost();
            action = status.on(event, now);
        });
        match action {
            held::Action::Renew { left } => {
                self.set_due(&hold.token, later(held_interval(&hold.token, left)));
            }
            held::Action::Retry | held::Action::Readmit => self.set_due(&hold.token, later(RETRY)),
            held::Action::GiveBack | held::Action::Forget => self.forget(&hold.token),
            held::Action::None => {}
        }
        if !was_lost && let Some(cause) = hold.status.borrow().cause() {
            telemetry::lost(hold.target.object.kind());
            warn!(object = %hold.target.object, fence = hold.grant.fence, cause, "a lease is lost");
        }
        action
    }

    /// Passes the event to the queue entry of a token. A token that does not wait any more is left alone.
    fn on_queue_entry(&self, token: &str, event: queue_entry::Event) {
        let mut entries = lock(&self.entries);
        let Some(Entry::Waiting { state, request, .. }) = entries.by_token.get_mut(token) else {
            return;
        };
        match state.on(event) {
            queue_entry::Action::Resolve(event) => {
                let request = request.take();
                entries.schedule.unset(token);
                // An error means that the future was dropped: dropping it also gives back what it got.
                drop(request.map(|request| request.send(event)));
            }
            queue_entry::Action::Renew { ttl, wake } => {
                let token = Token::from(token);
                let due = later(waiting_interval(&token, ttl, wake));
                self.set_due_in(&mut entries, &token, due);
            }
            queue_entry::Action::RenewNow => self.set_due_in(&mut entries, &token.into(), Instant::now()),
            queue_entry::Action::Retry => self.set_due_in(&mut entries, &token.into(), later(RETRY)),
            queue_entry::Action::None => {}
        }
    }

    fn ended(&self, token: &str, end: End) {
        let hold = match lock(&self.entries).by_token.get(token) {
            Some(Entry::Held { hold, .. }) => Some(hold.clone()),
            _ => None,
        };
        match hold {
            Some(hold) => drop(self.on_lease(&hold, held::Event::Ended(end))),
            None => self.on_queue_entry(token, queue_entry::Event::Ended(end)),
        }
    }
}

impl Receiver for LeaseRegistry {
    fn message(&self, clock: &Clock, _channel: &str, payload: &str) {
        let Some((token, push)) = message::push(payload) else {
            warn!(payload, "a push that this version does not understand");
            return;
        };
        match push {
            Push::Granted(grant) => {
                let deadline = clock.pushed_deadline(grant.now, grant.expires);
                let granted = Granted { grant, deadline };
                self.on_queue_entry(token, queue_entry::Event::Granted(granted));
            }
            Push::Gone(end) => self.on_queue_entry(token, queue_entry::Event::Removed(end)),
            Push::Again => self.on_queue_entry(token, queue_entry::Event::Unfinished),
            Push::Lost(end) => self.ended(token, end),
        }
    }

    fn unsubscribed(&self, channel: &str) {
        lock(&self.entries).moved.insert(slot::of(channel));
        self.changed.notify_one();
    }

    fn closed(&self) {
        let (tokens, holds): (Vec<Token>, _) = {
            let entries = lock(&self.entries);
            (entries.by_token.keys().cloned().collect(), entries.holds())
        };
        for token in tokens {
            self.on_queue_entry(&token, queue_entry::Event::Closed);
        }
        for hold in holds {
            let _ = self.on_lease(&hold, held::Event::Closed);
        }
    }

    fn connected(&self) {
        // Pushes may have been missed, and leases may have run on without renewal: ask for everything at once.
        lock(&self.entries).schedule.hurry();
        self.changed.notify_one();
    }
}
