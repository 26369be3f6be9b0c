//! Invariants: checked at each grant against the other holders, and repeatedly against the server's view.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ops::RangeInclusive,
    sync::{Arc, Weak},
    time::{Duration, SystemTime},
};

use super::mixed_primitives::Got;
use tenure::{
    Lease, LeaseState,
    control::{Snapshot, WaiterView},
};
use tokio::time::Instant;

/// Snapshots are taken at least this often.
const LOOKS: Duration = Duration::from_secs(1);
/// A queue entry that is not renewed is not there for longer.
const OLDEST_WAITER: Duration = Duration::from_secs(20);

#[derive(Default)]
pub(super) struct InvariantChecker {
    pub(super) violations: Vec<String>,
    /// Holders by object, and by resource of a pool.
    holders: BTreeMap<String, Vec<Holder>>,
    /// Time of each grant by the server's clock, by object and fencing token.
    fences: BTreeMap<String, BTreeMap<u64, SystemTime>>,
    /// Largest fencing token that was held when its holder saw it, by object.
    newest: HashMap<String, u64>,
    snapshots: HashMap<String, Snapshot>,
    /// Times that a server's clock may have shown twice because it was set back, by object. A queue entry that was made then cannot
    /// be distinguished from another one of the same token.
    shown_twice: HashMap<String, RangeInclusive<SystemTime>>,
    /// Floor of the last declaration after a loss, by object.
    floors: HashMap<String, u64>,
    /// Declaration, and the newest fencing token when that was first seen, by object.
    declared: HashMap<String, (Option<String>, u64)>,
}

struct Holder {
    process: String,
    permits: u64,
    fence: u64,
    state: HolderState,
}

enum HolderState {
    /// A live holder: its state is that of the lease.
    Live(Weak<Got>),
    /// It has crashed, or so it seems to the others: it might act up to its last deadline.
    Crashed { until: Instant },
}

pub(super) fn held(lease: &Lease) -> bool {
    !matches!(lease.state(), LeaseState::Lost { .. })
}

impl Holder {
    fn believes(&self) -> bool {
        match &self.state {
            HolderState::Live(lease) => lease.upgrade().is_some_and(|lease| held(&lease)),
            HolderState::Crashed { until } => Instant::now() < *until,
        }
    }
}

impl InvariantChecker {
    pub(super) fn grants(&self) -> usize {
        self.fences.values().map(BTreeMap::len).sum()
    }

    pub(super) fn highest_fence(&self, object: &str) -> u64 {
        let fences = self.fences.get(object).and_then(|fences| fences.last_key_value());
        fences.map_or(0, |(fence, _)| *fence)
    }

    /// A floor above all tokens that may have been granted since the last one.
    pub(super) fn next_floor(&mut self, object: &str) -> u64 {
        let highest = self.highest_fence(object);
        let floor = self.floors.entry(object.to_owned()).or_default();
        *floor = highest.max(*floor) + 1000;
        *floor
    }

    /// Notes a lease of `permits` of `limit`.
    pub(super) fn granted(
        &mut self,
        object: &str,
        process: &str,
        permits: u64,
        limit: u64,
        lease: &Arc<Got>,
    ) {
        let fence = lease.fencing_token();
        if self
            .fences
            .entry(object.to_owned())
            .or_default()
            .insert(fence, lease.acquired_at())
            .is_some()
        {
            self.violations
                .push(format!("{object}: fencing token {fence} was granted twice"));
        }
        if !held(lease) {
            return; // it came too late
        }
        self.believes(object, process, permits, limit, lease);
        let newest = self.newest.entry(object.to_owned()).or_default();
        if limit == 1 && fence < *newest {
            self.violations
                .push(format!("{object}: fencing token {fence} after {newest}"));
        }
        *newest = fence.max(*newest);
    }

    /// Notes that a process considers itself the holder of `permits` of `limit`.
    pub(super) fn believes(&mut self, what: &str, process: &str, permits: u64, limit: u64, lease: &Arc<Got>) {
        let holders = self.holders.entry(what.to_owned()).or_default();
        holders.retain(Holder::believes);
        holders.push(Holder {
            process: process.to_owned(),
            permits,
            fence: lease.fencing_token(),
            state: HolderState::Live(Arc::downgrade(lease)),
        });
        let sum: u64 = holders.iter().map(|holder| holder.permits).sum();
        if sum > limit {
            let names: Vec<String> = holders
                .iter()
                .map(|b| format!("{} {}x under {}", b.process, b.permits, b.fence))
                .collect();
            self.violations
                .push(format!("{what}: {sum} of {limit} held: {}", names.join(", ")));
        }
    }

    /// Number of permits whose holders consider themselves holders.
    pub(super) fn believed(&mut self, what: &str) -> u64 {
        let holders = self.holders.entry(what.to_owned()).or_default();
        holders.retain(Holder::believes);
        holders.iter().map(|holder| holder.permits).sum()
    }

    /// Notes a grant of an exclusive object.
    pub(super) fn grew(&mut self, object: &str, fence: u64) {
        let newest = self.newest.entry(object.to_owned()).or_default();
        if fence <= *newest {
            self.violations
                .push(format!("{object}: fencing token {fence} after {newest}"));
        }
        *newest = fence.max(*newest);
    }

