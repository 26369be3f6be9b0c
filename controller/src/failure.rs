//! Failure: the reasons why a reconciliation fails.

use std::time::Duration;

use kube::{core::Status, runtime::watcher};

/// The time after which a reconciliation is aborted.
pub(crate) const RECONCILE_LIMIT: Duration = Duration::from_secs(30);
/// The time after which a call to the API server is aborted.
pub(crate) const API_LIMIT: Duration = Duration::from_secs(10);

/// Why a reconciliation failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("the API server: {}", describe(.0))]
    Api(#[source] Box<kube::Error>),
    #[error("the API server did not answer within {} s", API_LIMIT.as_secs())]
    ApiTimeout,
    #[error(transparent)]
    Redis(#[from] tenure::Error),
    #[error("the object vanished from Redis just after it was declared")]
    Vanished,
    #[error(
        "another program has set the same fields: remove its field managers, or delete the object, and it is made again"
    )]
    NotTaken,
    #[error("the reconciliation did not finish within {} s", RECONCILE_LIMIT.as_secs())]
    Timeout,
}

impl From<kube::Error> for Failure {
    fn from(error: kube::Error) -> Self {
        Self::Api(Box::new(error))
    }
}

impl Failure {
    /// Returns the class of the failure for metrics: one of a closed set.
    pub(crate) fn class(&self) -> &'static str {
        match self {
            Self::Api(_) => "api",
            Self::ApiTimeout => "api_timeout",
            Self::Redis(error) if error.is_unreachable() => "redis_unreachable",
            Self::Redis(_) => "redis_refused",
            Self::Vanished => "vanished",
            Self::NotTaken => "not_taken",
            Self::Timeout => "timeout",
        }
    }

    /// Returns whether the object has changed since the reconciliation was planned, in the API server or in Redis.
    pub(crate) fn is_outdated(&self) -> bool {
        match self {
            Self::Api(error) => matches!(&**error, kube::Error::Api(status) if status.code == 409),
            Self::Redis(error) => matches!(error, tenure::Error::OtherLife { .. }),
            _ => false,
        }
    }

    /// Returns whether the API server does not allow it.
    pub(crate) fn is_forbidden(&self) -> bool {
        matches!(self, Self::Api(error) if matches!(&**error, kube::Error::Api(status) if status.code == 403))
    }

    /// Returns whether the controller lacks a permission. A quota, and a namespace that is being deleted, forbid as well.
    pub(crate) fn lacks_permission(&self) -> bool {
        let says = |message: &str| message.contains(" cannot ") && message.contains(" resource \"");
        matches!(self, Self::Api(error) if matches!(&**error, kube::Error::Api(status) if status.code == 403 && says(&status.message)))
    }

    /// Returns whether the definitions lack a field of a status. The API server refuses it in a server-side apply, with a 500.
    pub(crate) fn is_of_old_definitions(&self) -> bool {
        matches!(self, Self::Api(error) if matches!(&**error, kube::Error::Api(status) if is_of_old_definitions(status)))
    }

    /// Returns whether the custom resource is gone.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Api(error) if matches!(&**error, kube::Error::Api(status) if status.is_not_found()))
    }
}

fn is_of_old_definitions(status: &Status) -> bool {
    status.code == 500 && status.message.contains("field not declared in schema")
}

/// Describes an error of a call to the API server, by the message of the API server where it has answered.
pub(crate) fn describe(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if is_of_old_definitions(status) => format!(
            "{}; the custom resource definitions are older than the controller: apply crds/yaml of its version",
            status.message.trim()
        ),
        kube::Error::Api(status) => match (status.message.trim(), status.reason.trim()) {
            ("", "") => format!("it answers {}", status.code),
            ("", reason) => reason.to_owned(),
            (message, _) => message.to_owned(),
        },
        error => {
            let mut text = error.to_string();
            let mut source = std::error::Error::source(error);
            while let Some(cause) = source {
                let cause_text = cause.to_string();
                if !text.contains(&cause_text) {
                    text = format!("{text}: {cause_text}");
                }
                source = cause.source();
            }
            text
        }
    }
}

/// As [`describe`], of a call about resources with that plural name, with the fix where it is known.
pub(crate) fn describe_of(error: &kube::Error, plural: &str) -> String {
    match error {
        kube::Error::Api(status) => describe_status(status, plural),
        error => format!(
            "the API server cannot be reached: {}; check whether it runs, and the network between",
            describe(error)
        ),
    }
}

/// Describes an error of a watch, with the fix where it is known.
pub(crate) fn describe_watch(error: &watcher::Error, plural: &str) -> String {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => describe_of(error, plural),
        watcher::Error::WatchError(status) => describe_status(status, plural),
        error @ watcher::Error::NoResourceVersion => error.to_string(),
    }
}

fn describe_status(status: &Status, plural: &str) -> String {
    match status.code {
        // The API server answers so for a resource that it does not know.
        404 => format!(
            "{plural} are not installed: apply Tenure's custom resource definitions, crds/yaml in the sources"
        ),
        403 => format!(
            "{}: grant the controller the rights of its role again",
            status.message.trim()
        ),
        401 => "the API server refuses the controller's credentials: check its service account or kubeconfig"
            .to_owned(),
        _ => format!(
            "the API server: {}",
            describe(&kube::Error::Api(Box::new(status.clone())))
        ),
    }
}

/// Calls to the API server are not bounded in time by themselves.
pub(crate) async fn bounded<T>(call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, Failure> {
    match tokio::time::timeout(API_LIMIT, call).await {
        Ok(outcome) => Ok(outcome?),
        Err(_) => Err(Failure::ApiTimeout),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: u16, message: &str, reason: &str) -> kube::Error {
        kube::Error::Api(Box::new(Status::failure(message, reason).with_code(code)))
    }

    #[test]
    fn an_answer_of_the_api_server_is_described_in_its_words_and_without_the_structure() {
        for (error, expected) in [
            (
                refused(409, "the object has been modified", "Conflict"),
                "the object has been modified",
            ),
            (refused(500, "", "InternalError"), "InternalError"),
            (refused(502, "", ""), "it answers 502"),
        ] {
            assert_eq!(describe(&error), expected);
            let failure = Failure::from(error).to_string();
            assert_eq!(failure, format!("the API server: {expected}"));
        }
    }

    #[test]
    fn an_error_of_a_watch_has_the_fix() {
        let forbidden = "lockpools.tenure.dev is forbidden: User \"x\" cannot watch resource \"lockpools\"";
        for (error, expected) in [
            (
                refused(404, "404 page not found\n", "Failed to parse error data"),
                "lockpools are not installed: apply",
            ),
            (
                refused(403, forbidden, "Forbidden"),
                "cannot watch resource \"lockpools\": grant the controller",
            ),
            (
                refused(401, "Unauthorized", "Unauthorized"),
                "check its service account",
            ),
        ] {
            let text = describe_watch(&watcher::Error::WatchStartFailed(error), "lockpools");
            assert!(text.contains(expected), "{text}");
        }
    }
}
