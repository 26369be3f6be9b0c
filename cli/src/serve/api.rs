//! The requests of `tenure serve`, and their answers. `docs/sidecar.md` describes them.

use std::{collections::BTreeMap, convert::Infallible, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{
        Path, Query, State,
        rejection::{BytesRejection, QueryRejection},
    },
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

use crate::{
    acquire::{Amount, Request},
    duration, exec,
    exit::{Code, Failure},
    object::Object,
    serve::held::{ENDS, Entry, Leases, Owned},
};

/// The default: a lease is released after this time without a request that names it.
const HEARTBEAT: Duration = Duration::from_secs(60);

/// A shorter one would be over before the answer is read.
const SHORTEST_HEARTBEAT: Duration = Duration::from_secs(1);
const NO_PATH: &str = "there is no such path: use /v1/leases or /v1/leases/ID";
const NO_METHOD: &str = "the path does not take this method: docs/sidecar.md has all requests";

/// A request for a lease.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, expecting = "an object")]
struct Wanted {
    object: String,
    #[serde(default)]
    matching: BTreeMap<String, String>,
    #[serde(default = "one")]
    permits: u32,
    or_permits: Option<u32>,
    #[serde(default, deserialize_with = "time")]
    ttl: Option<Duration>,
    #[serde(default, deserialize_with = "time")]
    timeout: Option<Duration>,
    #[serde(default, deserialize_with = "time")]
    max_hold: Option<Duration>,
    #[serde(default)]
    priority: i8,
    #[serde(default)]
    reason: String,
    #[serde(default, deserialize_with = "time")]
    heartbeat: Option<Duration>,
    /// The answer lasts as long as the lease, and the lease as long as the answer is read.
    #[serde(default)]
    stream: bool,
}

fn one() -> u32 {
    1
}

fn time<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    let text = Option::<String>::deserialize(from)?;
    text.map(|text| duration::parse(&text))
        .transpose()
        .map_err(D::Error::custom)
}

/// The query of a request for the state of a lease.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Watching {
    /// The answer is sent when the lease has ended, or after this time.
    #[serde(default, deserialize_with = "time")]
    wait: Option<Duration>,
}

pub(crate) fn router(leases: Leases) -> Router {
    Router::new()
        .route("/v1/leases", post(acquire).get(list))
        .route("/v1/leases/{id}", get(look).delete(release))
        .fallback(async || Problem::status(StatusCode::NOT_FOUND, NO_PATH))
        .method_not_allowed_fallback(async || Problem::status(StatusCode::METHOD_NOT_ALLOWED, NO_METHOD))
        .with_state(leases)
}

async fn acquire(
    State(leases): State<Leases>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let body = body.map_err(|error| Problem::status(error.status(), error.body_text()))?;
    // No form of a web page can send it.
    let kind = headers
        .get(header::CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok());
    if kind.is_none_or(|kind| !kind.starts_with("application/json")) {
        return Err(usage("the Content-Type is not application/json"));
    }
    let wanted: Wanted = serde_json::from_slice(&body).map_err(|error| unreadable(&error))?;
    if wanted.heartbeat.is_some_and(|time| time < SHORTEST_HEARTBEAT) {
        return Err(usage("heartbeat is too short: use 1s or more"));
    }
    let object: Object = wanted.object.parse().map_err(usage)?;
    let (request, amount) = (wanted.request(), wanted.amount());
    let ends = || Problem::from(Failure::new(Code::Unreachable, ENDS));
    let held = tokio::select! {
        biased;
        () = leases.closing() => return Err(ends()),
        held = request.acquire(&leases.client, &object, &amount, Duration::ZERO) => held.map_err(in_fields)?,
    };
    let heartbeat = (!wanted.stream).then(|| wanted.heartbeat.unwrap_or(HEARTBEAT));
    let entry = match leases.keep(held, &object, heartbeat) {
        Ok(entry) => entry,
        Err(held) => {
            exec::give_back(held).await;
            return Err(ends());
        }
    };
    if wanted.stream {
        Ok(streamed(entry))
    } else {
        Ok((StatusCode::CREATED, json(&entry.view())).into_response())
    }
}

async fn list(State(leases): State<Leases>) -> Response {
    let all = leases.all();
    json(&all.iter().map(Entry::view).collect::<Vec<_>>())
}

