//! The registry of the leases and waiting requests of a client. Pushes arrive here, and the renewer reads from here
//! which entries are due.
//!
//! A token is entered before its request is sent, for its push may come before the reply has been looked at.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, oneshot, watch},
    time::Instant,
};
use tracing::{debug, warn};

use crate::{
    lease::schedule::{Class, Schedule},
    protocol::{
        calls::Renewed,
        message::{self, End, Grant, How, Push},
        secret::{Secret, Token},
        selector::Selector,
        unusable,
    },
    transport::{
        clock::{self, Clock, Sample},
        connection::Receiver,
        later, lock,
        uptime::{Moment, Uptime},
    },
};
use crate::{lease::telemetry, protocol::object::ObjectRef};

/// An object and its keys, and what a handle and its clones have seen of it.
#[derive(Debug)]
pub(crate) struct ObjectKeys {
    pub(crate) object: ObjectRef,
    pub(crate) keys: Vec<Arc<str>>,
    newest: AtomicU64,
}

impl ObjectKeys {
    pub(crate) fn new(object: ObjectRef, keys: Vec<Arc<str>>) -> Self {
        Self {
            object,
            keys,
            newest: AtomicU64::new(0),
        }
    }

    /// Notes a grant. It shows that the object is declared, and how far its fencing tokens have got at least: a server that
    /// replies otherwise has lost data.
    pub(crate) fn saw(&self, grant: &Grant) {
        if grant.declared {
            self.saw_newest(grant.fence);
        }
    }

    /// Notes the newest fencing token that a reply names, which is 0 unless the object is declared.
    pub(crate) fn saw_newest(&self, newest: u64) {
        self.newest.fetch_max(newest, Ordering::Relaxed);
    }

    /// The newest fencing token that was seen while the object was declared, or 0.
    pub(crate) fn newest(&self) -> u64 {
        self.newest.load(Ordering::Relaxed)
    }
}

/// The cause of the loss of a lease that was renewed for as long as it may be.
pub(crate) const LONGEST_HOLD: &str = "it has come to its longest hold";

/// The state of a lease, as this client knows it.
#[derive(Debug, Clone)]
pub(crate) enum Standing {
    Held,
    /// Held until the deadline, at which it has been held for as long as it may be.
    Ending,
    Unsure {
        reason: String,
    },
    Lost {
        cause: String,
    },
}

#[derive(Debug, Clone)]
pub(crate) struct Status {
    pub(crate) deadline: Moment,
    pub(crate) standing: Standing,
}

/// A lease as this client knows it.
#[derive(Debug)]
pub(crate) struct Hold {
    pub(crate) token: Token,
    /// The secret from which the token is computed.
    pub(crate) secret: Secret,
    pub(crate) place: Arc<ObjectKeys>,
    pub(crate) grant: Grant,
    /// The request that got it, for a readmission after a loss of data.
    pub(crate) request: Request,
    pub(crate) status: watch::Sender<Status>,
}

impl Hold {
    /// It is not renewed at present.
    fn doubt(&self, reason: &str) {
        self.status.send_if_modified(|status| {
            let was_held = matches!(status.standing, Standing::Held | Standing::Ending);
            if was_held {
                status.standing = Standing::Unsure {
                    reason: reason.to_owned(),
                };
            }
            was_held
        });
    }

    /// When the server has ended it, if nothing is sent any more. A renewal that is under way may have prolonged it there
    /// by a whole lease, of which its holder has not heard.
    pub(crate) fn ends_at_the_latest(&self) -> Instant {
        later(Duration::from_millis(self.grant.lease))
    }
}

/// The arguments of an acquisition, as the scripts expect them.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) permits: u64,
    pub(crate) lease_ms: u64,
    pub(crate) max_hold_ms: u64,
    pub(crate) grace_ms: u64,
    pub(crate) priority: i8,
    /// The permits of an object that its first user makes; 0: it must be declared.
    pub(crate) first_limit: u64,
    /// Of a pool's resources.
    pub(crate) selector: Selector,
    /// The reason of a takeover, for the former holders; absent: no takeover.
    pub(crate) takeover: Option<Arc<str>>,
    pub(crate) holder: Arc<str>,
}

/// The event that ends a wait.
#[derive(Debug)]
pub(crate) enum WaiterEvent {
    Granted {
        grant: Grant,
        deadline: Moment,
    },
    /// The place is in doubt, or the push was lost: ask again with the same token.
    AskAgain,
    Gone(End),
}