    /// A process has crashed, though it might only be paused, and do what it does until its deadlines.
    pub(super) fn crashed(&mut self, process: &str) {
        for holder in self.holders.values_mut().flatten() {
            if let HolderState::Live(lease) = &holder.state
                && holder.process == process
                && let Some(lease) = lease.upgrade()
            {
                holder.state = HolderState::Crashed {
                    until: lease.deadline(),
                };
            }
        }
    }

    /// Checks that of two grants the one with the larger fencing token is not the earlier one.
    pub(super) fn fences_grow(&mut self) {
        for (object, fences) in &self.fences {
            let mut last = (0, SystemTime::UNIX_EPOCH);
            for (fence, at) in fences {
                if *at < last.1 {
                    self.violations.push(format!(
                        "{object}: fencing token {fence} was granted before {}",
                        last.0
                    ));
                }
                last = (*fence, *at);
            }
        }
    }

    /// Checks a snapshot of an object.
    pub(super) fn seen(&mut self, object: &str, now: Snapshot) {
        let sum: u64 = now.holders.iter().map(|holder| holder.permits).sum();
        let mut wrong = Vec::new();
        // More than there is can be held only from before it became less: nothing is granted until enough is released.
        let newest = self.declared.entry(object.to_owned()).or_default();
        if newest.0 != now.digest {
            *newest = (now.digest.clone(), now.last_fence);
        }
        let too_much = now.held > now.limit && now.holders.iter().any(|holder| holder.fence > newest.1);
        if sum != now.held || too_much || now.free != now.limit.saturating_sub(now.held) {
            wrong.push(format!(
                "held {}, by holders {sum}, free {}, limit {}",
                now.held, now.free, now.limit
            ));
        }
        if now.waiting != now.waiters.len() as u64 {
            wrong.push(format!(
                "{} wait, and {} are listed",
                now.waiting,
                now.waiters.len()
            ));
        }
        let mut names = HashSet::new();
        for name in now.holders.iter().flat_map(|holder| &holder.resources) {
            if !names.insert(name) {
                wrong.push(format!("{name} is held twice"));
            }
        }
        if let Some(before) = self.snapshots.get(object)
            && before.current == now.current
        {
            if now.now < before.now {
                let (from, to) = (
                    (now.now - LOOKS).max(before.now - OLDEST_WAITER),
                    before.now + LOOKS,
                );
                let times = self.shown_twice.entry(object.to_owned()).or_insert(from..=to);
                *times = from.min(*times.start())..=to.max(*times.end());
            }
            let twice = self.shown_twice.get(object);
            let mut waiters = before.waiters.iter().chain(&now.waiters);
            if !waiters.any(|w| twice.is_some_and(|times| times.contains(&w.since))) {
                wrong.extend(overtaken(before, &now));
            }
            if now.last_fence < before.last_fence {
                wrong.push(format!(
                    "fencing tokens went back from {} to {}",
                    before.last_fence, now.last_fence
                ));
            }
        }
        let complaints = wrong.into_iter().map(|what| format!("{object}: {what}"));
        self.violations.extend(complaints);
        self.snapshots.insert(object.to_owned(), now);
    }

    /// An object is not there, or not as it was: what comes next has nothing to do with what was.
    pub(super) fn forgotten(&mut self, object: &str) {
        self.snapshots.remove(object);
        self.declared.remove(object);
    }
}

/// A workload in which some stand before others writes into the reason how far.
fn priority(reason: &str) -> i8 {
    reason.parse().unwrap_or_default()
}

/// Requests that were granted, or have moved ahead, past an earlier request that still waits, without a larger priority. The
/// position of a request counts from its queue entry; a request that lost its entry and asked again has another. A readmitted
/// holder has an old fencing token.
fn overtaken(before: &Snapshot, now: &Snapshot) -> Vec<String> {
    let was = |w: &WaiterView| {
        before
            .waiters
            .iter()
            .position(|b| (&b.token, b.since) == (&w.token, w.since))
    };
    let mut wrong = Vec::new();
    let order: Vec<usize> = now.waiters.iter().filter_map(was).collect();
    if !order.is_sorted() {
        wrong.push("the queue changed its order".to_owned());
    }
    for (i, one) in now.waiters.iter().enumerate() {
        let mut behind = now.waiters[i + 1..].iter();
        if let Some(other) = behind.find(|other| {
            let (mine, theirs) = (priority(&one.reason), priority(&other.reason));
            theirs > mine || theirs == mine && was(one).is_none() && was(other).is_some()
        }) {
            wrong.push(format!("{} stands before {}", one.token, other.token));
        }
    }
    if let Some((head, at)) = now.waiters.iter().find_map(|w| Some((w, was(w)?))) {
        let position = |token| before.waiters.iter().position(|w| w.token == token);
        for holder in now.holders.iter().filter(|h| h.fence > before.last_fence) {
            // A lease in its grace was granted under the token of its queue entry.
            let token = holder.token.trim_start_matches("grace-");
            let overtook = match position(token) {
                Some(before) => before > at,
                None => priority(&holder.reason) <= priority(&head.reason),
            };
            if overtook {
                wrong.push(format!("{} overtook {}", holder.token, head.token));
            }
        }
    }
    wrong
}
