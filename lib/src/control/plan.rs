//! When an object has to be declared, and under which fencing floor. Pure: a controller observes, plans, writes the plan
//! where Redis cannot lose it, and then declares.
//!
//! # Fencing tokens grow whatever Redis forgets
//! The tokens of a declared object count one by one from a *floor*, which is kept outside of Redis (in etcd), together with
//! the time at which it was known to be current. **Rate:** Redis runs one script at a time, and a grant takes it more than
//! 8 µs; so an object is granted at most one token each 8 µs, and a counter that starts at or below the clock (in
//! microseconds) stays below it.
//!
//! - *First declaration*: the floor is the server's clock, or the newest token that Redis shows if that is larger.
//! - *Change of the spec in the same life of the data*: the floor is the newest token, so that nothing is raised. Should the server be restarted, or lose its data, after it was observed, then it refuses the declaration
//!   (see [`Life`]) and the controller plans again.
//! - *Loss*: `floor' = max(now, known + elapsed/8 + 1)`. `known` is the newest of the floor, the tokens that were ever
//!   shown, and the tokens of a declared object in Redis; `elapsed` is the time since the floor was known to be
//!   current, by the controller's clock. At most `elapsed/8` tokens were granted since, so that the floor is above all
//!   of them, independent of the clock of Redis: a failover to a machine whose clock is behind does no harm.
//! - *Refresh*: a floor that is 2^24 behind the newest token is brought up to date. So `known` is nearly right also where
//!   `elapsed` is not known.
//!
//! **A floor never runs ahead of the clock.** The floor F was at most the clock at its time t, hence every token so far is at
//! most `F + elapsed/8`, and `known + elapsed/8 + 1 <= F + elapsed/4 + 1 <= t + elapsed = now` for all but the first two
//! microseconds. So a loss leaves the floor at the clock, however many follow one another, and no change of a spec moves it.
//! Therefore an object that is made again under the same name without a status (deleted and applied again, or restored from a
//! backup without it), which can only start at the clock, starts above every token of its predecessor.
//!
//! *One write:* the floor of a first declaration, and of a change of the spec, is kept with the object. After a loss one
//! record backs the floors of all objects, so that the number of writes does not grow with theirs: see
//! [`Epochs`](super::Epochs).
//!
//! *Two controllers:* a floor goes to etcd, for the version that it was computed from, before it goes to Redis. Of two
//! controllers one is refused there, and plans again. Redis takes the larger floor, so the order in which the declarations
//! arrive does not matter. A declaration of another life of the server is refused by the script.
//!
//! *The limits:*
//! - A clock of Redis that is d behind the one before (a failover, or set back) lets an object that is made again without a
//!   status within d start below its predecessor's tokens. Objects with a status are not concerned.
//! - The clock of the controller may be set back, too. Seen (it is before the time of the floor), 2^26 are added in place of
//!   `elapsed/8`: more than the lag of a floor (2^24) and all that is granted in the 300 s between two looks. Unseen, it matters
//!   only to an object that is granted more tokens than an eighth of the microseconds that are left, and 2^26 µs are a minute
//!   by which a floor may then be ahead of the clock.
//! - A server that is cut off from the controller, but not from its clients, counts on. Its tokens stay below the new floor
//!   for at least seven times as long as the floor was old, by the rate above.

use std::time::{Duration, SystemTime};

use crate::control::{Observation, Snapshot};

/// Microseconds that a grant takes at least.
const MICROS_OF_A_GRANT: u128 = 8;
/// The longest distance by which a floor may lag behind the newest token.
const REFRESH_AFTER: u64 = 1 << 24;
/// In place of the tokens that may have been granted since the floor was current, where the controller's clock does not
/// show how long that is.
pub(super) const MARGIN_WITHOUT_ELAPSED: u64 = 1 << 26;
/// The same, where no time was ever kept: floors without one lagged by up to 2^30.
const MARGIN_WITHOUT_TIME: u64 = 1 << 31;

/// The state of a declared object that is kept outside of Redis.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use tenure::control::Kept;
///
/// let kept = Kept {
///     floor: 1_795_257_448_000_000,
///     current_at: Some(SystemTime::now()),
///     newest: 1_795_257_448_000_007,
///     longest_lease: Duration::from_secs(30),
/// };
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// Every fencing token that was granted after a loss is larger.
    pub floor: u64,
    /// When the floor was at least as large as every fencing token, by the controller's clock. `None`: not known.
    pub current_at: Option<SystemTime>,
    /// The newest fencing token that was ever noted, or 0.
    pub newest: u64,
    /// The longest lease that may be running.
    pub longest_lease: Duration,
}

/// A declaration that is to be made. All of it must be kept outside of Redis before Redis gets it.
///
/// ```no_run
/// # fn run(plan: tenure::control::Plan) {
/// println!("declare it under the floor {}", plan.floor);
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// For [`Declaration::floor`](super::Declaration::floor).
    pub floor: u64,
    /// When the floor was current: the time that the plan was made for.
    pub current_at: SystemTime,
    /// The longest lease that may be running.
    pub longest_lease: Duration,
    /// Redis has had this object before, so that leases of which it has no data may be running:
    /// [`Declaration::recovery`](super::Declaration::recovery) is then the longest lease.
    pub declared_before: bool,
    /// The object may have first users until it is declared. Their leases may be longer than the known ones: after the
    /// declaration, [`Snapshot::longest_lease`] must be kept as the longest lease, if it is longer.
    pub adopts: bool,
    /// Redis may have lost data of the object, or has never had any: every fencing token that was granted before is smaller
    /// than this, apart from those of first users. `None`: the tokens count on from the data that Redis has.
    pub beyond: Option<u64>,
}

