//! Redis health: whether Redis answers the controller and lets it work, for `/readyz` and a metric.
//!
//! The connection notices within seconds that Redis does not answer, and logs it. It does not notice that the rights of its user
//! were reduced, because Redis checks them with each command: so an object that is not there is looked at every ten seconds, with the
//! script and the keys of any other object.

use std::{sync::Arc, time::Duration};

use tenure::{Control, Error, Kind, ObjectRef, control::Server};
use tokio::time::Instant;

use crate::{http::Health, reconcile::Context};

/// The name of the check in `/readyz`.
const CHECK: &str = "redis";
/// The time between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Follows the state of Redis. Never ends.
pub(crate) async fn follow(context: Arc<Context>, health: Arc<Health>) -> &'static str {
    let (control, metrics) = (&context.control, &context.metrics);
    let (mut refusal, mut next_look) = (None, Instant::now() + LOOK_EVERY);
    loop {
        let server = control.server();
        let (is_well, message) = verdict(&server, refusal.as_ref());
        metrics
            .redis_connected
            .set(i64::from(is_well && matches!(server, Server::Connected { .. })));
        if is_well {
            health.well(CHECK, &message);
        } else if health.bad(CHECK, &message) && refusal.is_some() {
            // The connection logs that it is lost.
            tracing::warn!(
                problem = message,
                "Redis refuses to let the controller work, trying again"
            );
        }
        // A state that keeps changing, as in a cluster with a master that fails now and then, does not keep it from looking.
        let _ = tokio::time::timeout_at(next_look, control.server_changed(&server)).await;
        if Instant::now() >= next_look {
            next_look = Instant::now() + LOOK_EVERY;
            // An error of the connection is in its state.
            refusal = look(control).await.err().filter(|error| !error.is_unreachable());
            // The conditions of all objects have to show it.
            let is_refused = refusal.is_some();
            context
                .refused
                .send_if_modified(|refused| std::mem::replace(refused, is_refused) != is_refused);
        }
    }
}

/// Looks at an object that is not there, with the script and the keys of any other object.
pub(crate) async fn look(control: &Control) -> Result<(), Error> {
    let probe = ObjectRef::new(Kind::Semaphore, "default", "tenure-readyz")?;
    control.look(&probe, 0).await.map(drop)
}

/// Returns whether the controller can work with Redis, with a remark or the problem.
fn verdict(server: &Server, refusal: Option<&Error>) -> (bool, String) {
    match (server, refusal) {
        (Server::Disconnected { error, .. }, _) => (false, error.clone()),
        (_, Some(refusal)) => {
            // The library names the rights of a user of one namespace.
            let text = refusal.to_string();
            let problem = text.split(';').next().unwrap_or_default();
            let fix = "the controller's Redis user needs the rights that docs/redis.md lists for it";
            (false, format!("{problem}; {fix}"))
        }
        (Server::Connected { version, .. }, None) => (true, version.clone()),
        // The objects on the other masters are served; conditions report those that are not.
        (Server::Degraded { error, .. }, None) => {
            (true, format!("not all masters of the cluster answer: {error}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_refuses_is_not_well_although_it_is_connected() {
        let connected = Server::Connected {
            version: "redis 7.0".to_owned(),
        };
        let degraded = Server::Degraded {
            version: "redis 7.0".to_owned(),
            error: "refused".to_owned(),
        };
        let away = Server::Disconnected {
            error: "away".to_owned(),
            transient: true,
        };
        let refusal = Error::Refused {
            reason: "no rights".to_owned(),
        };
        assert_eq!(verdict(&connected, None), (true, "redis 7.0".to_owned()));
        assert!(verdict(&degraded, None).0);
        assert_eq!(verdict(&away, Some(&refusal)), (false, "away".to_owned()));
        let (is_well, message) = verdict(&connected, Some(&refusal));
        assert!(!is_well && message.contains("no rights"), "{message}");
    }
}
