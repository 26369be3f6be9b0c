//! Epochs: the record that backs the fencing floors of all objects after a loss of data, as a ConfigMap. The decisions are
//! those of [`tenure::control::Epochs`]; here are the calls of the API server, and what is still to be reported of the objects
//! that were declared before their statuses were written.
//!
//! ```yaml
//! data:
//!   from: "1795257448000000"            # objects are declared under floors of at least this
//!   to: "1795257515108864"              # and at most this
//!   time: "2026-11-21T09:17:28.000031Z" # when it was written
//!   open: "true"                        # statuses may have smaller floors
//!   process: 5f2c9a61d03e7b48           # the controller that wrote it
//!   renewed: "2026-11-21T09:17:38.000031Z" # when it was alive, as long as the epoch is open
//! ```

use std::{
    collections::{BTreeMap, HashMap},
    iter,
    sync::Mutex,
    time::{Duration, SystemTime},
};

use jiff::Timestamp;
use k8s_openapi::{api::core::v1::ConfigMap, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{Api, Client, ResourceExt, api::Patch, runtime::reflector::Store};
use serde_json::json;
use tenure::{
    ObjectRef,
    control::{Backing, Epoch, Epochs, Kept, Observation, Plan, Raised},
};
use tokio::time::Instant;

use crate::{
    apply::{merge_params, post_params},
    failure::{Failure, bounded},
    installations,
    kinds::Declared,
    lock::lock,
    plan::{declaration, status::timestamp},
    telemetry::Metrics,
};

/// A status is written when no object was declared under an epoch for this long, so that all objects are declared first.
pub(crate) const STATUSES_AFTER: Duration = Duration::from_secs(1);
/// A status is not delayed for longer.
const LONGEST_DELAY: Duration = Duration::from_secs(30);
/// The record is closed when no object was declared under the epoch for this long.
const CLOSE_AFTER: Duration = Duration::from_secs(10);
/// The record is read at least this often, because another controller may have written it.
const READ_EVERY: Duration = Duration::from_secs(10);
/// The record is written this often while it is open, so that other controllers know that this one is alive.
const RENEW_EVERY: Duration = Duration::from_secs(10);
/// The open epoch of another controller that has not been renewed for this long is taken for one that was left.
const LEFT_AFTER: Duration = Duration::from_secs(30);
/// An object that another controller declares is looked at again after this.
pub(crate) const WAIT_FOR_ANOTHER: Duration = Duration::from_secs(2);
const TICK: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_secs(2);
/// Changes of the record by other processes while one object is declared.
const MOST_CHANGES: usize = 5;

/// The record, and the state that this process has of it.
pub(crate) struct EpochRecord {
    /// Absent: no record is configured, and each status is written before its object is declared.
    api: Option<(Api<ConfigMap>, String)>,
    /// The own installation; objects of another one are not declared under these epochs.
    installation: Option<String>,
    process: String,
    /// Locked during each call of the API server.
    known: tokio::sync::Mutex<Known>,
    state: Mutex<State>,
    sources: Mutex<Vec<Source>>,
    metrics: Metrics,
}

/// Reads the statuses of the objects of a store; `None`: it is not complete yet.
type Source = Box<dyn Fn() -> Option<Vec<(ObjectRef, Option<Kept>)>> + Send + Sync>;

/// The record as it was read or written last.
#[derive(Default)]
struct Known {
    version: Option<String>,
    /// The beginning of the last call that has shown that the record is so.
    read_at: Option<Instant>,
    /// An epoch that was sent, and may have been written.
    sent: Option<Epoch>,
    /// The epoch that this process has not written, and its process.
    other: Option<(Epoch, String)>,
    /// That epoch was found open, or was renewed.
    other_since: Option<Instant>,
    written_at: Option<Instant>,
    /// The API server has refused the record.
    refused: bool,
}

#[derive(Default)]
struct State {
    epochs: Epochs,
    unreported: HashMap<ObjectRef, (Unreported, Instant)>,
    /// The last declaration under an epoch.
    declared_at: Option<Instant>,
}

/// The part of a declaration that the next status of the object reports.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Unreported {
    /// The object recovers from a loss of data.
    pub(crate) recovers: bool,
    /// First users may have got longer leases than the status shows: see [`Plan::adopts`].
    pub(crate) adopts: bool,
}

/// The state of an object, as far as it differs from its status.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ahead {
    /// The state that plans are made from.
    pub(crate) kept: Option<Kept>,
    /// The floor that the next status gets.
    pub(crate) raised: Option<Raised>,
    pub(crate) unreported: Option<Unreported>,
    /// The least floor of a first declaration.
    pub(crate) first_floor: u64,
}

