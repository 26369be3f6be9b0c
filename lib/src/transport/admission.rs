//! Decides when a call may go out to a server: bounds what is in flight, and backs off while the server refuses.
//!
//! Calls enter one of three queues, by [`Class`], and leave it with a [`Ticket`]. Calls in flight count against a
//! window, each by its number of keys. The window opens small with each connection and grows with each answer, so that
//! calls that waited for the connection are not sent all at once. A call that waits here has not been sent: its time
//! does not count as the server's.
//!
//! When the server answers that it takes no calls at present ([`Ticket::refused`]), one call at a time goes out, after a
//! delay that doubles from 20 ms to a second, less up to a half by chance. The first call that is answered opens the
//! window again, from one on: what waited follows within a few round trips, and if the server refuses again, as it does
//! when the answered call only read, few have been sent. The delay starts anew after the window has been full, and after
//! two seconds without a refusal: a client with few calls does not fill its window.
//!
//! When it denies one kind of call, as it does without the right to run scripts ([`Ticket::denied`]), the same holds for the
//! queue of that class alone.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};

use crate::{
    protocol::script::Script,
    transport::{
        backoff::{Backoff, LONGEST_DELAY},
        later, lock,
    },
};

/// The purpose of a call. Calls of an earlier class are sent first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// Keeps what is held or waited for.
    Renewal,
    /// Ends it.
    Release,
    Other,
}

impl Class {
    pub(crate) fn of(script: &Script) -> Self {
        match script.name {
            "renew" | "readmit" => Self::Renewal,
            "release" => Self::Release,
            _ => Self::Other,
        }
    }
}

const CLASSES: usize = 3;

/// In flight at once, at the beginning of a connection and at most. A server takes some 20 µs for a call of cost 1, so
/// that a renewal goes out after some 5 ms however many calls wait; and a round trip of 10 ms allows 25,000 calls a second.
const FIRST_WINDOW: usize = 16;
const FULL_WINDOW: usize = 256;
/// After this time without a refusal, the next one begins another outage.
const OUTAGE_OVER: Duration = LONGEST_DELAY.saturating_mul(2);
/// Of the largest call: a few fit into the window.
const HIGHEST_COST: usize = FULL_WINDOW / 4;

/// Returns how much of the window a call with this number of keys takes.
pub(crate) fn cost(keys: usize) -> usize {
    (1 + keys / 8).min(HIGHEST_COST)
}

/// Of one server.
#[derive(Default)]
pub(crate) struct Admission {
    state: Mutex<State>,
    /// There may be another instant to wait for.
    changed: Notify,
}

#[derive(Default)]
struct State {
    /// There is a connection.
    open: bool,
    window: usize,
    queues: [VecDeque<Waiting>; CLASSES],
    all: Pace,
    classes: [Pace; CLASSES],
}

/// Of some calls: what is in flight, and whether the server takes any.
#[derive(Default)]
struct Pace {
    in_flight: usize,
    refusal: Option<Refusal>,
    backoff: Backoff,
    refused_at: Option<Instant>,
    /// The number of refusals of the server. A call that was sent before the last refusal is no sign of the present
    /// state.
    refusals: u64,
}

struct Waiting {
    cost: usize,
    admit: oneshot::Sender<Ticket>,
}

/// The server takes no calls at present.
struct Refusal {
    reason: String,
    /// When to try again.
    next: Instant,
}

/// The right to send one call. Dropping it makes room for the next.
#[must_use]
pub(crate) struct Ticket {
    admission: Option<Arc<Admission>>,
    class: Class,
    cost: usize,
    /// The number of refusals of all calls, and of those of this class, when the ticket was given out.
    refusals: (u64, u64),
}

impl Admission {
    /// A connection is there: what waits goes out.
    pub(crate) fn open(self: &Arc<Self>) {
        let mut state = lock(&self.state);
        state.open = true;
        state.window = FIRST_WINDOW;
        self.admit(&mut state);
    }

