//! The tasks that fill the Secrets. A task looks at its Secret after each change of it, and again after a while, because time passes and
//! Redis may have lost what it was given.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use tokio::{sync::watch, time::Instant};

use crate::{bundled::followed::Followed, http::Health, run::stopped};

/// A task that keeps one Secret.
pub(crate) trait Task {
    /// The name of the check in `/readyz`.
    const CHECK: &'static str;
    /// The beginning of the line in the log that reports a problem.
    const PROBLEM: &'static str;

    fn secret(&mut self) -> &mut Followed;

    /// Brings the Secret, and all that gets its values, to the target once. Returns the time at which the target changes, if nothing else
    /// happens.
    fn reach_target(
        &mut self,
        secret: &Secret,
    ) -> impl Future<Output = Result<Option<Instant>, String>> + Send;
}

/// Keeps the Secret of a task until the controller stops. The check is bad at once, and before the future is polled.
pub(crate) fn keep<T: Task + Send>(
    mut task: T,
    health: &Arc<Health>,
    mut stop: watch::Receiver<bool>,
) -> impl Future<Output = ()> + Send + use<T> {
    health.bad(T::CHECK, "the Secret is not read yet");
    let health = health.clone();
    async move {
        let passes = async {
            loop {
                let next = pass(&mut task, &health).await;
                task.secret().changed(next).await;
            }
        };
        tokio::select! {
            () = stopped(&mut stop) => {}
            () = passes => {}
        }
    }
}

async fn pass<T: Task>(task: &mut T, health: &Health) -> Option<Instant> {
    let outcome = match task.secret().seen()? {
        Some(secret) => task.reach_target(&secret).await,
        None => Err(format!(
            "the Secret {} is missing: make it, as `helm upgrade` does",
            task.secret().shown
        )),
    };
    match outcome {
        Ok(next) => {
            health.good(T::CHECK);
            next
        }
        Err(problem) => {
            if health.bad(T::CHECK, &problem) {
                tracing::warn!(problem, "{}, trying again", T::PROBLEM);
            }
            None
        }
    }
}
