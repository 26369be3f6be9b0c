//! The leases that the sidecar holds. Each has a task that keeps it: until it is released, lost, or left by its owner.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use serde::Serialize;
use tenure::{Client, LeaseState};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until, timeout},
};

use crate::{acquire::Held, object::Object, view::time::rfc3339};

/// The time to wait for the answer to a release: the lease runs out without it.
const PATIENCE: Duration = Duration::from_secs(3);
/// The state of an ended lease is kept so long, for its owner to read.
const REMEMBERED: Duration = Duration::from_secs(300);
/// The states of so many ended leases are kept at most.
const MOST_REMEMBERED: usize = 1000;

/// The cause of a release, and of a refusal, when this process ends.
pub(crate) const ENDS: &str = "tenure serve ends";

/// All leases. Clones share them.
#[derive(Clone)]
pub(crate) struct Leases {
    pub(crate) client: Client,
    shared: Arc<Shared>,
}

struct Shared {
    entries: Mutex<Entries>,
    closing: watch::Sender<Closing>,
    /// Ids of this process begin with it, so that those of one before it are unknown.
    started: String,
    next: AtomicU64,
}

#[derive(Default)]
struct Entries {
    by_id: HashMap<String, Entry>,
    /// The ids of those that have ended, and when: the oldest first.
    ended: VecDeque<(Instant, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
enum Closing {
    Open,
    /// No lease is granted any more.
    Releasing,
    Closed,
}

/// A lease, for its requests. Clones share it.
#[derive(Clone)]
pub(crate) struct Entry {
    facts: Arc<Facts>,
    state: watch::Receiver<State>,
    /// A request has named the lease.
    named: Arc<Notify>,
    release: Arc<Notify>,
    closing: watch::Receiver<Closing>,
}

/// The part of a lease that does not change.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Facts {
    id: String,
    object: String,
    namespace: String,
    fencing_token: u64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    resources: BTreeMap<String, BTreeMap<String, String>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "state")]
pub(crate) enum State {
    /// It is renewed.
    Held {
        /// The lease runs until then if it is not renewed any more.
        expires: String,
    },
    /// It was not renewed in time, and is lost when it expires: nothing new should begin.
    Unsure {
        expires: String,
        cause: String,
    },
    Lost {
        cause: String,
    },
    Released {
        cause: String,
    },
    /// It was to be released, and Redis did not answer: it may be held until then.
    Unreleased {
        expires: String,
        cause: String,
    },
}

/// A lease, as it is answered.
#[derive(Serialize)]
pub(crate) struct View<'a> {
    #[serde(flatten)]
    facts: &'a Facts,
    #[serde(flatten)]
    state: State,
}

impl Leases {
    pub(crate) fn new(client: Client) -> Self {
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        let shared = Shared {
            entries: Mutex::default(),
            closing: watch::Sender::new(Closing::Open),
            started: format!("{:x}", now.as_nanos()),
            next: AtomicU64::new(1),
        };
        Self {
            client,
            shared: Arc::new(shared),
        }
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        let mut entries = self.shared.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.forget();
        entries
    }

