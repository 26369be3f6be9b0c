//! Events: what `kubectl describe` shows of the past of an object.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use tenure_crds::bounded;

use crate::lock::lock;

const LIMIT: Duration = Duration::from_secs(5);
/// The API server takes no longer note, in bytes; a cut character is up to three of them.
const MAX_NOTE: usize = 1000;
/// A recorder keeps each event in memory for six minutes, and counts it up if it comes again. Another recorder follows after so many
/// events: else a loss of data, with an event for each object, would cost 3 KiB an object.
const EVENTS_A_RECORDER: u32 = 500;

/// The note of [`ObjectEvent::Recovering`].
const RECOVERING: &str = "Redis has lost the data of this object, or was restarted; nothing new is granted for one lease, and holders \
                          keep what they have";
/// The note of [`ObjectEvent::CleanupDone`].
const CLEANUP_DONE: &str =
    "Redis is reachable again, and the keys that were left behind are withdrawn by the deletion policy";
/// The note of [`ObjectEvent::RotationRefused`].
const ROTATION_REFUSED: &str = "the controller may not write this Secret, so that tenure.dev/rotate has no effect: write the new password \
                                into the key password and the present one into previous-password, and remove the second key after two \
                                minutes";

/// An event of an object. The note is for people; an event of the same reason, and of the same related object, within six minutes normally
/// only counts up, so that other details that differ from one to the next belong in the status.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum ObjectEvent {
    /// Another installation manages it: the name of its resource, and why it is not known whether that one exists.
    ManagedByAnother {
        other: String,
        resource: String,
        name: String,
        namespace: String,
        problem: Option<String>,
    },
    /// This installation manages it in place of one that was uninstalled.
    TakenOver {
        from: String,
        /// The holders of the status, which may still hold it in the Redis of that installation; empty: there is no holder.
        holders: String,
    },
    /// It was in use before it was declared.
    Adopted {
        /// The permits or resources that programs had given it.
        limit: u64,
        /// Those of the spec.
        total: u32,
        held: u64,
        /// The holders and what they held; empty: there was no holder.
        holders: String,
    },
    /// Redis has it anew after a loss.
    Recovering,
    /// More is held than the spec has.
    Draining,
    /// Pods ended, and the leases and places in the queue that each of them had were taken back: see [`reclaimed`].
    Reclaimed { pods: Vec<(String, usize)> },
    /// The time for draining is over, and holders lost their leases.
    DrainTimedOut,
    /// Redis was out of reach for so long that its keys were left behind.
    CleanupSkipped {
        command: String,
        /// A controller removes them when Redis is reachable.
        is_recorded: bool,
    },
    /// Keys that were left behind are withdrawn.
    CleanupDone,
    /// The object needs an action.
    Stalled { message: String },
    /// A namespace has got a Redis user of its own.
    AccessGranted,
    /// The password of that user was replaced.
    AccessRotated,
    /// The namespace is not allowed any more.
    AccessRemoved,
    /// The namespace has a Secret of the same name that is not the controller's.
    AccessForeign,
    /// Another installation keeps the Secret of the namespace.
    AccessOfAnother { other: String },
    /// The controller may not write the password that the Secret asks for.
    RotationRefused,
    /// The Secret cannot be written.
    AccessFailed { error: String },
}

