//! A snapshot of an object, its holders and its waiters, read from the reply of the observing script.

use std::time::{Duration, SystemTime};

use crate::{
    Identity,
    lease::identity::Holder,
    protocol::calls::{Lease, Observed, Waiter},
};

/// An object as Redis has it.
///
/// ```no_run
/// # fn run(snapshot: &tenure::control::Snapshot) {
/// println!("{} of {} held, {} wait", snapshot.held, snapshot.limit, snapshot.waiting);
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// When this was so, by the server's clock.
    pub now: SystemTime,
    /// The digest of the declaration; none: its first user made it.
    pub digest: Option<String>,
    /// `true` if the object was declared in the present life of the server that answers. If not, that server may have
    /// lost the object's newest leases, and it grants nothing new before the object is declared again. In a cluster
    /// each object has its own server, so that only the script knows it.
    pub current: bool,
    /// Permits, or resources in service.
    pub limit: u64,
    /// Permits or resources held.
    pub held: u64,
    /// Permits or resources that could be granted.
    pub free: u64,
    /// Requests in the queue.
    pub waiting: u64,
    /// The newest fencing token.
    pub last_fence: u64,
    /// Until then nothing new is granted.
    pub recovering_until: Option<SystemTime>,
    /// Being withdrawn: gone when nothing is held any more.
    pub withdrawing: bool,
    /// When a lease or a queue entry expires next, or the recovery ends.
    pub next_change: Option<SystemTime>,
    /// No lease, queue entry or grace of this object has run for longer.
    pub longest_lease: Duration,
    /// The oldest leases first, as many as were asked for.
    pub holders: Vec<HolderView>,
    /// The head of the queue first, as many as were asked for.
    pub waiters: Vec<WaiterView>,
}

impl Snapshot {
    pub(super) fn of(observed: Observed) -> Self {
        let now = observed.now;
        Self {
            now: time(now),
            digest: Some(observed.digest).filter(|digest| !digest.is_empty()),
            current: observed.current,
            limit: observed.limit,
            held: observed.held,
            free: observed.free,
            waiting: observed.waiting,
            last_fence: observed.last,
            recovering_until: (observed.recover > now).then(|| time(observed.recover)),
            withdrawing: observed.draining,
            next_change: (observed.wake > 0).then(|| time(now + observed.wake)),
            longest_lease: Duration::from_millis(observed.longest),
            holders: observed.holders.into_iter().map(holder_view).collect(),
            waiters: observed.waiters.into_iter().map(waiter_view).collect(),
        }
    }

    /// The number of held permits or resources that are out of service: they drain.
    ///
    /// ```no_run
    /// # fn run(snapshot: &tenure::control::Snapshot) {
    /// println!("{} are kept by their holders alone", snapshot.draining());
    /// # }
    /// ```
    #[must_use]
    pub fn draining(&self) -> u64 {
        (self.held + self.free).saturating_sub(self.limit)
    }
}

/// A lease, as others see it.
///
/// ```no_run
/// # fn run(snapshot: &tenure::control::Snapshot) {
/// for view in &snapshot.holders {
///     println!("{:?} by {} until {:?}", view.resources, view.holder.process, view.expires);
/// }
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HolderView {
    /// Names the lease, for [`Control::reclaim`](super::Control::reclaim). It may be shown: nothing can be adopted by it.
    pub token: String,
    /// The fencing token.
    pub fence: u64,
    /// The number of its permits.
    pub permits: u64,
    /// The names of its resources.
    pub resources: Vec<String>,
    /// When it was granted.
    pub since: SystemTime,
    /// When it runs out unless renewed.
    pub expires: SystemTime,
    /// The end of the longest hold, beyond which no renewal extends the lease; absent where renewals have no end.
    pub renewable_until: Option<SystemTime>,
    /// The identity of the holder.
    pub holder: Identity,
    /// The reason that the holder has given.
    pub reason: String,
}

/// A queue entry, as others see it.
///
/// ```no_run
/// # fn run(snapshot: &tenure::control::Snapshot) {
/// for (index, view) in snapshot.waiters.iter().enumerate() {
///     println!("{}. {} since {:?}", index + 1, view.holder.process, view.since);
/// }
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaiterView {
    /// Identifies the queue entry, for [`Control::reclaim`](super::Control::reclaim).
    pub token: String,
    /// The number of permits or resources that it requests.
    pub permits: u64,
    /// When it asked.
    pub since: SystemTime,
    /// The identity of the waiter.
    pub holder: Identity,
    /// The reason that the waiter has given.
    pub reason: String,
}

fn time(ms: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(ms)
}

fn holder_view(lease: Lease) -> HolderView {
    let entry = Entry::read(&lease.entry).unwrap_or_else(Entry::unreadable);
    HolderView {
        token: lease.token,
        fence: lease.fence,
        permits: entry.permits,
        resources: entry.resources,
        since: time(entry.since),
        expires: time(lease.expires),
        renewable_until: (entry.max_hold > 0).then(|| time(entry.since.saturating_add(entry.max_hold))),
        holder: entry.holder.identity,
        reason: entry.holder.reason,
    }
}

fn waiter_view(waiter: Waiter) -> WaiterView {
    let entry = Entry::read(&waiter.entry).unwrap_or_else(Entry::unreadable);
    WaiterView {
        token: waiter.token,
        permits: entry.permits,
        since: time(entry.since),
        holder: entry.holder.identity,
        reason: entry.holder.reason,
    }
}

/// The value of a token: see the head of `lua/lib/object.lua`.
struct Entry {
    permits: u64,
    max_hold: u64,
    since: u64,
    resources: Vec<String>,
    holder: Holder,
}

impl Entry {
    /// Stands for an entry that was damaged by another program: it counts, and ends with its lease.
    fn unreadable() -> Self {
        Self {
            permits: 1,
            max_hold: 0,
            since: 0,
            resources: Vec::new(),
            holder: Holder {
                reason: "its entry in Redis cannot be read".to_owned(),
                ..Holder::default()
            },
        }
    }

    fn read(entry: &str) -> Option<Self> {
        let mut parts = entry.splitn(9, ' ');
        let permits = parts.next()?.parse().ok()?;
        let max_hold = parts.nth(2)?.parse().ok()?;
        let since = parts.nth(1)?.parse().ok()?;
        let names = parts.nth(1)?;
        let resources = if names == "-" || names.starts_with('@') {
            Vec::new()
        } else {
            names.split(',').map(str::to_owned).collect()
        };
        // A client in another language may write other fields about itself.
        let holder = parts
            .next()
            .and_then(|json| serde_json::from_str(json).ok())
            .unwrap_or_default();
        Some(Self {
            permits,
            max_hold,
            since,
            resources,
            holder,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_reads_with_spaces_in_the_holder_and_without_a_known_holder() {
        let entry = Entry::read(
            r#"2 30000 10000 90000 0 17 chan a,b {"process":"h/1","namespace":"x","reason":"two words"}"#,
        );
        let entry = entry.unwrap();
        assert_eq!(
            (entry.permits, entry.max_hold, entry.since, entry.resources),
            (2, 90_000, 17, vec!["a".to_owned(), "b".to_owned()])
        );
        assert_eq!(
            (
                entry.holder.reason.as_str(),
                entry.holder.identity.process.as_str()
            ),
            ("two words", "h/1")
        );
        let strange = Entry::read("1 30000 10000 0 0 17 chan - whoever").unwrap();
        assert_eq!((strange.resources, strange.holder), (vec![], Holder::default()));
    }
}