    pub(crate) fn get(&self, id: &str) -> Option<Entry> {
        self.entries().by_id.get(id).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Entry> {
        let mut all: Vec<_> = self.entries().by_id.values().cloned().collect();
        all.sort_by_key(|entry| entry.facts.fencing_token);
        all
    }

    /// Keeps a lease, until its owner leaves it: no request names it for the time of its heartbeat.
    /// Returns it if no lease is granted any more.
    pub(crate) fn keep(
        &self,
        held: Held,
        object: &Object,
        heartbeat: Option<Duration>,
    ) -> Result<Entry, Held> {
        // `close` sets the state first and reads the entries then, so that it finds each that is kept here.
        let mut entries = self.entries();
        if *self.shared.closing.borrow() != Closing::Open {
            return Err(held);
        }
        let number = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let Held { lease, resources } = held;
        let facts = Facts {
            id: format!("{}-{number}", self.shared.started),
            object: object.to_string(),
            namespace: lease.object().namespace().to_owned(),
            fencing_token: lease.fencing_token(),
            resources: resources.into_iter().collect(),
        };
        let (sender, state) = watch::channel(state(&lease));
        let entry = Entry {
            facts: Arc::new(facts),
            state,
            named: Arc::default(),
            release: Arc::default(),
            closing: self.shared.closing.subscribe(),
        };
        let id = entry.facts.id.clone();
        entries.by_id.insert(id.clone(), entry.clone());
        drop(entries);
        let (leases, kept) = (self.clone(), entry.clone());
        tokio::spawn(async move {
            let ended = kept.keep(lease, heartbeat, &sender).await;
            sender.send_replace(ended);
            leases.entries().ended.push_back((Instant::now(), id));
        });
        Ok(entry)
    }

    /// Waits until no lease is granted any more.
    pub(crate) async fn closing(&self) {
        self.reached(Closing::Releasing).await;
    }

    /// Waits until all leases were released.
    pub(crate) async fn closed(&self) {
        self.reached(Closing::Closed).await;
    }

    async fn reached(&self, least: Closing) {
        // An error means that the sender is gone, and this has one.
        let _ = self
            .shared
            .closing
            .subscribe()
            .wait_for(|now| *now >= least)
            .await;
    }

    /// Grants no lease any more, and releases all.
    pub(crate) async fn close(&self) {
        self.shared.closing.send_replace(Closing::Releasing);
        let all = self.all();
        // All at once.
        for entry in &all {
            entry.release.notify_one();
        }
        for mut entry in all {
            entry.ended().await;
        }
        self.shared.closing.send_replace(Closing::Closed);
    }
}

impl Entries {
    fn forget(&mut self) {
        while let Some((since, _)) = self.ended.front()
            && (since.elapsed() > REMEMBERED || self.ended.len() > MOST_REMEMBERED)
            && let Some((_, id)) = self.ended.pop_front()
        {
            self.by_id.remove(&id);
        }
    }
}

impl Entry {
    async fn keep(
        &self,
        lease: tenure::Lease,
        heartbeat: Option<Duration>,
        sender: &watch::Sender<State>,
    ) -> State {
        let mut silent_at = heartbeat.map(|time| Instant::now() + time);
        let cause = loop {
            sender.send_replace(state(&lease));
            // A request that asks for the state finds it as it was a moment ago.
            let refresh = Instant::now()
                + lease
                    .remaining()
                    .min(Duration::from_secs(1))
                    .max(Duration::from_millis(50));
            tokio::select! {
                cause = lease.lost() => return State::Lost { cause },
                () = self.release.notified() => break self.why_released().to_owned(),
                () = self.named.notified() => silent_at = heartbeat.map(|time| Instant::now() + time),
                () = sleep_until(silent_at.unwrap_or(refresh)), if silent_at.is_some() => {
                    break "no request named it for the time of its heartbeat".to_owned();
                }
                () = sleep_until(refresh) => {}
            }
        };
        let expires = rfc3339(SystemTime::now() + lease.remaining());
        match timeout(PATIENCE, lease.release()).await {
            Ok(Ok(())) => State::Released { cause },
            Ok(Err(tenure::Error::Lost { cause, .. })) => State::Lost { cause },
            _ => State::Unreleased { expires, cause },
        }
    }

    fn why_released(&self) -> &'static str {
        match *self.closing.borrow() {
            Closing::Open => "by request",
            Closing::Releasing | Closing::Closed => ENDS,
        }
    }

    pub(crate) fn name(&self) {
        self.named.notify_one();
    }

    pub(crate) fn view(&self) -> View<'_> {
        View {
            facts: &self.facts,
            state: self.state.borrow().clone(),
        }
    }

    /// Waits until the lease is lost or released. Cancel safe.
    pub(crate) async fn ended(&mut self) {
        let over = |state: &State| !matches!(state, State::Held { .. } | State::Unsure { .. });
        // An error means that its task has ended, and the state is the last one.
        let _ = self.state.wait_for(over).await;
    }

    pub(crate) async fn release(&mut self) {
        self.release.notify_one();
        self.ended().await;
    }

    /// Releases the lease when the owner is dropped.
    pub(crate) fn owned(self) -> Owned {
        Owned(self)
    }
}

/// The owner of a lease: the answer that is being sent.
pub(crate) struct Owned(pub(crate) Entry);

impl Drop for Owned {
    fn drop(&mut self) {
        self.0.release.notify_one();
    }
}

fn state(lease: &tenure::Lease) -> State {
    let expires = rfc3339(SystemTime::now() + lease.remaining());
    match lease.state() {
        LeaseState::Lost { cause } => State::Lost { cause },
        LeaseState::Unsure { reason } => State::Unsure {
            expires,
            cause: reason,
        },
        _ => State::Held { expires },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_ended_leases_are_forgotten() {
        let mut entries = Entries::default();
        for number in 0..=MOST_REMEMBERED {
            let id = number.to_string();
            let facts = Facts {
                id: id.clone(),
                object: "lock/x".to_owned(),
                namespace: "default".to_owned(),
                fencing_token: 1,
                resources: BTreeMap::new(),
            };
            let released = State::Released { cause: String::new() };
            let entry = Entry {
                facts: Arc::new(facts),
                state: watch::channel(released).1,
                named: Arc::default(),
                release: Arc::default(),
                closing: watch::channel(Closing::Open).1,
            };
            entries.by_id.insert(id.clone(), entry);
            entries.ended.push_back((Instant::now(), id));
        }
        entries.forget();
        assert_eq!(entries.by_id.len(), MOST_REMEMBERED);
        assert!(!entries.by_id.contains_key("0") && entries.by_id.contains_key("1"));
    }
}
