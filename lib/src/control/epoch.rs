//! Epochs: one record, kept outside of Redis, that backs the fencing floors of all objects of a controller after a loss of
//! data. Pure, as [`plan`](super::plan()) is: the caller reads and writes the record.
//!
//! # One write for all objects
//! A floor has to be kept outside of Redis before Redis gets it, for two reasons: the next floor must be above all tokens that
//! are counted from this one, and data without this floor must be known to be old (a failback). With one write for each object, a
//! recovery takes as long as there are objects. An [`Epoch`] says the same of all of them at once:
//!
//! > While it is open, any object may have been declared, although its status has a smaller floor, under a floor of `from` to
//! > `to`.
//!
//! 1. The first object that is found lost: `from` is the clock of Redis, `to` is [`WINDOW`] later; the record is written.
//! 2. Each lost object is declared under the floor of its plan, `from` at least, if the epoch backs that: the floor is at most
//!    `to`, and all tokens that the object was granted before are smaller than `from`. If not, the next epoch is written first. So an
//!    object is declared once at most under an epoch: then it has a floor of at least `from`.
//! 3. The statuses get their floors later. Then the record is closed.
//!
//! # Why no token is granted twice
//! - *The process that wrote the epoch* knows the exact floor of each object, and plans as if the status had it
//!   ([`Epochs::kept`]).
//! - *A process that finds an open epoch of another one that has ended* does not know which objects were declared. It takes each
//!   object whose status has a floor below `from` for one that may have been:
//!   - *Bound.* Its tokens are smaller than `to` + elapsed/8 + 1, by the rate in `plan.rs`, and the next floor is not.
//!   - *Old data.* Before the epoch all its tokens were smaller than `from`, and all since are larger. So data whose newest token is
//!     below `from` is taken for lost, and data that has got as far was declared under the epoch. An object is declared once at
//!     most under an epoch, so that no second declaration hides behind the first. (An object that was not lost recovers without
//!     need, if the controller dies between the loss of another object and the last status.)
//!   - Its status then gets the floor. When all statuses have one of `from` at least, the record is closed.
//! - *An object whose status has a larger floor* is not declared under the epoch, by step 2: its tokens are larger than `from`. Nor
//!   is an object that is new since, whose first floor is above `from`.
//!
//! *First users.* Before an object is declared again, first users may be granted tokens of the clock, and these may be lost, too.
//! So the floor of an object is the clock at its own plan, and not `from`: that is why an epoch is a range.
//!
//! *Two processes.* The record is written for the version that was read last, so that one of two is refused. That one waits: the
//! process that has the epoch declares all lost objects. A wrong guess about which one is alive costs time alone: between the
//! observation of an object and its declaration a process reads the record, and declares nothing under an epoch that is not its
//! own any more. A declaration that is on its way meanwhile is at most as late as one after the write of a status.
//!
//! *A floor never runs ahead of the clock*, since an epoch begins at the clock unless tokens are ahead of it. The exception is the
//! epoch after one that a process has left open, which begins above that one's `to`. Objects without a status start above all
//! floors that are known from the record, so that they are above their predecessors also then. `to` is never more than the window
//! ahead of the clock, however often a controller dies, and where the clock of Redis is behind, [`ROOM`] for each loss.
//!
//! *The limits:* where the record is deleted, or restored from a backup, while it is open, and its process dies before the statuses
//! are written, the floors that are missing in them are not known: old data is not recognized, and the bound is the clock.

use std::{collections::HashMap, time::SystemTime};

use crate::{
    ObjectRef,
    control::plan::{Kept, MARGIN_WITHOUT_ELAPSED, Plan, granted_since},
};

/// For how long after its begin an epoch backs floors of the clock, in microseconds: a minute.
const WINDOW: u64 = MARGIN_WITHOUT_ELAPSED;
/// By how much an epoch begins above the tokens that were granted, where those are ahead of the clock of Redis: as many more as
/// there can be granted in eight seconds.
const ROOM: u64 = 1 << 20;

/// A record of all objects of a controller, kept outside of Redis.
///
/// ```
/// use std::time::SystemTime;
/// use tenure::control::Epoch;
///
/// let now = SystemTime::now();
/// let epoch = Epoch { from: 1_795_257_448_000_000, to: 1_795_257_515_108_864, at: now, open: true };
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Epoch {
    /// Objects are declared under floors of at least this. Before that their tokens were smaller.
    pub from: u64,
    /// No floor is larger.
    pub to: u64,
    /// When it was written, by the controller's clock.
    pub at: SystemTime,
    /// Statuses may have smaller floors than their objects were declared under.
    pub open: bool,
}

