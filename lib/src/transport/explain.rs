//! Explains why a connection could not be made, and what to do.

use redis::{
    AsyncConnectionConfig, ErrorKind, IntoConnectionInfo, ProtocolVersion, RedisConnectionInfo, RedisError,
    aio::MultiplexedConnection,
};

use crate::Error;
use crate::{
    protocol::name::check_namespace,
    transport::{endpoint, error_text, unreachable, url},
};

const NO_RESP3: &str = "it does not speak RESP3, over which Tenure hears of grants: connect to Redis or Valkey itself, not to a \
                        proxy, or update it";

/// Explains why the server has refused the client, as far as its reply shows.
pub(crate) fn explain(client: &redis::Client, error: &RedisError) -> Error {
    let settings = client.get_connection_info().redis_settings();
    explain_at(endpoint::of(client), Some(settings), error)
}

/// The same of a command for a channel.
pub(crate) fn explain_channel(client: &redis::Client, channel: &str, error: &RedisError) -> Error {
    match explain(client, error) {
        Error::Refused { reason } => Error::Refused {
            reason: format!("channel {channel}: {reason}"),
        },
        other => other,
    }
}

/// The same of the server at an address, with the settings that were used.
pub(crate) fn explain_at(
    address: String,
    settings: Option<&RedisConnectionInfo>,
    error: &RedisError,
) -> Error {
    let detail = error.detail().unwrap_or_default();
    // The driver chooses the database before anything can be asked.
    if detail.contains("not allowed in cluster mode") {
        let problem = format!(
            "has {}, but {address} is a Redis Cluster, which has database 0 alone",
            database(settings)
        );
        return url::invalid(problem, "leave the database out");
    }
    match (error.kind(), error.code()) {
        (_, Some("NOPERM" | "DENIED")) => Error::Refused {
            reason: format!(
                "{}: give the user the rights that docs/redis.md lists",
                error_text(error)
            ),
        },
        (ErrorKind::AuthenticationFailed, _) | (_, Some("WRONGPASS" | "NOAUTH")) => {
            credentials(address, settings, error)
        }
        (kind, code)
            if kind == ErrorKind::RESP3NotSupported
                || code == Some("NOPROTO")
                || detail.to_uppercase().contains("HELLO") =>
        {
            Error::UnsupportedServer {
                address,
                found: NO_RESP3.to_owned(),
            }
        }
        // To SELECT: of a server that has fewer databases than that.
        _ if detail.contains("SELECT is not allowed") || detail.contains("DB index") => url::invalid(
            format!(
                "has {}, which {address} does not have ({detail})",
                database(settings)
            ),
            "use a smaller number or leave it out, or raise `databases` in the configuration of the server (in a cluster of \
             Valkey 9, `cluster-databases`)",
        ),
        _ => unreachable(&address, error_text(error)),
    }
}

fn database(settings: Option<&RedisConnectionInfo>) -> String {
    settings.map_or_else(
        || "a database".to_owned(),
        |settings| format!("database {}", settings.db()),
    )
}

/// The reply of Redis to a client without a password is a long text on how to send one: that is the driver's business.
fn credentials(address: String, settings: Option<&RedisConnectionInfo>, error: &RedisError) -> Error {
    let reason = match settings {
        Some(settings) if settings.password().is_none() => {
            "it asks for a password, and none was given".to_owned()
        }
        Some(settings) => {
            let user = settings.username().unwrap_or("default");
            format!("user {user:?}: {}{}", error_text(error), hint(user))
        }
        None => error_text(error),
    };
    Error::Authentication { address, reason }
}

/// The usual causes where the controller has made the user.
fn hint(user: &str) -> String {
    match user.rsplit_once('.') {
        Some((_, namespace)) if check_namespace(namespace).is_ok() => format!(
            "; if it is the user of namespace {namespace}: does the namespace still have access, and is the password that of its \
             Secret tenure-access? A pod with envFrom gets a new password when it is restarted"
        ),
        _ => String::new(),
    }
}

/// Connects, as far as the driver does so. `plain`: the settings without pushes. `known`: the server has spoken RESP3 before.
///
/// Some proxies close the connection at the driver's greeting, a command that they do not know; but so does a server
/// that is about to start or stop, and a proxy whose server is. A server that is known to speak RESP3 is the latter.
/// Otherwise the older protocol distinguishes the two, and a second greeting, because another server may answer by
/// then.
pub(crate) async fn greet(
    client: &redis::Client,
    config: &AsyncConnectionConfig,
    plain: &AsyncConnectionConfig,
    known: bool,
) -> Result<MultiplexedConnection, Error> {
    let connect = || client.get_multiplexed_async_connection_with_config(config);
    let error = match connect().await {
        Ok(connection) => return Ok(connection),
        Err(error) => error,
    };
    if known || !is_closed(&error) || !speaks_resp2(client, plain).await {
        return Err(explain(client, &error));
    }
    match connect().await {
        Ok(connection) => Ok(connection),
        Err(error) if is_closed(&error) => Err(Error::UnsupportedServer {
            address: endpoint::of(client),
            found: NO_RESP3.to_owned(),
        }),
        Err(error) => Err(explain(client, &error)),
    }
}

fn is_closed(error: &RedisError) -> bool {
    error.code().is_none()
        && (error.is_connection_dropped() || error.kind() == ErrorKind::Io && !error.is_connection_refusal())
        && !error.is_timeout()
}

async fn speaks_resp2(client: &redis::Client, config: &AsyncConnectionConfig) -> bool {
    let info = client.get_connection_info().clone();
    let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP2);
    let Ok(client) = info
        .set_redis_settings(settings)
        .into_connection_info()
        .and_then(redis::Client::open)
    else {
        return false;
    };
    let answer = async {
        let mut connection = client
            .get_multiplexed_async_connection_with_config(config)
            .await?;
        redis::cmd("PING").query_async::<String>(&mut connection).await
    };
    // A refusal is an answer, too.
    answer.await.map_or_else(|error| error.code().is_some(), |_| true)
}
