//! Replicas: whether another controller of the installation reaches Redis while this one does not.
//!
//! A controller that alone is cut off must not report that Redis is unreachable, and must not give up a deletion, because another one
//! serves the objects. It asks by an annotation of the Lease of the installation, and a controller that reaches Redis answers by
//! another one. So nothing is written while Redis is reachable, and one question serves all objects and all controllers that ask.
//!
//! ```yaml
//! metadata:
//!   annotations:
//!     tenure.dev/redis-asked: 5f2c9a61d03e7b48     # the last question: a random number
//!     tenure.dev/redis-answered: 5f2c9a61d03e7b48  # the last question that was answered
//! ```

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::StreamExt;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Api, Client, ResourceExt,
    api::Patch,
    core::PartialObjectMeta,
    runtime::{WatchStreamExt, watcher},
};
use serde_json::json;
use tenure::{Control, control::Server};
use tokio::{sync::watch, time::Instant};

use crate::{
    apply::merge_params,
    failure::{Failure, bounded},
    http::Health,
    leftovers::Records,
    redis_health,
    run::WATCH_SECONDS,
    watching::{self, WatchCheck},
};

const ASKED: &str = "tenure.dev/redis-asked";
const ANSWERED: &str = "tenure.dev/redis-answered";
/// The time that the other controllers have for an answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);
/// An answer counts for this long, and so does its absence unless one comes.
const HOLDS_FOR: Duration = Duration::from_secs(10);
/// A question is answered for this long, also by a controller that reaches Redis only then.
const ANSWERED_FOR: Duration = Duration::from_secs(15);

/// The Lease, whose annotations are all that is read and written.
type LeaseMeta = PartialObjectMeta<Lease>;

/// Annotations to be written, and those without a value to be removed.
type Annotations = BTreeMap<String, Option<String>>;

/// The questions and answers of the controllers of an installation.
pub(crate) struct Replicas {
    /// The Lease of the installation; absent: it has none, and no other controllers are known.
    lease: Option<(Api<LeaseMeta>, String)>,
    seen: watch::Sender<Seen>,
    leftovers: watch::Sender<Records>,
    /// The last question that got no answer in time. Locked while this controller asks, so that one question serves all objects.
    unanswered: tokio::sync::Mutex<Option<Instant>>,
}

/// The annotations as they were seen last, and when.
#[derive(Clone, Debug, Default)]
struct Seen {
    is_listed: bool,
    /// Absent: it was there when this controller started, or there is none.
    question: Option<(String, Instant)>,
    asked: Option<String>,
    answered: Option<String>,
    /// The time of the last answer.
    answer_at: Option<Instant>,
}

impl Seen {
    /// Notes the annotations.
    fn note(&mut self, asked: Option<String>, answered: Option<String>, now: Instant) {
        if asked != self.asked {
            self.question = asked.clone().filter(|_| self.is_listed).map(|id| (id, now));
            self.asked = asked;
        }
        if answered != self.answered
            && let Some((question, at)) = &self.question
            && answered.as_ref() == Some(question)
            && now.saturating_duration_since(*at) < ANSWERED_FOR
        {
            self.answer_at = Some(now);
        }
        self.answered = answered;
    }

    /// Returns whether a controller reached Redis a moment ago.
    fn is_answered(&self, now: Instant) -> bool {
        self.answer_at
            .is_some_and(|at| now.saturating_duration_since(at) < HOLDS_FOR)
    }

    /// The question without an answer that is younger than `age`.
    fn open(&self, now: Instant, age: Duration) -> Option<&str> {
        let (question, at) = self.question.as_ref()?;
        let is_open = self.answered.as_ref() != Some(question) && now.saturating_duration_since(*at) < age;
        is_open.then_some(question)
    }
}

impl Replicas {
    /// `installation` is the Lease, as `NAMESPACE/NAME`.
    pub(crate) fn new(client: &Client, installation: Option<&(String, String)>) -> Self {
        let lease =
            installation.map(|(namespace, name)| (Api::namespaced(client.clone(), namespace), name.clone()));
        Self {
            lease,
            seen: watch::Sender::default(),
            leftovers: watch::Sender::default(),
            unanswered: tokio::sync::Mutex::default(),
        }
    }

    /// The objects whose keys were left behind, as the Lease records them.
    pub(crate) fn leftovers(&self) -> watch::Receiver<Records> {
        self.leftovers.subscribe()
    }

    /// Writes annotations of the Lease, and removes those without a value, if the Lease has this version. Returns whether there is a
    /// Lease.
    pub(crate) async fn annotate(
        &self,
        version: Option<&str>,
        annotations: &Annotations,
    ) -> Result<bool, Failure> {
        let Some((api, name)) = &self.lease else {
            return Ok(false);
        };
        patch(api, name, version, annotations).await?;
        Ok(true)
    }

    /// Returns whether another controller reaches Redis, which this one does not.
    pub(crate) async fn another_reaches_redis(&self) -> bool {
        let Some((api, name)) = &self.lease else {
            return false;
        };
        let mut unanswered = self.unanswered.lock().await;
        if self.seen.borrow().is_answered(Instant::now()) {
            return true;
        }
        if unanswered.is_some_and(|at| at.elapsed() < HOLDS_FOR) {
            return false;
        }
        let asked = match self.ask(api, name).await {
            Ok(()) => {
                let mut seen = self.seen.subscribe();
                let answer = seen.wait_for(|seen| seen.is_answered(Instant::now()));
                matches!(tokio::time::timeout(ANSWER_LIMIT, answer).await, Ok(Ok(_)))
            }
            Err(failure) => {
                if unanswered.is_none() {
                    tracing::warn!(error = %failure, "the Lease of the installation cannot be written, so that it is not known whether another \
                    controller reaches Redis");
                }
                false
            }
        };
        *unanswered = (!asked).then(Instant::now);
        asked
    }