/// The place where a floor is kept before Redis gets it. Returned by [`Epochs::back`].
///
/// ```
/// use tenure::control::Backing;
///
/// let Backing::Status(floor) = Backing::Status(7) else { panic!() };
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backing {
    /// The epoch of this process backs this floor: declare it.
    Epoch(u64),
    /// Write this epoch into the record, call [`Epochs::opened`], and ask again.
    NewEpoch(Epoch),
    /// Write this floor into the status of the object first.
    Status(u64),
    /// Another process has an open epoch, and declares what is lost.
    Wait,
}

/// A floor under which an object was declared, while its status has a smaller one.
///
/// ```
/// # fn run(raised: tenure::control::Raised) {
/// println!("{} since {:?}", raised.floor, raised.current_at);
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Raised {
    /// The floor.
    pub floor: u64,
    /// When it was at least as large as every token of the object.
    pub current_at: SystemTime,
}

/// More than the tokens of any object that was declared under an epoch: `floor`, and what may be granted since.
#[derive(Debug, Clone, Copy)]
struct Bound {
    floor: u64,
    at: SystemTime,
}

/// The state that one process of a controller has of the record and of the objects that it declared under it.
///
/// ```
/// use std::time::SystemTime;
/// use tenure::control::Epochs;
///
/// let mut epochs = Epochs::default();
/// epochs.found(None);
/// ```
#[derive(Debug, Clone, Default)]
pub struct Epochs {
    /// The open epoch of this process.
    own: Option<Epoch>,
    /// The floors that are not in statuses yet.
    raised: HashMap<ObjectRef, Raised>,
    /// An open epoch of another process.
    other: Option<Epoch>,
    /// That process has ended.
    abandoned: bool,
    /// Of all floors under which this process has declared objects.
    spent: Option<Bound>,
    /// Of the floors that objects may have got under epochs of other processes.
    others: Option<Bound>,
}

impl Epochs {
    /// Notes the record as it was read, if it is not the one that this process wrote last; `None`: there is none.
    ///
    /// ```
    /// # use std::time::SystemTime;
    /// # use tenure::control::{Epoch, Epochs};
    /// let mut epochs = Epochs::default();
    /// epochs.found(Some(Epoch { from: 5, to: 9, at: SystemTime::now(), open: true }));
    /// ```
    pub fn found(&mut self, record: Option<Epoch>) {
        self.own = None;
        // A record that was deleted does not make an open epoch safe that was known before.
        let Some(epoch) = record else { return };
        raise(&mut self.others, epoch.to, epoch.at);
        self.other = Some(epoch).filter(|epoch| epoch.open);
        self.abandoned = false;
    }

    /// Notes that the process whose open epoch was found has ended, or seems to have: from now on objects that it may have
    /// declared are taken for lost, where their data is older than that.
    ///
    /// ```
    /// # use std::time::SystemTime;
    /// # use tenure::control::{Epoch, Epochs};
    /// let mut epochs = Epochs::default();
    /// epochs.found(Some(Epoch { from: 5, to: 9, at: SystemTime::now(), open: true }));
    /// epochs.abandoned();
    /// ```
    pub fn abandoned(&mut self) {
        self.abandoned = self.other.is_some();
    }

    /// Returns whether another process has an open epoch, as far as is known, and has not ended.
    ///
    /// ```
    /// assert!(!tenure::control::Epochs::default().waits_for_another());
    /// ```
    #[must_use]
    pub fn waits_for_another(&self) -> bool {
        self.other.is_some() && !self.abandoned
    }

    /// Notes that this process has written a new epoch into the record.
    ///
    /// ```
    /// # use std::time::SystemTime;
    /// # use tenure::control::{Epoch, Epochs};
    /// let mut epochs = Epochs::default();
    /// epochs.opened(Epoch { from: 5, to: 9, at: SystemTime::now(), open: true });
    /// ```
    pub fn opened(&mut self, epoch: Epoch) {
        raise(&mut self.spent, epoch.from, epoch.at);
        self.own = Some(epoch);
    }

    /// The open epoch that this process wrote.
    ///
    /// ```
    /// assert_eq!(tenure::control::Epochs::default().own(), None);
    /// ```
    #[must_use]
    pub fn own(&self) -> Option<Epoch> {
        self.own
    }