/// The place of the floor of a declaration.
#[derive(Debug)]
pub(crate) enum KeptIn {
    /// In the record; with what was known of the object before, in case the declaration is refused.
    Record(u64, Option<Raised>),
    /// In the status, which is to be written first.
    Status,
    /// Another controller declares the object.
    Another,
}

impl EpochRecord {
    /// A record in a ConfigMap of that namespace and name.
    pub(crate) fn new(
        client: &Client,
        record: Option<&(String, String)>,
        installation: Option<&str>,
        metrics: Metrics,
    ) -> Self {
        let api = |(namespace, name): &(String, String)| {
            let api = Api::namespaced(client.clone(), namespace);
            (api, name.clone())
        };
        Self {
            api: record.map(api),
            installation: installation.map(str::to_owned),
            process: format!("{:016x}", fastrand::u64(..)),
            known: tokio::sync::Mutex::default(),
            state: Mutex::default(),
            sources: Mutex::default(),
            metrics,
        }
    }

    /// Adds the objects of a store; `is_complete` returns whether its first list has come.
    pub(crate) fn add<K: Declared>(
        &self,
        store: Store<K>,
        is_complete: impl Fn() -> bool + Send + Sync + 'static,
    ) {
        let installation = self.installation.clone();
        let source = move || {
            is_complete().then(|| {
                store
                    .state()
                    .iter()
                    .filter_map(|object| status(&**object, installation.as_deref()))
                    .collect()
            })
        };
        lock(&self.sources).push(Box::new(source));
    }

    /// Adds objects.
    #[cfg(test)]
    pub(crate) fn add_statuses<K: Declared>(&self, objects: impl Fn() -> Vec<K> + Send + Sync + 'static) {
        let installation = self.installation.clone();
        let status = move |object: &K| status(object, installation.as_deref());
        let source = move || Some(objects().iter().filter_map(&status).collect());
        lock(&self.sources).push(Box::new(source));
    }

    /// Reads the record before the first object is reconciled. An epoch that is open belonged to a process that has ended.
    pub(crate) async fn start(&self) {
        let mut known = self.known.lock().await;
        while self.api.is_some() && known.read_at.is_none() && !known.refused {
            if let Err(failure) = self.read(&mut known).await {
                tracing::warn!(error = %failure, "the record of epochs cannot be read, trying again");
                tokio::time::sleep(RETRY).await;
            }
            lock(&self.state).epochs.abandoned();
            known.other_since = None;
        }
    }

    /// Follows the record, and closes it when all statuses are written. Never ends.
    pub(crate) async fn follow(&self) {
        loop {
            tokio::time::sleep(TICK).await;
            if let Err(failure) = self.tick().await {
                tracing::warn!(error = %failure, "the record of epochs cannot be brought up to date, trying again");
            }
        }
    }

    pub(crate) async fn tick(&self) -> Result<(), Failure> {
        if self.api.is_none() {
            return Ok(());
        }
        let mut known = self.known.lock().await;
        if known.read_at.is_none_or(|at| at.elapsed() >= READ_EVERY) {
            self.read(&mut known).await?;
        }
        if known
            .other_since
            .is_some_and(|since| since.elapsed() >= LEFT_AFTER)
        {
            lock(&self.state).epochs.abandoned();
            known.other_since = None;
        }
        let Some(statuses) = self.complete_statuses() else {
            return Ok(());
        };
        let closed = {
            let mut state = lock(&self.state);
            let quiet = state.declared_at.is_none_or(|at| at.elapsed() >= CLOSE_AFTER);
            let floors = statuses
                .into_iter()
                .map(|(object, kept)| (object, kept.map(|kept| kept.floor)));
            quiet
                .then(|| state.epochs.close(floors, SystemTime::now()))
                .flatten()
        };
        let Some(closed) = closed else {
            let own = lock(&self.state).epochs.own();
            if let Some(own) = own.filter(|_| known.written_at.is_none_or(|at| at.elapsed() >= RENEW_EVERY)) {
                self.write(&mut known, own).await?;
            }
            return Ok(());
        };
        if self.write(&mut known, closed).await? {
            lock(&self.state).epochs.closed();
            tracing::info!("all statuses have their floors, the epoch is closed");
        }
        Ok(())
    }

    /// The state of an object, where its status lags behind, or may.
    pub(crate) fn ahead(&self, object: &ObjectRef, status: Option<Kept>) -> Ahead {
        let (state, now) = (lock(&self.state), SystemTime::now());
        let kept = state.epochs.kept(object, status, now);
        let raised = state.epochs.raised(object);
        Ahead {
            kept: kept.filter(|_| kept != status),
            raised: raised.filter(|raised| status.is_some_and(|status| status.floor < raised.floor)),
            unreported: state.unreported.get(object).map(|(unreported, _)| *unreported),
            first_floor: state.epochs.first_floor(now),
        }
    }