impl ObjectEvent {
    fn to_event(&self) -> Event {
        use EventType::{Normal, Warning};
        let (type_, reason, action, note) = match self {
            Self::ManagedByAnother {
                other,
                resource,
                name,
                namespace,
                problem,
            } => (
                Warning,
                "ManagedByAnother",
                "Declare",
                managed_by_another(other, resource, name, namespace, problem.as_deref()),
            ),
            Self::TakenOver { from, holders } => (Warning, "TakenOver", "Declare", taken_over(from, holders)),
            Self::Adopted {
                limit,
                total,
                held,
                holders,
            } => (
                Warning,
                "Adopted",
                "Declare",
                adopted(*limit, *total, *held, holders),
            ),
            Self::Recovering => (Warning, "Recovering", "Declare", RECOVERING.to_owned()),
            Self::Draining => (
                Normal,
                "Draining",
                "Declare",
                "more is held than the spec has now; holders keep it, and the excess is not granted again".to_owned(),
            ),
            Self::Reclaimed { pods } => (Normal, "ReclaimedFromEndedPod", "Reclaim", of_ended(pods)),
            Self::DrainTimedOut => (
                Warning,
                "DrainTimedOut",
                "Withdraw",
                "the time for draining is over; who still held has lost the lease".to_owned(),
            ),
            Self::CleanupSkipped {
                command,
                is_recorded,
            } => (
                Warning,
                "CleanupSkipped",
                "Withdraw",
                cleanup_skipped(command, *is_recorded),
            ),
            Self::CleanupDone => (Normal, "CleanupDone", "Withdraw", CLEANUP_DONE.to_owned()),
            Self::Stalled { message } => (Warning, "Stalled", "Declare", message.clone()),
            Self::AccessGranted => (
                Normal,
                "AccessGranted",
                "Access",
                "the namespace has a Redis user of its own; this Secret has its credentials".to_owned(),
            ),
            Self::AccessRotated => (
                Normal,
                "AccessRotated",
                "Access",
                "the password is replaced; the one before it stays valid until the time in the annotation \
                 tenure.dev/previous-passwords"
                    .to_owned(),
            ),
            Self::AccessRemoved => (
                Normal,
                "AccessRemoved",
                "Access",
                "the namespace is not allowed any more: its Redis user is removed, and its connections are ended".to_owned(),
            ),
            Self::AccessForeign => (
                Warning,
                "AccessForeign",
                "Access",
                "this Secret was not made by Tenure, and is left alone, so the namespace gets no access: delete or rename it"
                    .to_owned(),
            ),
            Self::AccessOfAnother { other } => (Warning, "AccessOfAnother", "Access", access_of_another(other)),
            Self::RotationRefused => (Warning, "RotationRefused", "Rotate", ROTATION_REFUSED.to_owned()),
            Self::AccessFailed { error } => (
                Warning,
                "AccessFailed",
                "Access",
                format!("the Secret cannot be written, and is tried again: {error}"),
            ),
        };
        Event {
            type_,
            reason: reason.to_owned(),
            note: Some(bounded(&note, MAX_NOTE)),
            action: action.to_owned(),
            secondary: self.related(),
        }
    }

    /// The object that is related to the event. Events that are related to different ones are different events, and none of them counts
    /// another one up.
    fn related(&self) -> Option<ObjectReference> {
        let Self::Reclaimed { pods } = self else {
            return None;
        };
        let (first, _) = pods.first()?;
        Some(reference("v1", "Pod", None, first))
    }
}

/// A resource that events are about, without its uid.
pub(crate) fn reference(
    api_version: &str,
    kind: &str,
    namespace: Option<&str>,
    name: &str,
) -> ObjectReference {
    ObjectReference {
        api_version: Some(api_version.to_owned()),
        kind: Some(kind.to_owned()),
        namespace: namespace.map(str::to_owned),
        name: Some(name.to_owned()),
        ..ObjectReference::default()
    }
}

/// Returns the events about pods that have ended, with the number of leases and places in the queue that each of them had. Each pod is
/// named, and an event names as many of them as its note takes.
pub(crate) fn reclaimed(pods: Vec<(String, usize)>) -> Vec<ObjectEvent> {
    let mut groups: Vec<Vec<(String, usize)>> = Vec::new();
    for pod in pods {
        match groups.last_mut() {
            Some(group) if of_ended(group).len() + of_ended(std::slice::from_ref(&pod)).len() <= MAX_NOTE => {
                group.push(pod);
            }
            _ => groups.push(vec![pod]),
        }
    }
    let event = |pods| ObjectEvent::Reclaimed { pods };
    groups.into_iter().map(event).collect()
}

fn of_ended(pods: &[(String, usize)]) -> String {
    if let [(pod, leases)] = pods {
        return format!("took back {leases} leases or places in the queue of pod {pod}, which has ended");
    }
    let leases: usize = pods.iter().map(|(_, leases)| leases).sum();
    let names: Vec<_> = pods
        .iter()
        .map(|(pod, leases)| format!("{pod} ({leases})"))
        .collect();
    let names = names.join(", ");
    format!("took back {leases} leases or places in the queue of pods that have ended: {names}")
}

fn cleanup_skipped(command: &str, is_recorded: bool) -> String {
    let later = if is_recorded {
        "the controller withdraws them when Redis is reachable, unless the object is applied again before. To remove them by hand"
    } else {
        "remove them with"
    };
    format!("Redis is unreachable, so the keys of this object were left behind; {later}: {command}")
}

fn adopted(limit: u64, total: u32, held: u64, holders: &str) -> String {
    let note = format!(
        "programs had made this object in Redis before it was declared, with {limit} permits or resources, of which {held} were held; the \
         spec replaces them with {total}, and what it does not have is dropped. Holders keep theirs until they release them"
    );
    with_holders(note, holders)
}