    /// Returns the known state of an object, for [`plan`](super::plan()) and all that follows from it. `status` is the part that
    /// its status has.
    ///
    /// ```
    /// # use std::time::SystemTime;
    /// # use tenure::control::Epochs;
    /// # fn run(object: tenure::ObjectRef, status: tenure::control::Kept) {
    /// assert_eq!(Epochs::default().kept(&object, Some(status), SystemTime::now()), Some(status));
    /// # }
    /// ```
    #[must_use]
    pub fn kept(&self, object: &ObjectRef, status: Option<Kept>, now: SystemTime) -> Option<Kept> {
        let mut kept = status?;
        if let Some(raised) = self.raised(object).filter(|raised| raised.floor > kept.floor) {
            (kept.floor, kept.current_at) = (raised.floor, Some(raised.current_at));
        }
        let other = self.other.filter(|_| self.abandoned);
        let Some(epoch) = other.filter(|epoch| kept.floor < epoch.from) else {
            return Some(kept);
        };
        Some(Kept {
            floor: epoch.from,
            current_at: Some(now),
            newest: kept.bound(now).max(epoch.bound(now)),
            ..kept
        })
    }

    /// The floor under which this process has declared an object, if its status does not have that yet.
    ///
    /// ```
    /// # fn run(epochs: tenure::control::Epochs, object: tenure::ObjectRef) {
    /// println!("{:?}", epochs.raised(&object));
    /// # }
    /// ```
    #[must_use]
    pub fn raised(&self, object: &ObjectRef) -> Option<Raised> {
        self.raised.get(object).copied()
    }

    /// The least floor of an object whose status has none: it may have had a predecessor of the same name.
    ///
    /// ```
    /// # use std::time::SystemTime;
    /// # use tenure::control::{Epoch, Epochs};
    /// let (mut epochs, at) = (Epochs::default(), SystemTime::now());
    /// assert_eq!(epochs.first_floor(at), 0);
    /// epochs.found(Some(Epoch { from: 5, to: 9, at, open: true }));
    /// assert_eq!(epochs.first_floor(at), 10);
    /// ```
    #[must_use]
    pub fn first_floor(&self, now: SystemTime) -> u64 {
        bound_at(self.spent, now).max(bound_at(self.others, now))
    }

    /// Returns where the floor of a planned declaration is kept before it is made, of an object that was declared before. `kept` is
    /// that of the plan, as [`Epochs::kept`] returned it; `clock` is the server's clock of the observation, and `others` are the
    /// statuses of all objects.
    ///
    /// ```
    /// # use std::time::SystemTime;
    /// # use tenure::control::{Backing, Epochs, Kept, Observation, Plan};
    /// # fn run(kept: Kept, plan: Plan, seen: Observation, statuses: Vec<Kept>) {
    /// let now = SystemTime::now();
    /// match Epochs::default().back(&kept, &plan, seen.now_micros, statuses, now) {
    ///     Backing::NewEpoch(epoch) => println!("write {epoch:?}"),
    ///     Backing::Epoch(floor) => println!("declare it under {floor}"),
    ///     Backing::Status(floor) => println!("write {floor} into its status"),
    ///     Backing::Wait => println!("look later whether it is declared"),
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn back(
        &self,
        kept: &Kept,
        plan: &Plan,
        clock: u64,
        others: impl IntoIterator<Item = Kept>,
        now: SystemTime,
    ) -> Backing {
        let Some(beyond) = plan.beyond else {
            return Backing::Status(plan.floor);
        };
        if self.own.is_none() && self.waits_for_another() {
            return Backing::Wait;
        }
        // A status without the time of its floor, or with too short a lease, has to be written anyway.
        if kept.current_at.is_none() || kept.longest_lease < plan.longest_lease {
            return Backing::Status(plan.floor);
        }
        if let Some(own) = self.own.filter(|own| own.from >= beyond) {
            let floor = plan.floor.max(own.from);
            if floor <= own.to {
                return Backing::Epoch(floor);
            }
        }
        let known = [beyond, self.first_floor(now)];
        let granted = others
            .into_iter()
            // The bound of others has a margin, which is no reason to raise all floors: they get an epoch of their own.
            .filter(|other| other.current_at.is_some_and(|at| at <= now))
            .map(|other| other.bound(now))
            .chain(known)
            .fold(0, u64::max);
        let from = if granted <= clock {
            clock
        } else {
            granted.saturating_add(ROOM)
        };
        Backing::NewEpoch(Epoch {
            from,
            to: from.max(plan.floor).max(clock.saturating_add(WINDOW)),
            at: now,
            open: true,
        })
    }

