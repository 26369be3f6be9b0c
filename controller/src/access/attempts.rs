//! Attempts: the writes of Secrets that the watch has not delivered yet, or that have failed.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use tokio::time::Instant;

use crate::{access::secret, failure::Failure};

/// A write that was refused is tried again after this, and after twice as long each time.
const RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(30);

/// The last write in each namespace.
#[derive(Debug, Default)]
pub(crate) struct Attempts(HashMap<String, Attempt>);

#[derive(Debug)]
struct Attempt {
    /// The version that the watch had delivered.
    before: Option<String>,
    outcome: Outcome,
}

#[derive(Debug)]
enum Outcome {
    Written(Box<Secret>),
    Deleted,
    Failed {
        /// In a row; 0: another controller was faster, or the watch lags behind.
        count: u32,
        error: String,
        /// The controller may not do it in any namespace.
        lacks_permission: bool,
        next: Instant,
    },
}

/// A failure that lasts.
pub(crate) struct Failing {
    pub(crate) message: String,
    /// It is not one of a single namespace.
    pub(crate) lacks_permission: bool,
}

impl Attempts {
    /// Replaces the Secrets that the watch has delivered by those that were written since.
    pub(crate) fn bring_up_to_date(&mut self, secrets: &mut BTreeMap<String, Secret>, now: Instant) {
        self.0.retain(|namespace, attempt| {
            let delivered = secrets.get(namespace).and_then(ResourceExt::resource_version);
            match &attempt.outcome {
                Outcome::Failed { next, .. } => now.duration_since(*next) < LONGEST_RETRY,
                _ if delivered != attempt.before => false,
                Outcome::Written(secret) => {
                    secrets.insert(namespace.clone(), (**secret).clone());
                    true
                }
                Outcome::Deleted => {
                    secrets.remove(namespace);
                    true
                }
            }
        });
    }

    /// Returns for how long nothing is written in a namespace, because a write has failed.
    pub(crate) fn waits(&self, namespace: &str, now: Instant) -> Option<Duration> {
        match &self.0.get(namespace)?.outcome {
            Outcome::Failed { next, .. } if *next > now => Some(next.duration_since(now)),
            _ => None,
        }
    }

    /// Notes a write. `before` is the version that the watch had delivered; the Secret is absent if it was deleted.
    pub(crate) fn written(&mut self, namespace: &str, before: Option<String>, written: Option<Secret>) {
        let outcome = written.map_or(Outcome::Deleted, |secret| Outcome::Written(Box::new(secret)));
        self.0.insert(namespace.to_owned(), Attempt { before, outcome });
    }

    /// Notes a failure. Returns whether it is one, and not a conflict, and is new.
    pub(crate) fn failed(&mut self, namespace: &str, failure: &Failure, now: Instant) -> bool {
        let is_outdated = failure.is_outdated() || failure.is_not_found();
        let (known, error) = (self.0.remove(namespace), failure.to_string());
        let (failures, last) = match known.map(|known| known.outcome) {
            Some(Outcome::Failed { count, error, .. }) => (count, Some(error)),
            _ => (0, None),
        };
        let count = if is_outdated { 0 } else { failures + 1 };
        let is_new = !is_outdated && last.as_ref() != Some(&error);
        let outcome = Outcome::Failed {
            count,
            error,
            lacks_permission: failure.lacks_permission(),
            next: now + (RETRY * 2_u32.saturating_pow(count)).min(LONGEST_RETRY),
        };
        self.0.insert(
            namespace.to_owned(),
            Attempt {
                before: None,
                outcome,
            },
        );
        is_new
    }

    /// Returns a failure that lasts, first one that is not of a single namespace.
    pub(crate) fn failing(&self) -> Option<Failing> {
        let failing = self
            .0
            .iter()
            .filter_map(|(namespace, attempt)| match &attempt.outcome {
                Outcome::Failed {
                    count: 1..,
                    error,
                    lacks_permission,
                    ..
                } => Some((!lacks_permission, namespace, error)),
                _ => None,
            });
        let (is_of_one, namespace, error) = failing.min()?;
        let name = secret::NAME;
        Some(Failing {
            message: format!("the Secret {name} of namespace {namespace} cannot be written: {error}"),
            lacks_permission: !is_of_one,
        })
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    fn secret(version: &str) -> Secret {
        let mut secret = Secret::default();
        secret.metadata.resource_version = Some(version.to_owned());
        secret
    }

    fn of(secret: Option<Secret>) -> BTreeMap<String, Secret> {
        secret
            .map(|secret| ("ml".to_owned(), secret))
            .into_iter()
            .collect()
    }

    fn failure(code: u16, message: &str) -> Failure {
        let status = Status::failure(message, "").with_code(code).boxed();
        Failure::from(kube::Error::Api(status))
    }

    #[test]
    fn what_was_written_counts_until_the_watch_delivers_something() {
        let (mut attempts, now) = (Attempts::default(), Instant::now());
        let seen = |attempts: &mut Attempts, delivered| {
            let mut secrets = of(delivered);
            attempts.bring_up_to_date(&mut secrets, now);
            secrets
        };
        attempts.written("ml", None, Some(secret("2")));
        assert_eq!(seen(&mut attempts, None), of(Some(secret("2"))));
        assert_eq!(seen(&mut attempts, Some(secret("3"))), of(Some(secret("3"))));
        assert_eq!(seen(&mut attempts, None), of(None), "it is forgotten");
        attempts.written("ml", Some("3".to_owned()), None);
        assert_eq!(seen(&mut attempts, Some(secret("3"))), of(None));
        assert_eq!(seen(&mut attempts, None), of(None));
    }

    #[test]
    fn failures_are_repeated_less_and_less_often_and_reported_once() {
        let (mut attempts, now) = (Attempts::default(), Instant::now());
        let quota = failure(403, "exceeded quota");
        assert!(attempts.failed("ml", &quota, now));
        assert_eq!(attempts.waits("ml", now), Some(RETRY * 2));
        assert!(!attempts.failed("ml", &quota, now));
        assert_eq!(attempts.waits("ml", now), Some(RETRY * 4));
        assert_eq!(attempts.waits("ml", now + RETRY * 4), None);
        for _ in 0..40 {
            attempts.failed("ml", &quota, now);
        }
        assert_eq!(attempts.waits("ml", now), Some(LONGEST_RETRY));
        let failing = attempts.failing().unwrap();
        assert!(!failing.lacks_permission && failing.message.contains("namespace ml"));
        let denied = r#"secrets "x" is forbidden: User "u" cannot create resource "secrets""#;
        attempts.failed("web", &failure(403, denied), now);
        assert!(
            attempts.failing().unwrap().lacks_permission,
            "that is the worse one"
        );
        // A conflict is no failure.
        for namespace in ["ml", "web"] {
            assert!(!attempts.failed(namespace, &failure(409, "conflict"), now));
        }
        assert!(attempts.failing().is_none());
        assert_eq!(attempts.waits("ml", now), Some(RETRY));
    }
}
