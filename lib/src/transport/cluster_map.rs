//! Follows the map of a cluster: asks its servers for it, again and again.

use futures_util::stream::{self, StreamExt};
use redis::{AsyncConnectionConfig, RedisError, Value};
use tracing::debug;

use crate::{
    Error,
    transport::{
        backoff::Backoff,
        cluster::{Candidate, ClusterSeeds, SlotMap},
        endpoint,
        explain::explain_at,
        routing_table::RoutingTable,
    },
};

/// So many servers are asked at once for the map: one that does not answer delays no other.
const ASKED_AT_ONCE: usize = 3;

/// Keeps the map true, for as long as it is polled.
pub(crate) async fn follow(routes: &RoutingTable, seeds: &ClusterSeeds) {
    let Some(stale) = routes.cluster(|cluster| cluster.stale.clone()) else {
        return;
    };
    let (mut backoff, mut turn) = (Backoff::default(), 0);
    loop {
        let candidates = routes
            .cluster(|cluster| cluster.candidates(turn))
            .unwrap_or_default();
        turn += 1;
        match ask_some(candidates, seeds).await {
            Ok(map) => drop(routes.cluster(|cluster| cluster.adopt(&map))),
            Err(error) => {
                debug!(%error, "no server of the cluster answers with its map");
                routes.cluster(|cluster| {
                    // An old map is better than none.
                    if cluster.problem.is_some() {
                        cluster.problem = Some(error);
                    }
                });
                routes.state_changed.ring();
            }
        }
        tokio::time::sleep(backoff.next(seeds.config.chance())).await;
        if routes.health().is_err() {
            continue;
        }
        backoff.reset();
        tokio::select! {
            () = stale.notified() => {}
            () = routes.state_changed.until(|| routes.health().err().map(drop)) => {}
        }
    }
}

/// The first map of a server to which the cluster looks well; else that of any other.
async fn ask_some(candidates: Vec<Candidate>, seeds: &ClusterSeeds) -> Result<SlotMap, Error> {
    let mut asked = stream::iter(candidates)
        .map(|candidate| ask(candidate, seeds))
        .buffer_unordered(ASKED_AT_ONCE);
    let mut best = Err(Error::Unreachable {
        reason: "the cluster has no server".to_owned(),
    });
    while let Some(answer) = asked.next().await {
        match answer {
            Ok((true, map)) => return Ok(map),
            Ok((false, map)) => best = Ok(map),
            Err(error) if best.is_err() => best = Err(error),
            Err(_) => {}
        }
    }
    best
}

/// Returns the health of the cluster and the addresses of its slots, as seen by one server.
async fn ask(candidate: Candidate, seeds: &ClusterSeeds) -> Result<(bool, SlotMap), Error> {
    // Not together: the driver keeps no detail of the error of a command among several, such as the right that is missing.
    let [info, slots] = ["INFO", "SLOTS"].map(|about| {
        let mut command = redis::cmd("CLUSTER");
        command.arg(about);
        command
    });
    let (address, answer) = match candidate {
        Candidate::Open(address, session) => {
            let answer = async { Ok((session.ask(&info).await?, session.ask(&slots).await?)) };
            (address, answer.await)
        }
        Candidate::Closed(client) => {
            let timeout = Some(seeds.config.response_timeout);
            let config = AsyncConnectionConfig::new()
                .set_connection_timeout(timeout)
                .set_response_timeout(timeout);
            let patience = seeds.config.response_timeout;
            let (client, _) = seeds.access.current(&client, patience).await?;
            let answer = async {
                let mut connection = client
                    .get_multiplexed_async_connection_with_config(&config)
                    .await?;
                let health = info.query_async(&mut connection).await?;
                Ok((health, slots.query_async(&mut connection).await?))
            };
            (endpoint::of(&client), answer.await)
        }
    };
    let (info, slots): (String, Value) = answer.map_err(|error: RedisError| {
        let seed = seeds.seeds.first().map(redis::Client::get_connection_info);
        explain_at(
            address.clone(),
            seed.map(redis::ConnectionInfo::redis_settings),
            &error,
        )
    })?;
    let host = address.rsplit_once(':').map_or(&*address, |(host, _)| host);
    let map = SlotMap::read(&slots, host).ok_or_else(|| Error::protocol(&slots))?;
    Ok((info.contains("cluster_state:ok"), map))
}