enum Entry {
    /// Was asked for; it stays here until it is held or given up.
    Waiting {
        place: Arc<ObjectKeys>,
        /// Absent: the event was sent already, and its future has not been polled since.
        word: Option<oneshot::Sender<WaiterEvent>>,
        /// The lease has ended before its future could take it up.
        lost: Option<End>,
    },
    Held {
        hold: Arc<Hold>,
    },
}

impl Entry {
    fn class(&self) -> Class {
        match self {
            Self::Held { .. } => Class::Lease,
            Self::Waiting { .. } => Class::ObjectKeys,
        }
    }

    /// Returns by how much the entry may be renewed early, along with others: a tenth of the time between two renewals
    /// of a lease, so that leases taken one by one come due in a few big batches.
    fn slack(&self, now: Moment) -> Duration {
        match self {
            Self::Waiting { .. } => COALESCE,
            Self::Held { hold, .. } => {
                let left = hold.status.borrow().deadline - now;
                COALESCE.max(left / 20)
            }
        }
    }
}

/// Something to be renewed.
pub(crate) struct Item {
    pub(crate) token: Token,
    pub(crate) place: Arc<ObjectKeys>,
    /// Absent: a place in the queue.
    pub(crate) hold: Option<Arc<Hold>>,
}

/// The next step after the outcome of a renewal has been noted.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    Nothing,
    /// The server has lost the lease: its holder must be readmitted.
    Readmit,
    /// The server has a lease that its holder counts as lost: it is given back, so that no waiter waits for its expiry.
    GiveBack,
}

/// Entries that are due within this time are renewed along with those that are due now.
const COALESCE: Duration = Duration::from_millis(50);
/// A suspend of the machine is noticed after so long at most, by one wake-up for all leases and places.
const LOOK_FOR_SUSPEND: Duration = Duration::from_secs(1);
/// Two clocks cannot be read at the same instant: a smaller difference is none.
const SHORTEST_SUSPEND: Duration = Duration::from_millis(50);
/// The life of a queue entry without a renewal, in milliseconds. A lease that is handed off to a waiter lives no longer
/// until its client has renewed it.
const SHORTEST_QUEUE_ENTRY_TTL_MS: u64 = 10_000;
const LONGEST_QUEUE_ENTRY_TTL_MS: u64 = 30_000;
/// While Redis does not answer, or does not know the object, a renewal is tried this often.
const RETRY: Duration = Duration::from_millis(200);
/// Nothing is renewed more often, however little time is left.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(20);

pub(crate) struct LeaseRegistry {
    pub(crate) uptime: Arc<Uptime>,
    book: Mutex<Entries>,
    changed: Notify,
    closed: AtomicBool,
}

#[derive(Default)]
struct Entries {
    by_token: HashMap<Token, Entry>,
    schedule: Schedule,
    /// Until when the renewal sleeps; it is woken only for what comes due before.
    asleep_until: Option<Instant>,
    /// For how long the machine was suspended when that was last looked at.
    suspended: Duration,
}

impl LeaseRegistry {
    pub(crate) fn new(uptime: Arc<Uptime>) -> Self {
        let book = Entries {
            suspended: uptime.suspended(),
            ..Entries::default()
        };
        Self {
            uptime,
            book: Mutex::new(book),
            changed: Notify::default(),
            closed: AtomicBool::default(),
        }
    }

    pub(crate) fn wait(&self, token: &Token, place: &Arc<ObjectKeys>) -> oneshot::Receiver<WaiterEvent> {
        let (word, heard) = oneshot::channel();
        let entry = Entry::Waiting {
            place: place.clone(),
            word: Some(word),
            lost: None,
        };
        let mut book = lock(&self.book);
        book.schedule.unset(token);
        book.by_token.insert(token.clone(), entry);
        heard
    }

    /// Returns the life of a new queue entry without a renewal, in milliseconds. A client with more than 10,000 leases
    /// and queue entries requests a millisecond for each, up to 30 s, so that renewals do not take up the server.
    pub(crate) fn queue_entry_ttl_ms(&self) -> u64 {
        let entries = lock(&self.book).by_token.len() as u64;
        entries.clamp(SHORTEST_QUEUE_ENTRY_TTL_MS, LONGEST_QUEUE_ENTRY_TTL_MS)
    }

