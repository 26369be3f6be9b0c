//! HTTP: `/livez`, `/readyz` and `/metrics`.
//!
//! Ready means that the controller sees the custom resources, and that Redis answers it and lets it read an object: a rollout with
//! wrong credentials stops, and the pod's state shows it. A problem shows within 30 s: see [`watching`](crate::watching) for the API
//! server, and [`redis_health`](crate::redis_health) for Redis. Nothing that the controller does depends on being ready.
//!
//! Alive means that the process works, and is about nothing outside of it: a restart brings back neither Redis, nor the API server,
//! nor a permission, and it costs the caches. It is not alive when its runtime does not run tasks any more, or when a task holds a
//! lock that all reconciliations need: such a state ends by a restart alone. A runtime that is stuck altogether does not answer,
//! which a probe counts as a failure, too.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    extract::{Query, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus_client::registry::Registry;
use serde::Serialize;
use tokio::net::TcpListener;

use crate::lock::lock;

/// A controller that has not worked for this long is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(60);

/// The checks that the controller must pass before it is ready, and their state.
#[derive(Debug, Default)]
pub(crate) struct Health {
    checks: Mutex<BTreeMap<String, Check>>,
    /// The last time at which the controller was seen to work.
    beat: Mutex<Option<Instant>>,
}

#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
struct Check {
    ok: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    message: String,
}

impl Health {
    /// Notes that `name` is well.
    pub(crate) fn good(&self, name: &str) {
        self.well(name, "");
    }

    /// Notes that `name` is well, with a remark.
    pub(crate) fn well(&self, name: &str, message: &str) {
        lock(&self.checks).insert(
            name.to_owned(),
            Check {
                ok: true,
                message: message.to_owned(),
            },
        );
    }

    /// Notes why `name` is not well; returns whether that is new.
    pub(crate) fn bad(&self, name: &str, message: &str) -> bool {
        let check = Check {
            ok: false,
            message: message.to_owned(),
        };
        lock(&self.checks)
            .insert(name.to_owned(), check.clone())
            .is_none_or(|before| before != check)
    }

    /// Notes that the controller works.
    pub(crate) fn beat(&self, now: Instant) {
        *lock(&self.beat) = Some(now);
    }

    /// Returns for how long the controller has not worked, if that is too long.
    fn stuck_for(&self, now: Instant) -> Option<Duration> {
        let silence = now.saturating_duration_since((*lock(&self.beat))?);
        (silence >= STUCK_AFTER).then_some(silence)
    }

    /// Returns whether all checks pass.
    pub(crate) fn is_ready(&self) -> bool {
        self.verdict().0 == StatusCode::OK
    }

    fn verdict(&self) -> (StatusCode, BTreeMap<String, Check>) {
        let checks = lock(&self.checks).clone();
        let ready = !checks.is_empty() && checks.values().all(|check| check.ok);
        (
            if ready {
                StatusCode::OK
            } else {
                StatusCode::SERVICE_UNAVAILABLE
            },
            checks,
        )
    }
}

#[derive(Clone, Debug)]
struct Served {
    health: Arc<Health>,
    registry: Arc<Registry>,
}

/// Takes the port; requests wait until [`serve`] answers them.
pub(crate) async fn bind(address: SocketAddr) -> Result<TcpListener, io::Error> {
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    tracing::info!(%address, "listening");
    Ok(listener)
}

/// Answers requests for as long as it is polled.
pub(crate) async fn serve(
    listener: TcpListener,
    health: Arc<Health>,
    registry: Registry,
) -> Result<(), io::Error> {
    axum::serve(
        listener,
        router(Served {
            health,
            registry: Arc::new(registry),
        }),
    )
    .await
}

fn router(served: Served) -> Router {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(served)
}

async fn livez(State(served): State<Served>) -> (StatusCode, String) {
    match served.health.stuck_for(Instant::now()) {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(silence) => {
            let text = format!(
                "the controller has not worked for {} s, and only a restart ends that: keep its log, and report it\n",
                silence.as_secs()
            );
            (StatusCode::SERVICE_UNAVAILABLE, text)
        }
    }
}

async fn readyz(State(served): State<Served>, Query(query): Query<BTreeMap<String, String>>) -> Response {
    let (code, checks) = served.health.verdict();
    if query.contains_key("verbose") {
        return (code, Json(checks)).into_response();
    }
    let failing = checks.iter().filter(|(_, check)| !check.ok);
    let lines: Vec<String> = failing
        .map(|(name, check)| format!("{name}: {}", check.message))
        .collect();
    let text = match (code, lines.is_empty()) {
        (StatusCode::OK, _) => "ok".to_owned(),
        (_, true) => "starting".to_owned(),
        (_, false) => lines.join("\n"),
    };
    let text = text + "\n";
    (code, text).into_response()
}

async fn metrics(State(served): State<Served>) -> Response {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &served.registry) {
        Ok(()) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_not_ready_before_anything_was_checked() {
        assert_eq!(Health::default().verdict().0, StatusCode::SERVICE_UNAVAILABLE);
    }

    #[test]
    fn it_is_stuck_when_it_has_not_worked_for_a_minute() {
        let (health, start) = (Health::default(), Instant::now());
        assert_eq!(health.stuck_for(start + STUCK_AFTER), None, "it starts");
        health.beat(start);
        assert_eq!(health.stuck_for(start + STUCK_AFTER / 2), None);
        assert_eq!(health.stuck_for(start + STUCK_AFTER), Some(STUCK_AFTER));
        health.beat(start + STUCK_AFTER);
        assert_eq!(health.stuck_for(start + STUCK_AFTER), None);
    }

    #[test]
    fn one_bad_check_makes_it_unready_and_says_why() {
        let health = Health::default();
        health.good("watch lockpools");
        assert_eq!(health.verdict().0, StatusCode::OK);
        assert!(health.bad("watch pods", "no permission"));
        assert!(!health.bad("watch pods", "no permission"), "the same is no news");
        let (code, checks) = health.verdict();
        assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(checks["watch pods"].message, "no permission");
        health.good("watch pods");
        assert_eq!(health.verdict().0, StatusCode::OK);
    }
}