fn taken_over(from: &str, holders: &str) -> String {
    let note = format!(
        "the installation {from} is uninstalled, and this one manages the object from now on; if it has another Redis, nothing new is \
         granted for one lease"
    );
    with_holders(note, holders)
}

/// Adds the holders at the end of a note, where it may be cut.
fn with_holders(note: String, holders: &str) -> String {
    if holders.is_empty() {
        return note;
    }
    format!("{note}. Held by {holders}")
}

fn access_of_another(other: &str) -> String {
    format!(
        "the installation {other} keeps this Secret, and another one that allows the namespace, too, leaves it alone: allow it in one of \
         the two"
    )
}

fn managed_by_another(
    other: &str,
    resource: &str,
    name: &str,
    namespace: &str,
    problem: Option<&str>,
) -> String {
    let begin = format!("the installation {other} manages this object, and another one leaves it alone");
    match problem {
        None => {
            let (lease_namespace, lease) = other.split_once('/').unwrap_or(("default", other));
            format!(
                "{begin}: uninstall one of the two, or give them different namespaces. If {other} does not run any more, release its \
                 objects with: kubectl delete lease {lease} --namespace {lease_namespace}"
            )
        }
        // A note may be cut at its end.
        Some(problem) => format!(
            "{begin}. If {other} is uninstalled, release the object with: kubectl patch {resource} {name} --namespace {namespace} \
             --subresource=status --type=merge --patch='{{\"status\":{{\"controller\":null}}}}'. That is not known here: {problem}"
        ),
    }
}

/// Publishes events.
#[derive(Clone)]
pub(crate) struct Publisher {
    client: Client,
    /// The recorder, and the events that it has still to record.
    current: Arc<Mutex<(Recorder, u32)>>,
}

impl Publisher {
    pub(crate) fn new(client: &Client) -> Self {
        Self {
            client: client.clone(),
            current: Arc::new(Mutex::new((recorder(client), EVENTS_A_RECORDER))),
        }
    }

    /// Publishes the event; a failure is only logged, because no decision depends on it.
    pub(crate) async fn publish(&self, regarding: &ObjectReference, event: &ObjectEvent) {
        let (recorder, event) = (self.next(), event.to_event());
        let outcome = match tokio::time::timeout(LIMIT, recorder.publish(&event, regarding)).await {
            Ok(outcome) => outcome.map_err(|error| error.to_string()),
            Err(_) => Err(format!("no answer within {} s", LIMIT.as_secs())),
        };
        if let Err(error) = outcome {
            tracing::warn!(reason = event.reason, error, "an event could not be published");
        }
    }

    /// The recorder of the next event.
    fn next(&self) -> Recorder {
        let (current, left) = &mut *lock(&self.current);
        if *left == 0 {
            (*current, *left) = (recorder(&self.client), EVENTS_A_RECORDER);
        }
        *left -= 1;
        current.clone()
    }
}