    /// Notes, before the declaration is sent, that an object is declared under a floor that the epoch backs. Returns what was
    /// noted before, for [`Epochs::undo`].
    ///
    /// ```
    /// # use std::time::SystemTime;
    /// # use tenure::control::{Epochs, Plan};
    /// # fn run(mut epochs: Epochs, object: tenure::ObjectRef, plan: Plan, floor: u64) {
    /// let before = epochs.declares(&object, &plan, floor, SystemTime::now());
    /// # }
    /// ```
    pub fn declares(
        &mut self,
        object: &ObjectRef,
        plan: &Plan,
        floor: u64,
        now: SystemTime,
    ) -> Option<Raised> {
        raise(&mut self.spent, floor, now);
        let raised = Raised {
            floor,
            current_at: plan.current_at,
        };
        self.raised.insert(object.clone(), raised)
    }

    /// Notes that the server has refused the declaration, so that nothing was changed.
    ///
    /// ```
    /// # use std::time::SystemTime;
    /// # use tenure::control::{Epochs, Plan};
    /// # fn run(mut epochs: Epochs, object: tenure::ObjectRef, plan: Plan, floor: u64) {
    /// let before = epochs.declares(&object, &plan, floor, SystemTime::now());
    /// epochs.undo(&object, before);
    /// # }
    /// ```
    pub fn undo(&mut self, object: &ObjectRef, before: Option<Raised>) {
        match before {
            Some(before) => self.raised.insert(object.clone(), before),
            None => self.raised.remove(object),
        };
    }

    /// Notes the floor that the status of an object has now.
    ///
    /// ```
    /// # fn run(mut epochs: tenure::control::Epochs, object: tenure::ObjectRef) {
    /// epochs.written(&object, 1_795_257_448_000_000);
    /// # }
    /// ```
    pub fn written(&mut self, object: &ObjectRef, floor: u64) {
        if self.raised(object).is_some_and(|raised| raised.floor <= floor) {
            self.raised.remove(object);
            // A loss of data has filled it with all objects.
            self.raised.shrink_to(self.raised.len() * 4);
        }
    }

    /// Returns the record to write when no status lags any more. `statuses` are all objects, with the floors of their
    /// statuses. Call [`Epochs::closed`] after the write.
    ///
    /// ```
    /// # use std::time::SystemTime;
    /// # use tenure::control::Epochs;
    /// assert_eq!(Epochs::default().close([], SystemTime::now()), None, "nothing is open");
    /// ```
    pub fn close(
        &mut self,
        statuses: impl IntoIterator<Item = (ObjectRef, Option<u64>)>,
        now: SystemTime,
    ) -> Option<Epoch> {
        let open = self.own.or(self.other.filter(|_| self.abandoned))?;
        let floors: HashMap<_, _> = statuses.into_iter().collect();
        self.raised.retain(|object, raised| {
            let status = floors.get(object);
            status.is_some_and(|floor| floor.is_none_or(|floor| floor < raised.floor))
        });
        let unknown = self.other.is_some_and(|other| {
            let mut known = floors.values().flatten();
            known.any(|floor| *floor < other.from)
        });
        if unknown || !self.raised.is_empty() {
            return None;
        }
        Some(Epoch {
            from: open.from,
            to: open.from.max(self.first_floor(now)),
            at: now,
            open: false,
        })
    }

    /// Notes that the record was closed.
    ///
    /// ```
    /// tenure::control::Epochs::default().closed();
    /// ```
    pub fn closed(&mut self) {
        (self.own, self.other, self.abandoned) = (None, None, false);
    }
}

impl Epoch {
    /// A number that is larger than every token of an object that was declared under it.
    fn bound(&self, now: SystemTime) -> u64 {
        self.to.saturating_add(granted_since(Some(self.at), now))
    }
}

/// Raises a bound. All of them grow at the same rate, so that the larger one stays the larger one.
fn raise(bound: &mut Option<Bound>, floor: u64, at: SystemTime) {
    let other = Some(Bound { floor, at });
    let larger = bound.is_none_or(|known| {
        let later = at.max(known.at);
        bound_at(other, later) > bound_at(*bound, later)
    });
    if larger {
        *bound = other;
    }
}

/// The bound at that time, or 0.
fn bound_at(bound: Option<Bound>, now: SystemTime) -> u64 {
    bound.map_or(0, |Bound { floor, at }| {
        floor.saturating_add(granted_since(Some(at), now))
    })
}

#[cfg(test)]
mod tests;