    async fn ask(&self, api: &Api<LeaseMeta>, name: &str) -> Result<(), Failure> {
        // Another controller that is cut off has asked just now.
        if self.seen.borrow().open(Instant::now(), ANSWER_LIMIT).is_some() {
            return Ok(());
        }
        patch(
            api,
            name,
            None,
            &one(ASKED, format!("{:016x}", fastrand::u64(..))),
        )
        .await
    }

    /// Follows the Lease, and answers while Redis is reachable. Never ends.
    pub(crate) async fn follow(&self, control: &Control, health: &Arc<Health>) {
        let Some((api, name)) = &self.lease else {
            return std::future::pending().await;
        };
        tokio::join!(self.watch(api, name, health), self.answer(api, name, control));
    }

    async fn watch(&self, api: &Api<LeaseMeta>, name: &str, health: &Arc<Health>) {
        let check = WatchCheck::new(health, format!("watch lease {name}"), "leases");
        // The name stands in the request, so that a role may be bound to it.
        let config = watcher::Config::default()
            .fields(&format!("metadata.name={name}"))
            .timeout(WATCH_SECONDS);
        let mut events = watcher(api.clone(), config)
            .backoff(watching::Backoff::default())
            .boxed();
        while let Some(event) = events.next().await {
            match &event {
                Ok(event) => check.delivered(event),
                Err(error) => check.broke(error),
            }
            match event {
                Ok(watcher::Event::InitApply(lease) | watcher::Event::Apply(lease)) => self.note(&lease),
                Ok(watcher::Event::InitDone) => self.seen.send_modify(|seen| seen.is_listed = true),
                Ok(watcher::Event::Delete(_)) => drop(self.leftovers.send_replace(Records::default())),
                Ok(watcher::Event::Init) | Err(_) => {}
            }
        }
    }

    fn note(&self, lease: &LeaseMeta) {
        let annotation = |key: &str| lease.annotations().get(key).cloned();
        let (asked, answered) = (annotation(ASKED), annotation(ANSWERED));
        self.seen
            .send_modify(|seen| seen.note(asked, answered, Instant::now()));
        let version = lease.resource_version();
        self.leftovers
            .send_if_modified(|records| records.note(version, lease.annotations()));
    }

    async fn answer(&self, api: &Api<LeaseMeta>, name: &str, control: &Control) {
        let mut seen = self.seen.subscribe();
        loop {
            let server = control.server();
            let question = seen
                .borrow_and_update()
                .open(Instant::now(), ANSWERED_FOR)
                .map(str::to_owned);
            if let Some(question) = question
                && matches!(server, Server::Connected { .. })
                && redis_health::look(control).await.is_ok()
                && let Err(failure) = patch(api, name, None, &one(ANSWERED, question)).await
            {
                tracing::warn!(error = %failure, "another controller does not reach Redis, and does not learn that this one does");
            }
            tokio::select! {
                _ = seen.changed() => {}
                _ = control.server_changed(&server) => {}
            }
        }
    }
}

/// One annotation to be written.
fn one(key: &str, value: String) -> Annotations {
    BTreeMap::from([(key.to_owned(), Some(value))])
}

async fn patch(
    api: &Api<LeaseMeta>,
    name: &str,
    version: Option<&str>,
    annotations: &Annotations,
) -> Result<(), Failure> {
    let mut patch = json!({ "metadata": { "annotations": annotations } });
    if let Some(version) = version {
        patch["metadata"]["resourceVersion"] = version.into();
    }
    bounded(api.patch_metadata(name, &merge_params(), &Patch::Merge(patch)))
        .await
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(seen: &mut Seen, asked: &str, answered: &str, now: Instant) {
        let annotation = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        seen.note(annotation(asked), annotation(answered), now);
    }

    #[test]
    fn an_answer_counts_for_a_while_and_only_for_a_question_that_was_seen() {
        let (mut seen, now) = (Seen::default(), Instant::now());
        note(&mut seen, "old", "", now);
        assert_eq!(seen.open(now, ANSWERED_FOR), None, "asked before the start");
        seen.is_listed = true;
        note(&mut seen, "old", "old", now);
        assert!(!seen.is_answered(now), "its age is not known");

        note(&mut seen, "new", "old", now);
        assert_eq!(seen.open(now, ANSWERED_FOR), Some("new"));
        assert_eq!(seen.open(now + ANSWERED_FOR, ANSWERED_FOR), None, "too old");
        assert!(!seen.is_answered(now));

        let later = now + Duration::from_secs(1);
        note(&mut seen, "new", "new", later);
        assert_eq!(seen.open(later, ANSWERED_FOR), None, "it is answered");
        assert!(seen.is_answered(later));
        assert!(!seen.is_answered(later + HOLDS_FOR));
        note(&mut seen, "next", "new", later);
        assert!(seen.is_answered(later), "another question ends no answer");

        let late = later + ANSWERED_FOR;
        note(&mut seen, "next", "next", late);
        assert!(
            !seen.is_answered(late),
            "the answer to a question that is too old"
        );
    }
}
