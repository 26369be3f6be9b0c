//! A connection for writes that wait for replicas: see [`replicated`](super::replicated).

use std::time::Duration;

use redis::{AsyncConnectionConfig, RedisError, aio::MultiplexedConnection};
use tokio::sync::Mutex;

/// The second connection to a server, for the life of the first one.
pub(crate) struct OwnConnection {
    client: redis::Client,
    response_timeout: Duration,
    pub(super) connection: Mutex<Option<MultiplexedConnection>>,
}

impl OwnConnection {
    pub(crate) fn new(client: redis::Client, response_timeout: Duration) -> Self {
        Self {
            client,
            response_timeout,
            connection: Mutex::default(),
        }
    }

    pub(super) async fn connect(&self) -> Result<MultiplexedConnection, RedisError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.response_timeout))
            .set_response_timeout(Some(self.response_timeout));
        self.client
            .get_multiplexed_async_connection_with_config(&config)
            .await
    }
}