    /// Notes when a queue entry must be renewed, after the server has confirmed it.
    pub(crate) fn queued(&self, token: &Token, place: Duration, wake: Duration) {
        if self.waits(token) {
            self.set_due(token, later(waiting_interval(token, place, wake)));
        }
    }

    /// Returns whether the lease that this waiting request was granted has expired on the server.
    pub(crate) fn ran_out(&self, token: &Token) -> bool {
        let book = lock(&self.book);
        matches!(book.by_token.get(token), Some(Entry::Waiting { lost: Some(end), .. }) if end.how == How::Expired)
    }

    pub(crate) fn hold(&self, hold: &Arc<Hold>) {
        let deadline = hold.status.borrow().deadline;
        let token = hold.token.clone();
        let left = deadline - self.uptime.now();
        let granted = Duration::from_millis(hold.grant.expires.saturating_sub(hold.grant.now));
        // Over a slow connection a grant has lost much of its time when it arrives. It is renewed at once.
        let wait = if left < granted / 2 {
            Duration::ZERO
        } else {
            held_interval(&token, left)
        };
        let due = later(wait);
        let entry = Entry::Held { hold: hold.clone() };
        let before = {
            let mut book = lock(&self.book);
            book.schedule.unset(&token);
            book.by_token.insert(token.clone(), entry)
        };
        if let Some(Entry::Waiting { lost: Some(end), .. }) = before {
            return self.lost(hold, &end.to_string());
        }
        self.set_due(&token, due);
    }

    pub(crate) fn forget(&self, token: &Token) {
        let mut book = lock(&self.book);
        book.schedule.unset(token);
        book.by_token.remove(token);
    }

