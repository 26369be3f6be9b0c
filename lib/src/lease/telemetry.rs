//! The metrics of the library. Without the feature `metrics` the functions do nothing.

use std::time::Duration;

use crate::{Error, Kind};

/// An acquisition has come to its end.
pub(crate) fn waited<T>(kind: Kind, outcome: &Result<Option<T>, Error>, took: Duration) {
    #[cfg(feature = "metrics")]
    {
        let outcome = match outcome {
            Ok(Some(_)) => "granted",
            Ok(None) => "busy",
            Err(error) if error.is_unreachable() => "unreachable",
            Err(_) => "error",
        };
        metrics::histogram!("tenure_wait_seconds", "kind" => kind.as_str(), "outcome" => outcome)
            .record(took);
    }
    #[cfg(not(feature = "metrics"))]
    let _ = (kind, outcome, took);
}

/// A lease has come to its end, however.
pub(crate) fn held(kind: Kind, took: Duration) {
    #[cfg(feature = "metrics")]
    metrics::histogram!("tenure_hold_seconds", "kind" => kind.as_str()).record(took);
    #[cfg(not(feature = "metrics"))]
    let _ = (kind, took);
}

/// A lease was lost.
pub(crate) fn lost(kind: Kind) {
    #[cfg(feature = "metrics")]
    metrics::counter!("tenure_lost_total", "kind" => kind.as_str()).increment(1);
    #[cfg(not(feature = "metrics"))]
    let _ = kind;
}
