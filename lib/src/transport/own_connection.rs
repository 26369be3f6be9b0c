//! A connection for writes that wait for replicas: see [`replicated`](super::replicated).

use redis::{AsyncConnectionConfig, RedisError, aio::MultiplexedConnection};
use tokio::sync::Mutex;

/// The second connection to a server, for the life of the first one.
pub(crate) struct OwnConnection {
    client: redis::Client,
    config: AsyncConnectionConfig,
    pub(super) connection: Mutex<Option<MultiplexedConnection>>,
}

impl OwnConnection {
    pub(crate) fn new(client: redis::Client, config: AsyncConnectionConfig) -> Self {
        Self {
            client,
            config,
            connection: Mutex::default(),
        }
    }

    pub(super) async fn connect(&self) -> Result<MultiplexedConnection, RedisError> {
        self.client
            .get_multiplexed_async_connection_with_config(&self.config)
            .await
    }
}
