//! A service that loads Redis through the library, and reports the cost and whether the promises held.
//!
//! `GET /gather_stats` lets some nodes compete for a lock, a semaphore, a pool and a condition, and answers with one JSON
//! object. Each node has a connection of its own, and all of them are in this one process, so that one clock sees who held
//! what and when. See `docs/guide.md`.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Json, Router,
    extract::{Query, State, rejection::QueryRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use clap::Parser;
use serde_json::json;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::Mutex,
};

#[path = "../redis.rs"]
mod redis;

mod load;
mod report;

use load::Size;
use redis::Redis;

/// Serves `GET /gather_stats`: loads Redis through Tenure, and reports the cost and whether the promises held.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(flatten)]
    redis: Redis,
    /// The address to serve; port 0 takes a free one.
    #[arg(long, env = "TENURE_LISTEN", default_value = "127.0.0.1:8090")]
    listen: SocketAddr,
}

struct Service {
    redis: Redis,
    /// One load at a time: two would measure each other.
    turn: Mutex<()>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let service = Arc::new(Service {
        redis: cli.redis,
        turn: Mutex::new(()),
    });
    let router = Router::new()
        .route("/gather_stats", get(gather_stats))
        .with_state(service);
    let listener = TcpListener::bind(cli.listen).await?;
    let mut terminate = signal(SignalKind::terminate())?;
    println!("listening on {}", listener.local_addr()?);
    tokio::select! {
        served = axum::serve(listener, router) => served?,
        // The leases of a load are given back in the background, or expire.
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    Ok(())
}

async fn gather_stats(
    State(service): State<Arc<Service>>,
    size: Result<Query<Size>, QueryRejection>,
) -> Response {
    let size = match size.map_err(|rejection| rejection.body_text()) {
        Ok(Query(size)) => size.check().map(|()| size),
        Err(error) => Err(error),
    };
    let size = match size {
        Ok(size) => size,
        Err(error) => return refuse(StatusCode::BAD_REQUEST, &error),
    };
    let Ok(_turn) = service.turn.try_lock() else {
        let error = "another load is under way: ask again when it has ended";
        return refuse(StatusCode::SERVICE_UNAVAILABLE, error);
    };
    match load::run(&service.redis, size).await {
        Ok(outcome) => Json(outcome).into_response(),
        Err(error) => refuse(StatusCode::BAD_GATEWAY, &format!("{error:#}")),
    }
}

fn refuse(status: StatusCode, error: &str) -> Response {
    (status, Json(json!({ "error": error }))).into_response()
}