    /// The connection is gone: calls that wait here must use another one.
    pub(crate) fn close(&self) {
        let mut state = lock(&self.state);
        state.open = false;
        state.queues = Default::default();
    }

    /// Returns a ticket if no call waits and there is room.
    pub(crate) fn enter_now(self: &Arc<Self>, class: Class, cost: usize) -> Option<Ticket> {
        let mut state = lock(&self.state);
        let goes = state.queues.iter().all(VecDeque::is_empty) && state.has_room(class, cost);
        goes.then(|| self.ticket(&mut state, class, cost))
    }

    /// Waits for a ticket; `None`: the connection is gone.
    ///
    /// Dropping the future leaves the queue.
    pub(crate) async fn enter(self: &Arc<Self>, class: Class, cost: usize) -> Option<Ticket> {
        if let Some(ticket) = self.enter_now(class, cost) {
            return Some(ticket);
        }
        let admitted = {
            let mut state = lock(&self.state);
            if !state.open {
                return None;
            }
            let (admit, admitted) = oneshot::channel();
            state.queues[class as usize].push_back(Waiting { cost, admit });
            self.admit(&mut state);
            if state.next_try().is_some() {
                self.changed.notify_one();
            }
            admitted
        };
        admitted.await.ok()
    }

    /// Why the server takes no calls of a class, if it does not.
    pub(crate) fn refusal(&self, class: Class) -> Option<String> {
        let state = lock(&self.state);
        let refusal = [&state.all, &state.classes[class as usize]]
            .into_iter()
            .find_map(|pace| pace.refusal.as_ref());
        refusal.map(|refusal| refusal.reason.clone())
    }

    /// Lets calls out when a delay has passed, for as long as it is polled.
    pub(crate) async fn run(self: &Arc<Self>) {
        loop {
            let next = {
                let mut state = lock(&self.state);
                self.admit(&mut state);
                state.next_try()
            };
            match next {
                Some(next) => {
                    tokio::select! {
                        biased;
                        () = tokio::time::sleep_until(next) => {}
                        () = self.changed.notified() => {}
                    }
                }
                None => self.changed.notified().await,
            }
        }
    }

    fn ticket(self: &Arc<Self>, state: &mut State, class: Class, cost: usize) -> Ticket {
        let [all, own] = state.paces(class);
        all.in_flight += cost;
        own.in_flight += cost;
        Ticket {
            admission: Some(self.clone()),
            class,
            cost,
            refusals: (all.refusals, own.refusals),
        }
    }

    fn admit(self: &Arc<Self>, state: &mut State) {
        for class in [Class::Renewal, Class::Release, Class::Other] {
            while let Some(head) = state.queues[class as usize].front() {
                // A caller that has left holds up no other.
                let (left, cost) = (head.admit.is_closed(), head.cost);
                if !left && !state.has_room(class, cost) {
                    break;
                }
                let head = state.queues[class as usize].pop_front();
                if let Some(head) = head.filter(|_| !left) {
                    let ticket = self.ticket(state, class, cost);
                    if let Err(mut ticket) = head.admit.send(ticket) {
                        // Its drop would lock the state again.
                        ticket.admission = None;
                        state.give_back(class, cost);
                    }
                }
            }
            // Later calls wait for room as well, unless only this class is denied.
            let denied = state.classes[class as usize].refusal.is_some();
            if !denied && !state.queues[class as usize].is_empty() {
                return;
            }
        }
    }

    fn refused(&self, class: Option<Class>, seen: u64, reason: String, chance: u8) {
        {
            let mut state = lock(&self.state);
            let pace = match class {
                Some(class) => &mut state.classes[class as usize],
                None => &mut state.all,
            };
            if seen != pace.refusals {
                return;
            }
            pace.refusals += 1;
            let now = Instant::now();
            if pace.refused_at.is_some_and(|before| now - before > OUTAGE_OVER) {
                pace.backoff.reset();
            }
            pace.refused_at = Some(now);
            let next = later(pace.backoff.next(chance));
            pace.refusal = Some(Refusal { reason, next });
        }
        self.changed.notify_one();
    }
}