/// Plans a declaration. `None`: Redis has the object with this `digest`, in a life of its data that knows the kept
/// floor.
///
/// `lease` is that of the declaration, `now` the controller's clock before `seen` was requested.
///
/// ```no_run
/// # async fn run(control: tenure::Control, object: tenure::ObjectRef) -> Result<(), tenure::Error> {
/// use std::time::{Duration, SystemTime};
/// use tenure::control::plan;
///
/// let now = SystemTime::now();
/// let seen = control.inspect(&object, 10, 0).await?;
/// if let Some(plan) = plan(None, &seen, "digest", Duration::from_secs(30), now) {
///     println!("declare it for the first time, under {}", plan.floor);
/// }
/// # Ok(()) }
/// ```
#[must_use]
pub fn plan(
    kept: Option<&Kept>,
    seen: &Observation,
    digest: &str,
    lease: Duration,
    now: SystemTime,
) -> Option<Plan> {
    let snapshot = seen.snapshot.as_ref();
    let declared = snapshot.filter(|s| s.digest.is_some());
    // Redis knows its leases; those of a declared object are known here, unless what was kept is gone.
    let shown = snapshot
        .filter(|s| kept.is_none() || s.digest.is_none())
        .map(|s| s.longest_lease);
    let longest_lease = [shown, kept.map(|kept| kept.longest_lease)]
        .into_iter()
        .flatten()
        .fold(lease, Duration::max);
    let with = |floor, declared_before, beyond| {
        Some(Plan {
            floor,
            current_at: now,
            longest_lease,
            declared_before,
            adopts: declared.is_none(),
            beyond,
        })
    };
    let newest = snapshot.map_or(0, |s| s.last_fence);
    let Some(kept) = kept else {
        return match declared {
            // The status is gone (a restored backup, a retained object), and the object is not.
            Some(snapshot) if snapshot.current => with(newest, true, None),
            Some(_) if seen.now_micros <= newest => {
                let floor = newest.saturating_add(MARGIN_WITHOUT_ELAPSED);
                with(floor, true, Some(floor))
            }
            Some(_) => with(seen.now_micros, true, Some(newest)),
            None => with(seen.now_micros.max(newest), false, Some(0)),
        };
    };
    if let Some(snapshot) = declared.filter(|s| same_data(s, kept.floor)) {
        if snapshot.digest.as_deref() == Some(digest) && !snapshot.withdrawing {
            return None;
        }
        // Not larger than what Redis has, so that nothing is raised.
        return with(snapshot.last_fence, true, None);
    }
    let shown = declared.map_or(0, |s| s.last_fence);
    let beyond = Kept {
        newest: kept.newest.max(shown),
        ..*kept
    }
    .bound(now);
    // First users' tokens since the loss are of the clock: nothing was granted after them.
    with(beyond.max(seen.now_micros).max(newest), true, Some(beyond))
}

/// Returns whether the data of the server, in the life that it was observed in, is the data that got the floor. If not,
/// its newest leases may be missing, even if the server process is the same: it may have been a master before the one
/// that got the floor.
#[must_use]
fn same_data(snapshot: &Snapshot, floor: u64) -> bool {
    snapshot.current && snapshot.last_fence >= floor
}

/// More tokens than can have been granted since.
pub(super) fn granted_since(current_at: Option<SystemTime>, now: SystemTime) -> u64 {
    match current_at.map(|at| now.duration_since(at)) {
        Some(Ok(elapsed)) => u64::try_from(elapsed.as_micros() / MICROS_OF_A_GRANT + 1).unwrap_or(u64::MAX),
        Some(Err(_)) => MARGIN_WITHOUT_ELAPSED,
        None => MARGIN_WITHOUT_TIME,
    }
}

impl Kept {
    /// The floor to keep instead, if this one lags behind the newest token, or it is not known when it was current. The time
    /// to keep with it is one before `newest` was asked for.
    ///
    /// ```
    /// # use std::time::{Duration, SystemTime};
    /// # use tenure::control::Kept;
    /// let kept = Kept { floor: 1, current_at: Some(SystemTime::now()), newest: 0, longest_lease: Duration::from_secs(30) };
    /// assert_eq!(kept.refreshed(1000), None);
    /// assert_eq!(kept.refreshed(1_000_000_000), Some(1_000_000_000));
    /// ```
    #[must_use]
    pub fn refreshed(&self, newest: u64) -> Option<u64> {
        let lags = newest > self.floor.saturating_add(REFRESH_AFTER);
        (lags || self.current_at.is_none()).then_some(newest.max(self.floor))
    }

    /// A number that is larger than every fencing token that was granted up to `now`.
    pub(super) fn bound(&self, now: SystemTime) -> u64 {
        let known = self.floor.max(self.newest);
        known.saturating_add(granted_since(self.current_at, now))
    }

    /// Returns whether Redis' data is of the life that got the kept floor. If not, leases that it does not know may be
    /// running, for as long as [`Kept::longest_lease`].
    ///
    /// ```no_run
    /// # fn run(kept: tenure::control::Kept, seen: tenure::control::Observation) {
    /// if !kept.knows(&seen) {
    ///     println!("some holders may be missing");
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn knows(&self, seen: &Observation) -> bool {
        seen.drained || seen.snapshot.as_ref().is_some_and(|s| same_data(s, self.floor))
    }
}

#[cfg(test)]
mod tests;