fn recorder(client: &Client) -> Recorder {
    Recorder::new(client.clone(), Reporter::from("tenure-controller"))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashSet};

    use super::*;

    /// The rows of a table in `docs/reasons.md`, each without its first delimiter.
    fn rows(section: &str) -> impl Iterator<Item = Vec<&'static str>> {
        let text = include_str!("../../docs/reasons.md");
        let section = text
            .split("\n## ")
            .find(|part| part.starts_with(section))
            .unwrap();
        let rows = section.lines().filter(|line| line.starts_with("| `"));
        rows.map(|row| row.split('|').map(|cell| cell.trim().trim_matches('`')).collect())
    }

    /// Type and reason of each event that this file has.
    #[test]
    fn the_documentation_has_each_event_and_no_other() {
        let source = include_str!("events.rs").split("#[cfg(test)]").next().unwrap();
        let mut written = BTreeSet::new();
        for type_ in ["Normal", "Warning"] {
            for rest in source.split(&format!("{type_},")).skip(1) {
                if let Some(reason) = rest.trim_start().strip_prefix('"') {
                    written.insert((reason.split('"').next().unwrap(), type_));
                }
            }
        }
        let documented: BTreeSet<_> = rows("Events").map(|row| (row[1], row[2])).collect();
        assert_eq!(documented, written);
        assert!(written.len() > 10, "{written:?}");
    }

    #[test]
    fn the_documentation_has_each_reason_of_a_condition_and_no_other() {
        let reasons: BTreeSet<_> = tenure_crds::ConditionReason::ALL
            .map(tenure_crds::ConditionReason::as_str)
            .into();
        let documented: BTreeSet<_> = rows("Conditions").map(|row| row[1]).collect();
        assert_eq!(documented, reasons);
    }

    #[test]
    fn each_pod_is_named_in_an_event_that_fits_and_no_two_events_are_one() {
        let pods: Vec<_> = (0..40).map(|n| (format!("gpu-training-worker-{n}"), 1)).collect();
        let many = reclaimed(pods.clone());
        assert_eq!(many.len(), 2, "{many:?}");
        let notes: Vec<_> = many.iter().filter_map(|event| event.to_event().note).collect();
        for (pod, _) in &pods {
            assert!(
                notes.iter().any(|note| note.contains(&format!("{pod} (1)"))),
                "{notes:?}"
            );
        }
        let related: HashSet<_> = many.iter().map(|event| event.related().unwrap().name).collect();
        assert_eq!(related.len(), many.len());

        let long: Vec<_> = (0..9).map(|n| (format!("{n}{}", "p".repeat(252)), 1)).collect();
        for event in reclaimed(long) {
            let note = event.to_event().note.unwrap();
            assert!(note.len() <= MAX_NOTE && !note.contains('…'), "{note}");
        }
        let one = reclaimed(vec![("worker".to_owned(), 2)]);
        let note = one[0].to_event().note.unwrap();
        assert_eq!(
            note,
            "took back 2 leases or places in the queue of pod worker, which has ended"
        );
    }

    #[test]
    fn an_event_fits_what_the_api_server_takes() {
        let events = [
            ObjectEvent::ManagedByAnother {
                other: "o".repeat(317),
                resource: "semaphore".to_owned(),
                name: "n".repeat(63),
                namespace: "n".repeat(63),
                problem: Some("p".repeat(2000)),
            },
            ObjectEvent::TakenOver {
                from: "o".repeat(317),
                holders: "h".repeat(2000),
            },
            ObjectEvent::Adopted {
                limit: u64::MAX,
                total: u32::MAX,
                held: u64::MAX,
                holders: "h".repeat(2000),
            },
            ObjectEvent::Recovering,
            ObjectEvent::Draining,
            ObjectEvent::Reclaimed {
                pods: vec![("p".repeat(253), 7)],
            },
            ObjectEvent::DrainTimedOut,
            ObjectEvent::CleanupSkipped {
                command: "c".repeat(500),
                is_recorded: true,
            },
            ObjectEvent::CleanupDone,
            ObjectEvent::Stalled {
                message: "m".repeat(2000),
            },
            ObjectEvent::AccessGranted,
            ObjectEvent::AccessRotated,
            ObjectEvent::AccessRemoved,
            ObjectEvent::AccessForeign,
            ObjectEvent::AccessOfAnother {
                other: "o".repeat(317),
            },
            ObjectEvent::RotationRefused,
            ObjectEvent::AccessFailed {
                error: "e".repeat(2000),
            },
        ];
        for object_event in events {
            let event = object_event.to_event();
            assert!(
                event.note.as_ref().is_some_and(|note| note.len() <= 1024),
                "{object_event:?}"
            );
            assert!(event.reason.len() <= 128 && event.action.len() <= 128);
        }
    }

    /// A recorder that is replaced forgets, so that a loss of data does not leave an event of each object in memory.
    #[tokio::test]
    async fn a_repeated_event_counts_up_until_another_recorder_follows() {
        let methods = Arc::new(Mutex::new(Vec::new()));
        let seen = methods.clone();
        let server = tower::service_fn(move |request: axum::http::Request<kube::client::Body>| {
            let seen = seen.clone();
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect_bytes().await.unwrap();
                lock(&seen).push(head.method);
                Ok::<_, std::convert::Infallible>(axum::http::Response::new(kube::client::Body::from(
                    body.to_vec(),
                )))
            }
        });
        let publisher = Publisher::new(&Client::new(server, "ml"));
        let pool = |name: String| ObjectReference {
            kind: Some("LockPool".to_owned()),
            namespace: Some("ml".to_owned()),
            name: Some(name),
            ..ObjectReference::default()
        };
        let last = async || {
            publisher
                .publish(&pool("seats".to_owned()), &ObjectEvent::Recovering)
                .await;
            lock(&methods).last().unwrap().to_string()
        };
        assert_eq!(last().await, "POST");
        assert_eq!(last().await, "PATCH");
        for number in 2..EVENTS_A_RECORDER {
            publisher
                .publish(&pool(format!("x{number}")), &ObjectEvent::Recovering)
                .await;
        }
        assert_eq!(last().await, "POST");
    }
}