impl State {
    fn paces(&mut self, class: Class) -> [&mut Pace; 2] {
        [&mut self.all, &mut self.classes[class as usize]]
    }

    fn has_room(&self, class: Class, cost: usize) -> bool {
        let all = &self.all;
        let fits = all.in_flight == 0 || all.in_flight + cost <= self.window;
        self.open && fits && all.may_try() && self.classes[class as usize].may_try()
    }

    fn give_back(&mut self, class: Class, cost: usize) {
        for pace in self.paces(class) {
            pace.in_flight -= cost;
        }
    }

    /// When a call that waits may be tried, if it waits for that.
    fn next_try(&self) -> Option<Instant> {
        let now = Instant::now();
        let waiting = (0..CLASSES).filter(|class| !self.queues[*class].is_empty());
        let tries = waiting.filter_map(|class| {
            let next = |pace: &Pace| pace.refusal.as_ref().map(|refusal| refusal.next);
            next(&self.all).max(next(&self.classes[class]))
        });
        tries.filter(|next| *next > now).min()
    }
}

impl Pace {
    fn may_try(&self) -> bool {
        self.refusal
            .as_ref()
            .is_none_or(|refusal| self.in_flight == 0 && Instant::now() >= refusal.next)
    }
}

impl Ticket {
    /// The server has answered the call, whatever it has answered.
    pub(crate) fn answered(self) {
        let Some(admission) = &self.admission else { return };
        let mut state = lock(&admission.state);
        let own = &mut state.classes[self.class as usize];
        if self.refusals.1 == own.refusals && own.refusal.take().is_none() {
            own.backoff.reset();
        }
        if self.refusals.0 != state.all.refusals {
            return;
        }
        if state.all.refusal.take().is_some() {
            state.window = 0;
        }
        state.window = (state.window + self.cost).min(FULL_WINDOW);
        if state.window == FULL_WINDOW {
            state.all.backoff.reset();
        }
    }

    /// The server takes no calls at present. `chance`: any number.
    pub(crate) fn refused(self, reason: String, chance: u8) {
        if let Some(admission) = &self.admission {
            admission.refused(None, self.refusals.0, reason, chance);
        }
    }