    /// Returns for how long the status of an object waits, because others are being declared.
    pub(crate) fn status_waits(&self, object: &ObjectRef) -> Option<Duration> {
        let state = lock(&self.state);
        let (_, since) = state.unreported.get(object)?;
        let quiet = state.declared_at?.elapsed();
        (quiet < STATUSES_AFTER && since.elapsed() < LONGEST_DELAY).then_some(STATUSES_AFTER)
    }

    /// Returns where the floor of an object is kept before it is declared again, which was seen at `observed`.
    pub(crate) async fn back(
        &self,
        object: &ObjectRef,
        kept: &Kept,
        plan: &Plan,
        seen: &Observation,
        observed: Instant,
    ) -> Result<KeptIn, Failure> {
        if self.api.is_none() {
            return Ok(KeptIn::Status);
        }
        let mut known = self.known.lock().await;
        for _ in 0..MOST_CHANGES {
            if known.refused {
                return Ok(KeptIn::Status);
            }
            let (backing, now) = {
                let (state, now) = (lock(&self.state), SystemTime::now());
                let others = iter::once_with(|| self.statuses()).flatten();
                let epochs = &state.epochs;
                let backing = epochs.back(kept, plan, seen.now_micros, others, now);
                (backing, now)
            };
            match backing {
                Backing::Status(_) => return Ok(KeptIn::Status),
                Backing::Wait => return Ok(KeptIn::Another),
                Backing::Epoch(floor) if known.read_at >= Some(observed) => {
                    let mut state = lock(&self.state);
                    state.declared_at = Some(Instant::now());
                    let before = state.epochs.declares(object, plan, floor, now);
                    return Ok(KeptIn::Record(floor, before));
                }
                Backing::Epoch(_) => self.read(&mut known).await?,
                Backing::NewEpoch(epoch) => {
                    if self.write(&mut known, epoch).await? {
                        lock(&self.state).epochs.opened(epoch);
                        tracing::info!(from = epoch.from, to = epoch.to, "a new epoch of fencing tokens");
                    }
                }
            }
        }
        Ok(KeptIn::Another)
    }

    /// Notes that Redis has refused a declaration.
    pub(crate) fn undo(&self, object: &ObjectRef, before: Option<Raised>) {
        lock(&self.state).epochs.undo(object, before);
    }

    /// Notes what the next status of an object has to report of its declaration.
    pub(crate) fn report_later(&self, object: &ObjectRef, unreported: Unreported) {
        let mut state = lock(&self.state);
        state
            .unreported
            .insert(object.clone(), (unreported, Instant::now()));
    }

    /// Notes that the status of an object has this floor.
    pub(crate) fn written(&self, object: &ObjectRef, floor: Option<u64>) {
        let mut state = lock(&self.state);
        if let Some(floor) = floor {
            state.epochs.written(object, floor);
        }
        if state.epochs.raised(object).is_none() && state.unreported.remove(object).is_some() {
            let left = state.unreported.len();
            state.unreported.shrink_to(left * 4);
        }
    }

    /// Forgets what is to be reported of an object that is gone.
    pub(crate) fn forget(&self, object: &ObjectRef) {
        lock(&self.state).unreported.remove(object);
    }

    fn statuses(&self) -> Vec<Kept> {
        let sources = lock(&self.sources);
        let objects = sources.iter().filter_map(|source| source()).flatten();
        objects.filter_map(|(_, kept)| kept).collect()
    }

    fn complete_statuses(&self) -> Option<Vec<(ObjectRef, Option<Kept>)>> {
        let sources = lock(&self.sources);
        let objects: Option<Vec<_>> = sources.iter().map(|source| source()).collect();
        Some(objects?.into_iter().flatten().collect())
    }

    async fn read(&self, known: &mut Known) -> Result<(), Failure> {
        let Some((api, name)) = &self.api else {
            return Ok(());
        };
        let begun = Instant::now();
        match bounded(api.get_opt(name)).await {
            Ok(found) => {
                self.found(known, found.as_ref());
                known.read_at = Some(begun);
                known.refused = false;
                Ok(())
            }
            Err(failure) => self.refused(known, failure),
        }
    }

    /// Notes the record as it was read.
    fn found(&self, known: &mut Known, found: Option<&ConfigMap>) {
        let version = found.and_then(ResourceExt::resource_version);
        if known.read_at.is_some() && known.version == version {
            return;
        }
        known.version = version;
        let record = found.and_then(parse);
        if Self::is_renewed(known, record.as_ref()) {
            return;
        }
        let mut state = lock(&self.state);
        let sent = known.sent.take();
        let record = match record {
            Some((epoch, process)) if process == self.process => {
                if state.epochs.own() == Some(epoch) {
                    return;
                }
                if sent == Some(epoch) {
                    return state.epochs.opened(epoch);
                }
                // An old one that was restored: this process knows what it has declared under it.
                Some(Epoch {
                    to: epoch.from,
                    open: false,
                    ..epoch
                })
            }
            other => other.map(|(epoch, _)| epoch),
        };
        state.epochs.found(record);
        known.other_since = state.epochs.waits_for_another().then(Instant::now);
    }