async fn look(
    State(leases): State<Leases>,
    Path(id): Path<String>,
    watching: Result<Query<Watching>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(watching) =
        watching.map_err(|error| usage(std::error::Error::source(&error).unwrap_or(&error)))?;
    let mut entry = leases.get(&id).ok_or_else(|| unknown(&id))?;
    entry.name();
    if let Some(wait) = watching.wait {
        let end = tokio::time::Instant::now() + wait;
        // A program that waits for the loss is there, however long its heartbeat is.
        while tokio::time::Instant::now() < end {
            let next = end.min(tokio::time::Instant::now() + Duration::from_millis(500));
            if tokio::time::timeout_at(next, entry.ended()).await.is_ok() {
                break;
            }
            entry.name();
        }
    }
    Ok(json(&entry.view()))
}

async fn release(State(leases): State<Leases>, Path(id): Path<String>) -> Result<Response, Problem> {
    let mut entry = leases.get(&id).ok_or_else(|| unknown(&id))?;
    entry.release().await;
    Ok(json(&entry.view()))
}

/// An answer with a line when the lease is granted, and another one when it has ended. When the client closes the connection,
/// the answer is dropped, and the lease with it.
fn streamed(entry: Entry) -> Response {
    let lines = futures_util::stream::unfold((entry.owned(), 0), async |(mut owner, sent): (Owned, u8)| {
        match sent {
            0 => {}
            1 => owner.0.ended().await,
            _ => return None,
        }
        let line = Ok::<_, Infallible>(line(&owner.0.view()));
        Some((line, (owner, sent + 1)))
    });
    let headers = [(header::CONTENT_TYPE, "application/x-ndjson")];
    (StatusCode::CREATED, headers, Body::from_stream(lines)).into_response()
}

fn line(value: &impl Serialize) -> String {
    // Texts and numbers are always JSON.
    serde_json::to_string(value).unwrap_or_default() + "\n"
}

fn json(value: &impl Serialize) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], line(value)).into_response()
}

impl Wanted {
    fn request(&self) -> Request {
        Request {
            ttl: self.ttl,
            timeout: self.timeout,
            max_hold: self.max_hold,
            priority: self.priority,
            reason: self.reason.clone(),
        }
    }

    fn amount(&self) -> Amount {
        Amount {
            matching: self.matching.clone().into_iter().collect(),
            permits: self.permits,
            or_permits: self.or_permits,
        }
    }
}

/// An error, as it is answered.
pub(crate) struct Problem {
    status: StatusCode,
    error: &'static str,
    message: String,
}

impl Problem {
    /// An error of the request itself, with a status that no exit code has.
    pub(crate) fn status(status: StatusCode, message: impl std::fmt::Display) -> Self {
        let error = match status {
            StatusCode::FORBIDDEN => "refused",
            StatusCode::NOT_FOUND => "notFound",
            _ => "usage",
        };
        Self {
            status,
            error,
            message: message.to_string(),
        }
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        let (status, error) = status(failure.code);
        Self {
            status,
            error,
            message: failure.message.unwrap_or_default(),
        }
    }
}

fn usage(problem: impl std::fmt::Display) -> Problem {
    Failure::usage(problem).into()
}

/// The error of a body, in terms of JSON.
fn unreadable(error: &serde_json::Error) -> Problem {
    let text = error.to_string();
    usage(
        text.replace("expected i8", "expected an integer from -128 to 127")
            .replace("expected u32", "expected an integer from 0 to 4294967295"),
    )
}

/// The failure of an acquisition, with fields in place of flags.
fn in_fields(failure: Failure) -> Problem {
    let mut problem = Problem::from(failure);
    for (flag, field) in [
        ("--ttl", "ttl"),
        ("--max-hold", "maxHold"),
        ("--matching", "matching"),
        ("--permits", "permits"),
        ("--or-permits", "orPermits"),
        ("--reason", "reason"),
    ] {
        problem.message = problem.message.replace(flag, field);
    }
    problem
}

fn unknown(id: &str) -> Problem {
    Failure::new(Code::NotDeclared, format!("there is no lease {id}")).into()
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::json!({"error": self.error, "message": self.message});
        (self.status, json(&body)).into_response()
    }
}

/// The status and the name of the error for an exit code of `tenure`.
fn status(code: u8) -> (StatusCode, &'static str) {
    let is = |one: Code| code == one as u8;
    if is(Code::Busy) {
        (StatusCode::CONFLICT, "busy")
    } else if is(Code::Timeout) {
        (StatusCode::CONFLICT, "timeout")
    } else if is(Code::Unreachable) {
        (StatusCode::SERVICE_UNAVAILABLE, "unreachable")
    } else if is(Code::NotDeclared) {
        (StatusCode::NOT_FOUND, "notDeclared")
    } else if is(Code::Refused) {
        (StatusCode::FORBIDDEN, "refused")
    } else if is(Code::Usage) {
        (StatusCode::BAD_REQUEST, "usage")
    } else {
        (StatusCode::INTERNAL_SERVER_ERROR, "failed")
    }
}
