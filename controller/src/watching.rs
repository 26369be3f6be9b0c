//! Watching: whether the watches of the API server still deliver, for `/readyz`.
//!
//! A watch that runs shows neither that its permission was removed, which the API server checks at its start alone, nor that the
//! API server is frozen, which closes no connection. So each watch has a probe: every ten seconds the first object is listed, and
//! a watch is started and dropped. With the time that the API server has to answer, `/readyz` is red within 20 s, and green again
//! within 20 s after the cause has ended. The watch itself reports errors that a probe does not see, such as an object that cannot
//! be read.

use std::{
    convert::Infallible,
    fmt::Debug,
    sync::{Arc, Mutex},
    time::Duration,
};

use kube::{
    Api, Resource,
    api::{ListParams, WatchParams},
    runtime::watcher,
};
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::{failure, http::Health, lock::lock};

/// The time between two probes of a watch.
const PROBE_EVERY: Duration = Duration::from_secs(10);
/// The time in which the API server has to answer both calls of a probe.
const PROBE_LIMIT: Duration = Duration::from_secs(5);
/// The shortest and the longest time after which a watch that broke is started again, without jitter.
const SHORTEST_BACKOFF: Duration = Duration::from_millis(800);
const LONGEST_BACKOFF: Duration = Duration::from_secs(5);
/// A watch that has not broken again for this long is running, although no change has come.
const ERROR_STANDS: Duration = Duration::from_secs(12);

/// The back-off of all watches: kube's own waits for up to a minute, and `/readyz` could not be green before.
#[derive(Debug)]
pub(crate) struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Self {
        Self(SHORTEST_BACKOFF)
    }
}

impl Iterator for Backoff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let wait = self.0.mul_f64(0.75 + fastrand::f64() / 2.0);
        self.0 = (self.0 * 2).min(LONGEST_BACKOFF);
        Some(wait)
    }
}

impl kube::runtime::utils::Backoff for Backoff {
    fn reset(&mut self) {
        *self = Self::default();
    }
}

/// The check of one watch in `/readyz`.
#[derive(Debug)]
pub(crate) struct WatchCheck {
    name: String,
    plural: String,
    health: Arc<Health>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The first list has come.
    listed: bool,
    /// The last error of the watch, unless it has delivered since.
    error: Option<(String, Instant)>,
    /// The problem that the last probe has found.
    probe: Option<String>,
}

impl State {
    /// Returns the reason why the watch does not deliver.
    fn problem(&self, now: Instant) -> Option<&str> {
        let error = self.error.as_ref().filter(|(_, at)| {
            let stands = now.saturating_duration_since(*at) < ERROR_STANDS;
            !self.listed || stands
        });
        let not_listed = (!self.listed).then_some("the first list has not come yet");
        let error = error.map(|(error, _)| error.as_str());
        self.probe.as_deref().or(error).or(not_listed)
    }
}

impl WatchCheck {
    /// A check of that name, of the watch of resources with that plural name.
    pub(crate) fn new(health: &Arc<Health>, name: String, plural: &str) -> Arc<Self> {
        let check = Self {
            name,
            plural: plural.to_owned(),
            health: health.clone(),
            state: Mutex::default(),
        };
        check.change(|_| {});
        Arc::new(check)
    }

    /// Notes an event of the watch.
    pub(crate) fn delivered<K>(&self, event: &watcher::Event<K>) {
        self.change(|state| {
            state.listed |= matches!(event, watcher::Event::InitDone);
            // A list begins before it has come.
            if !matches!(event, watcher::Event::Init) {
                state.error = None;
            }
        });
    }

    /// Notes that the watch broke.
    pub(crate) fn broke(&self, error: &watcher::Error) {
        let error = failure::describe_watch(error, &self.plural);
        self.change(|state| state.error = Some((error, Instant::now())));
    }

    /// Probes the watch of these objects until it is dropped.
    pub(crate) async fn probe<K>(&self, api: Api<K>, fields: Option<&str>) -> Infallible
    where
        K: Resource + Clone + Debug + DeserializeOwned,
    {
        loop {
            tokio::time::sleep(PROBE_EVERY).await;
            let problem = match tokio::time::timeout(PROBE_LIMIT, probe(&api, fields)).await {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(failure::describe_of(&error, &self.plural)),
                Err(_) => Some(format!(
                    "the API server does not answer within {} s: check whether it runs, and the network between",
                    PROBE_LIMIT.as_secs()
                )),
            };
            self.change(|state| state.probe = problem);
        }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = lock(&self.state);
        let listed_before = state.listed;
        change(&mut state);
        match state.problem(Instant::now()) {
            None => self.health.good(&self.name),
            Some(problem) => {
                let is_start = !listed_before && state.error.is_none() && state.probe.is_none();
                if self.health.bad(&self.name, problem) && !is_start {
                    tracing::warn!(
                        check = self.name,
                        problem,
                        "the watch does not deliver, trying again"
                    );
                }
            }
        }
    }
}

/// Lists the first object, and starts a watch from there.
async fn probe<K>(api: &Api<K>, fields: Option<&str>) -> Result<(), kube::Error>
where
    K: Resource + Clone + Debug + DeserializeOwned,
{
    let (mut list, mut watch) = (ListParams::default().limit(1), WatchParams::default().timeout(1));
    if let Some(fields) = fields {
        (list, watch) = (list.fields(fields), watch.fields(fields));
    }
    let listed = api.list_metadata(&list).await?;
    let version = listed.metadata.resource_version.unwrap_or_default();
    // The answer has come when the stream is there.
    api.watch_metadata(&watch, &version).await.map(drop)
}

/// Runs the work of a watch, with its probe beside it, until the work ends.
pub(crate) async fn with_probe<T>(
    work: impl Future<Output = T>,
    probe: impl Future<Output = Infallible>,
) -> T {
    tokio::select! {
        output = work => output,
        never = probe => match never {},
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOT_LISTED: Option<&str> = Some("the first list has not come yet");

    #[test]
    fn a_watch_delivers_when_its_list_has_come_and_no_problem_is_left() {
        let now = Instant::now();
        let mut state = State::default();
        assert_eq!(state.problem(now), NOT_LISTED);
        state.error = Some(("forbidden".to_owned(), now));
        assert_eq!(
            state.problem(now + ERROR_STANDS),
            Some("forbidden"),
            "it was never listed"
        );
        state.listed = true;
        assert_eq!(state.problem(now + ERROR_STANDS / 2), Some("forbidden"));
        assert_eq!(state.problem(now + ERROR_STANDS), None, "it has not broken again");
        state.probe = Some("no answer".to_owned());
        assert_eq!(state.problem(now + ERROR_STANDS), Some("no answer"));
    }

    #[test]
    fn an_error_stands_for_longer_than_the_watch_waits_before_it_breaks_again() {
        let longest = Backoff::default().take(100).max().unwrap();
        assert!((LONGEST_BACKOFF..ERROR_STANDS).contains(&longest), "{longest:?}");
        assert!(PROBE_EVERY + PROBE_LIMIT < Duration::from_secs(20));
    }
}