    /// Returns whether a record that was read is the known one of another process, which has renewed it.
    fn is_renewed(known: &mut Known, record: Option<&(Epoch, String)>) -> bool {
        let same = record.is_some() && record == known.other.as_ref();
        if same {
            known.other_since = known.other_since.map(|_| Instant::now());
        } else {
            known.other = record.cloned();
        }
        same
    }

    /// Writes the record, unless another process has written it since it was read. Returns whether it was written.
    async fn write(&self, known: &mut Known, epoch: Epoch) -> Result<bool, Failure> {
        let Some((api, name)) = &self.api else {
            return Ok(false);
        };
        if known.read_at.is_none() || known.sent.is_some() {
            self.read(known).await?;
            known.sent = None;
            return Ok(false);
        }
        let begun = Instant::now();
        known.sent = Some(epoch);
        let data = data(&epoch, &self.process);
        let written = if let Some(version) = &known.version {
            let patch = Patch::Merge(json!({ "metadata": { "resourceVersion": version }, "data": data }));
            bounded(api.patch(name, &merge_params(), &patch)).await
        } else {
            let metadata = ObjectMeta {
                name: Some(name.clone()),
                ..ObjectMeta::default()
            };
            let config_map = ConfigMap {
                metadata,
                data: Some(data),
                ..ConfigMap::default()
            };
            bounded(api.create(&post_params(), &config_map)).await
        };
        match written {
            Ok(written) => {
                self.metrics.epoch_writes.inc();
                known.version = written.resource_version();
                (known.read_at, known.sent, known.other) = (Some(begun), None, None);
                known.written_at = Some(begun);
                Ok(true)
            }
            // Another process has written it, or it was made or deleted.
            Err(failure) if failure.is_outdated() || failure.is_not_found() => {
                known.sent = None;
                self.read(known).await?;
                Ok(false)
            }
            Err(failure) => {
                if failure.is_forbidden() {
                    known.sent = None;
                }
                self.refused(known, failure).map(|()| false)
            }
        }
    }

    /// Without the permission, each object's status is written before its declaration.
    fn refused(&self, known: &mut Known, failure: Failure) -> Result<(), Failure> {
        if !failure.is_forbidden() {
            return Err(failure);
        }
        if !known.refused {
            let record = self.api.as_ref().map(|(api, name)| {
                let namespace = api.namespace().unwrap_or_default();
                format!("{namespace}/{name}")
            });
            tracing::warn!(record, error = %failure, "the record of epochs cannot be used: a recovery writes each status first, and takes \
                longer. Allow get and patch of this ConfigMap, and make it if it is missing");
        }
        known.refused = true;
        known.read_at = Some(Instant::now());
        Ok(())
    }
}

/// The state that the status of an object has; `None` of an object of another installation than `own`.
fn status<K: Declared>(object: &K, own: Option<&str>) -> Option<(ObjectRef, Option<Kept>)> {
    let report = object.report();
    if installations::is_another(report.common.controller.as_deref(), own) {
        return None;
    }
    let kept = declaration::kept_in(&report, object.lease());
    Some((object.declares().ok()?, kept))
}

fn data(epoch: &Epoch, process: &str) -> BTreeMap<String, String> {
    let time = timestamp(epoch.at).to_string();
    let renewed = ("renewed", Timestamp::now().to_string());
    [
        renewed,
        ("from", epoch.from.to_string()),
        ("to", epoch.to.to_string()),
        ("time", time),
        ("open", epoch.open.to_string()),
        ("process", process.to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

/// The epoch in a ConfigMap, and the process that wrote it. One without data is new; other data is taken for none.
fn parse(config_map: &ConfigMap) -> Option<(Epoch, String)> {
    let data = config_map.data.as_ref()?;
    let epoch = || {
        let time: Timestamp = data.get("time")?.parse().ok()?;
        Some(Epoch {
            from: data.get("from")?.parse().ok()?,
            to: data.get("to")?.parse().ok()?,
            at: time.into(),
            open: data.get("open")?.parse().ok()?,
        })
    };
    let epoch = epoch();
    if epoch.is_none() {
        tracing::warn!(
            name = config_map.name_any(),
            "the data of the record of epochs has another form, and is made anew"
        );
    }
    Some((epoch?, data.get("process").cloned().unwrap_or_default()))
}

#[cfg(test)]
mod tests;