    /// The server takes no calls of this class. `chance`: any number.
    pub(crate) fn denied(self, reason: String, chance: u8) {
        if let Some(admission) = &self.admission {
            admission.refused(Some(self.class), self.refusals.1, reason, chance);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(admission) = self.admission.take() {
            let mut state = lock(&admission.state);
            state.give_back(self.class, self.cost);
            admission.admit(&mut state);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::transport::backoff::FIRST_DELAY;

    fn opened() -> Arc<Admission> {
        let admission: Arc<Admission> = Arc::default();
        admission.open();
        admission
    }

    /// Whatever gets a ticket at once.
    fn try_enter(admission: &Arc<Admission>, class: Class, cost: usize) -> Option<Ticket> {
        admission.enter(class, cost).now_or_never().flatten()
    }

    #[tokio::test(start_paused = true)]
    async fn the_window_opens_with_answers_and_is_bounded() {
        let admission = opened();
        let mut rounds = Vec::new();
        for _ in 0..6 {
            let tickets: Vec<_> = std::iter::from_fn(|| try_enter(&admission, Class::Other, 1)).collect();
            rounds.push(tickets.len());
            tickets.into_iter().for_each(Ticket::answered);
        }
        assert_eq!(rounds, [16, 32, 64, 128, 256, 256]);
        admission.close();
        assert!(try_enter(&admission, Class::Other, 1).is_none());
        admission.open();
        let again = std::iter::from_fn(|| try_enter(&admission, Class::Other, 1)).take(300);
        assert_eq!(
            again.collect::<Vec<_>>().len(),
            16,
            "a new connection begins small"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn renewals_go_out_first_and_a_caller_that_left_holds_up_no_other() {
        let admission = opened();
        let large = try_enter(&admission, Class::Other, HIGHEST_COST).unwrap();
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = tokio::task::JoinSet::new();
        for class in [Class::Other, Class::Release, Class::Renewal, Class::Other] {
            let (admission, order) = (admission.clone(), order.clone());
            tasks.spawn(async move {
                let ticket = admission.enter(class, HIGHEST_COST).await.unwrap();
                lock(&order).push(class);
                ticket.answered();
            });
        }
        let gone = tokio::spawn({
            let admission = admission.clone();
            async move { admission.enter(Class::Renewal, HIGHEST_COST).await.map(drop) }
        });
        tokio::time::sleep(Duration::from_millis(1)).await;
        gone.abort();
        assert!(lock(&order).is_empty());
        drop(large);
        tasks.join_all().await;
        assert_eq!(
            *lock(&order),
            [Class::Renewal, Class::Release, Class::Other, Class::Other]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn while_the_server_refuses_one_call_goes_out_after_a_growing_delay() {
        let admission = opened();
        let runner = tokio::spawn({
            let admission = admission.clone();
            async move { admission.run().await }
        });
        // Those that were in flight together count once.
        let together: Vec<_> = std::iter::from_fn(|| try_enter(&admission, Class::Other, 1)).collect();
        assert!(together.len() > 1);
        for ticket in together {
            ticket.refused("NOREPLICAS".to_owned(), 0);
        }
        assert_eq!(admission.refusal(Class::Other).as_deref(), Some("NOREPLICAS"));
        let mut delays = Vec::new();
        for _ in 0..8 {
            let start = Instant::now();
            let ticket = admission.enter(Class::Other, 1).await.unwrap();
            assert!(
                try_enter(&admission, Class::Renewal, 1).is_none(),
                "one at a time"
            );
            delays.push(start.elapsed().as_millis());
            ticket.refused("NOREPLICAS".to_owned(), 0);
        }
        // Tokio's timer is no finer than a millisecond.
        let rounded: Vec<_> = delays.iter().map(|delay| delay / 10 * 10).collect();
        assert_eq!(rounded, [20, 40, 80, 160, 320, 640, 1000, 1000]);
        admission.enter(Class::Other, 1).await.unwrap().answered();
        assert_eq!(admission.refusal(Class::Other), None);
        let tickets: Vec<_> = std::iter::from_fn(|| try_enter(&admission, Class::Other, 1)).collect();
        assert_eq!(tickets.len(), 1, "it begins with one");
        drop(tickets);

        // The next outage has its own first delay, however few calls were answered between them.
        tokio::time::sleep(OUTAGE_OVER).await;
        let ticket = admission.enter(Class::Other, 1).await.unwrap();
        ticket.refused("LOADING".to_owned(), 0);
        let start = Instant::now();
        admission.enter(Class::Renewal, 1).await.unwrap().answered();
        assert!(start.elapsed() < 2 * FIRST_DELAY, "{:?}", start.elapsed());
        runner.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_class_that_is_denied_holds_up_no_other() {
        let admission = opened();
        for class in [Class::Release, Class::Release] {
            let ticket = try_enter(&admission, class, 1);
            if let Some(ticket) = ticket {
                ticket.denied("NOPERM".to_owned(), 0);
            }
        }
        assert!(try_enter(&admission, Class::Release, 1).is_none());
        assert_eq!(admission.refusal(Class::Release).as_deref(), Some("NOPERM"));
        assert_eq!(admission.refusal(Class::Renewal), None);
        try_enter(&admission, Class::Renewal, 1).unwrap().answered();
        try_enter(&admission, Class::Other, 1).unwrap().answered();
        tokio::time::sleep(LONGEST_DELAY).await;
        let ticket = try_enter(&admission, Class::Release, 1).unwrap();
        assert!(
            try_enter(&admission, Class::Release, 1).is_none(),
            "one at a time"
        );
        ticket.answered();
        assert_eq!(admission.refusal(Class::Release), None);
    }
}
