//! Failure: the reasons why a reconciliation fails.

use std::time::Duration;

/// The time after which a reconciliation is aborted.
pub(crate) const RECONCILE_LIMIT: Duration = Duration::from_secs(30);
/// The time after which a call to the API server is aborted.
pub(crate) const API_LIMIT: Duration = Duration::from_secs(10);

/// Why a reconciliation failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("the API server: {0}")]
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

    /// Returns whether the custom resource is gone.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Api(error) if matches!(&**error, kube::Error::Api(status) if status.is_not_found()))
    }
}

/// Calls to the API server are not bounded in time by themselves.
pub(crate) async fn bounded<T>(call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, Failure> {
    match tokio::time::timeout(API_LIMIT, call).await {
        Ok(outcome) => Ok(outcome?),
        Err(_) => Err(Failure::ApiTimeout),
    }
}