    /// Like `forget`, but leaves a lease that the place has become.
    pub(crate) fn forget_waiting(&self, token: &Token) {
        let mut book = lock(&self.book);
        if matches!(book.by_token.get(token), Some(Entry::Waiting { .. })) {
            book.schedule.unset(token);
            book.by_token.remove(token);
        }
    }

    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.changed.notify_one();
    }

    fn set_due(&self, token: &Token, at: Instant) {
        let mut book = lock(&self.book);
        let sooner = book.asleep_until.is_none_or(|wakes| at < wakes);
        if let Some(class) = book.by_token.get(token).map(Entry::class) {
            book.schedule.set(token, class, at);
            if sooner {
                self.changed.notify_one();
            }
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

    /// After a suspend of the machine all timers are late by it. So everything is renewed at once, and who waits for a loss
    /// looks again.
    fn notice_suspend(&self) {
        let suspended = self.uptime.suspended();
        let mut held = Vec::new();
        {
            let mut book = lock(&self.book);
            if suspended.saturating_sub(book.suspended) < SHORTEST_SUSPEND {
                return;
            }
            book.suspended = suspended;
            book.schedule.hurry();
            for entry in book.by_token.values() {
                if let Entry::Held { hold, .. } = entry {
                    held.push(hold.clone());
                }
            }
        }
        debug!(leases = held.len(), "the machine was suspended");
        for hold in held {
            if hold.status.borrow().deadline <= self.uptime.now() {
                self.lost(&hold, "the machine was suspended past its deadline");
            } else {
                hold.status.send_modify(|_| {});
            }
        }
    }

    fn take_due(&self, now: Instant) -> Result<Vec<Item>, Option<Instant>> {
        let mut book = lock(&self.book);
        let next = book.schedule.next(now);
        if next.is_none_or(|at| at > now) {
            // While there are leases, a suspend of the machine is looked for now and then.
            let look = (!book.by_token.is_empty()).then(|| now + LOOK_FOR_SUSPEND);
            book.asleep_until = next.into_iter().chain(look).min();
            return Err(book.asleep_until);
        }
        book.asleep_until = next;
        let moment = self.uptime.now();
        let Entries {
            by_token, schedule, ..
        } = &mut *book;
        let slack = |token: &Token| by_token.get(token).map_or(COALESCE, |entry| entry.slack(moment));
        let taken = schedule.take(now, slack);
        let item = |token: Token| {
            let (place, hold) = match by_token.get(&token)? {
                Entry::Waiting { place, .. } => (place.clone(), None),
                Entry::Held { hold, .. } => (hold.place.clone(), Some(hold.clone())),
            };
            Some(Item { token, place, hold })
        };
        let mut items: Vec<Item> = taken.into_iter().filter_map(item).collect();
        // Leases before places, and the nearest deadline first.
        items.sort_by_cached_key(|item| {
            let deadline = item.hold.as_ref().map(|hold| hold.status.borrow().deadline);
            (deadline.is_none(), deadline)
        });
        Ok(items)
    }

    /// Notes what a renewal, asked for at `sample.sent`, made of an item.
    pub(crate) fn renewed(&self, item: &Item, outcome: Renewed, sample: Sample) -> Next {
        if !lock(&self.book).by_token.contains_key(&item.token) {
            return Next::Nothing; // given back while the renewal was on its way
        }
        if let Renewed::Held { newest, .. } | Renewed::Waiting { newest, .. } = outcome {
            item.place.saw_newest(newest);
        }
        match (&item.hold, outcome) {
            (Some(hold), Renewed::Held { expires, is_last, .. }) => {
                let deadline = clock::deadline(sample, expires);
                let in_time = hold.status.send_if_modified(|status| {
                    // A caller that has looked since the deadline has seen a lost lease, and it stays lost, even if the
                    // server still has it.
                    let in_time = status.deadline > self.uptime.now()
                        && !matches!(status.standing, Standing::Lost { .. });
                    if in_time {
                        *status = Status {
                            deadline,
                            standing: if is_last { Standing::Ending } else { Standing::Held },
                        };
                    }
                    in_time
                });
                if !in_time {
                    self.lost(hold, "it was renewed too late");
                    return Next::GiveBack;
                }
                // Also when the deadline did not move: a lease that was shortened moves again later. One at its longest hold
                // does not, which a few renewals more find out.
                self.set_due(
                    &item.token,
                    later(held_interval(&item.token, deadline - self.uptime.now())),
                );
            }
            (Some(hold), outcome @ (Renewed::Recovering | Renewed::Missing)) if hold.grant.declared => {
                self.unsure(item, "Redis has lost the object");
                // A lease that had expired before may have another holder by now.
                let lost = matches!(hold.status.borrow().standing, Standing::Lost { .. });
                if outcome == Renewed::Recovering && !lost {
                    return Next::Readmit;
                }
            }
            (Some(_), Renewed::Failed { error }) => {
                self.unsure(item, &unusable::error(&item.place.keys, error).to_string());
            }
            (Some(hold), _) => {
                self.expired(
                    hold,
                    "Redis does not have it any more: it ran out, or its keys were removed",
                );
            }
            // Meanwhile a push may have made the place a lease, and this renewed it.
            (None, Renewed::Held { expires, .. }) if !self.waits(&item.token) => {
                if let Some(Entry::Held { hold }) = lock(&self.book).by_token.get(&item.token)
                    && hold.grant.now < sample.server_ms
                {
                    let deadline = clock::deadline(sample, expires);
                    hold.status.send_if_modified(|status| {
                        let runs = status.deadline > self.uptime.now()
                            && !matches!(status.standing, Standing::Lost { .. });
                        let later = runs && deadline > status.deadline;
                        if later {
                            status.deadline = deadline;
                        }
                        later
                    });
                }
            }
            (None, _) if !self.waits(&item.token) => {}
            (None, Renewed::Waiting { expires, wake, .. }) => {
                let place = Duration::from_millis(expires.saturating_sub(sample.server_ms));
                self.queued(&item.token, place, Duration::from_millis(wake));
            }
            (None, _) => self.notify(&item.token, WaiterEvent::AskAgain),
        }
        Next::Nothing
    }

    /// A renewal had no answer: the lease may still run.
    pub(crate) fn unsure(&self, item: &Item, reason: &str) {
        if let Some(hold) = &item.hold {
            hold.doubt(reason);
            if hold.status.borrow().deadline <= self.uptime.now() {
                self.lost(hold, &format!("it could not be renewed in time: {reason}"));
                return;
            }
        }
        self.set_due(&item.token, later(RETRY));
    }

    /// The lease has ended without another client: for this cause, unless it has come to its longest hold.
    fn expired(&self, hold: &Hold, cause: &str) {
        let ending = matches!(hold.status.borrow().standing, Standing::Ending);
        self.lost(hold, if ending { LONGEST_HOLD } else { cause });
    }

    pub(crate) fn lost(&self, hold: &Hold, cause: &str) {
        self.forget(&hold.token);
        let is_new = hold.status.send_if_modified(|status| {
            let known = matches!(status.standing, Standing::Lost { .. });
            if !known {
                status.standing = Standing::Lost {
                    cause: cause.to_owned(),
                };
            }
            !known
        });
        if is_new {
            telemetry::lost(hold.place.object.kind());
            warn!(object = %hold.place.object, fence = hold.grant.fence, cause, "a lease is lost");
        }
    }

    fn waits(&self, token: &Token) -> bool {
        matches!(
            lock(&self.book).by_token.get(token),
            Some(Entry::Waiting { word: Some(_), .. })
        )
    }

    /// Sends the event to a waiting request, once. A token that waits no more is left alone: the event may be late, and
    /// the token a lease by now.
    fn notify(&self, token: &str, word: WaiterEvent) {
        let mut book = lock(&self.book);
        let Entries {
            by_token, schedule, ..
        } = &mut *book;
        if let Some(Entry::Waiting {
            word: teller, lost, ..
        }) = by_token.get_mut(token)
            && let Some(teller) = teller.take()
        {
            schedule.unset(token);
            // A loss that was published before is one of an earlier grant to this token.
            *lost = None;
            // An error means that its future was dropped: dropping it also gives back what it got.
            drop(teller.send(word));
        }
    }
}

impl Receiver for LeaseRegistry {
    fn message(&self, clock: &Clock, _channel: &str, payload: &str) {
        match message::push(payload) {
            Some((token, Push::Granted(grant))) => {
                let deadline = clock.pushed_deadline(grant.now, grant.expires);
                self.notify(token, WaiterEvent::Granted { grant, deadline });
            }
            // The place ran out while we could not renew it, but who waits is still here, and gets another one.
            Some((token, Push::Gone(end))) if end.how == How::Expired => {
                self.notify(token, WaiterEvent::AskAgain);
            }
            Some((token, Push::Gone(end))) => self.notify(token, WaiterEvent::Gone(end)),
            Some((token, Push::Again)) => {
                let token = Token::from(token);
                if self.waits(&token) {
                    self.set_due(&token, Instant::now());
                }
            }
            Some((token, Push::Lost(end))) => {
                let lost_hold = match lock(&self.book).by_token.get_mut(token) {
                    Some(Entry::Held { hold, .. }) => Some(hold.clone()),
                    Some(Entry::Waiting { lost, .. }) => {
                        *lost = Some(end.clone());
                        None
                    }
                    None => None,
                };
                match lost_hold {
                    Some(hold) if end.how == How::Expired => self.expired(&hold, &end.to_string()),
                    Some(hold) => self.lost(&hold, &end.to_string()),
                    None => {}
                }
            }
            None => warn!(payload, "a push that this version does not understand"),
        }
    }

    fn closed(&self) {
        const CLOSED: &str = "the client cannot be used any more: the runtime in which it was made has ended";
        for entry in lock(&self.book).by_token.values_mut() {
            match entry {
                // Waiters request again, and get the error.
                Entry::Waiting { word, .. } => drop(word.take()),
                Entry::Held { hold, .. } => hold.doubt(CLOSED),
            }
        }
    }

    fn connected(&self) {
        // Pushes may have been missed, and leases may have run on without renewal: ask for everything at once.
        lock(&self.book).schedule.hurry();
        self.changed.notify_one();
    }
}

/// Up to a tenth earlier, by the token, so that the leases of many clients do not all come due together.
fn jittered(token: &Token, span: Duration) -> Duration {
    let byte = token.bytes().last().map_or(0, u32::from) % 16;
    span.saturating_sub(span * byte / 160)
}

fn held_interval(token: &Token, left: Duration) -> Duration {
    jittered(token, left / 3).max(SHORTEST_INTERVAL)
}

/// A place is renewed at a third of its life, or just after the next lease runs out, which may be a dead holder's; at once
/// where the server has left work for the next call.
fn waiting_interval(token: &Token, place: Duration, wake: Duration) -> Duration {
    if wake.is_zero() {
        return wake;
    }
    let after_expiry = wake + Duration::from_millis(2);
    jittered(token, place / 3)
        .min(after_expiry)
        .max(SHORTEST_INTERVAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_renewed_at_a_third_of_its_life_or_when_a_lease_runs_out() {
        let token: Token = "0".into();
        let place = Duration::from_secs(9);
        assert_eq!(waiting_interval(&token, place, place), Duration::from_secs(3));
        assert_eq!(
            waiting_interval(&token, place, Duration::from_millis(500)),
            Duration::from_millis(502)
        );
        assert_eq!(
            waiting_interval(&token, place, Duration::from_millis(1)),
            Duration::from_millis(20)
        );
    }
}
