//! What the library is compared with: a script that does nothing, called by its hash over a connection like the client's.

use std::time::Duration;

use redis::{AsyncConnectionConfig, Client, IntoConnectionInfo, ProtocolVersion, aio::MultiplexedConnection};
use tenure_tests::{Redis, Result};

#[derive(Clone)]
pub(crate) struct Raw {
    connection: MultiplexedConnection,
    hash: String,
}

impl Raw {
    pub(crate) async fn connect(redis: &Redis) -> Result<Self> {
        let info = redis.url().into_connection_info()?;
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let timeout = Some(Duration::from_secs(3));
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(timeout)
            .set_response_timeout(timeout)
            .set_push_sender(|_| Ok::<(), redis::aio::SendError>(()));
        let mut connection = Client::open(info.set_redis_settings(settings))?
            .get_multiplexed_async_connection_with_config(&config)
            .await?;
        let hash = redis::cmd("SCRIPT")
            .arg("LOAD")
            .arg("return 1")
            .query_async(&mut connection)
            .await?;
        Ok(Self { connection, hash })
    }

    pub(crate) async fn round_trip(&self) -> Result {
        let mut command = redis::cmd("EVALSHA");
        command.arg(&self.hash).arg(0);
        self.connection.clone().send_packed_command(&command).await?;
        Ok(())
    }

    /// As many as an acquire and a release.
    pub(crate) async fn pair(&self) -> Result {
        self.round_trip().await?;
        self.round_trip().await
    }
}
