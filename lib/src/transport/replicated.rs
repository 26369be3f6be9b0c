//! Writes that wait for replicas, over a connection of their own.
//!
//! `WAIT` holds up all that follows it on its connection, and counts what was written over that very connection. So script
//! and `WAIT` go over one that nothing else uses, made when it is first needed. One write at a time: a write that does not
//! get its turn in time has reached no replica, as far as its caller knows.

use std::{sync::Arc, time::Duration};

use redis::{AsyncConnectionConfig, RedisError, Value, aio::MultiplexedConnection};
use tokio::{sync::Mutex, time::Instant};

use crate::{
    protocol::script::Script,
    transport::{
        connection::Session,
        uptime::{Moment, Uptime},
    },
};

/// The second connection to a server, for the life of the first one.
pub(crate) struct Replicating {
    client: redis::Client,
    response_timeout: Duration,
    connection: Mutex<Option<MultiplexedConnection>>,
}

impl Replicating {
    pub(crate) fn new(client: redis::Client, response_timeout: Duration) -> Self {
        Self {
            client,
            response_timeout,
            connection: Mutex::default(),
        }
    }

    async fn connect(&self) -> Result<MultiplexedConnection, RedisError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.response_timeout))
            .set_response_timeout(Some(self.response_timeout));
        self.client
            .get_multiplexed_async_connection_with_config(&config)
            .await
    }

    /// Calls the script of this session, and then waits until that many replicas have what it has written, or until then.
    pub(crate) async fn call(
        &self,
        session: &Session,
        script: &'static Script,
        keys: &[Arc<str>],
        (before, args): (&str, &[&str]),
        (replicas, until): (u8, Instant),
        (sent, uptime): (&mut Moment, &Uptime),
    ) -> Result<(Value, u64), RedisError> {
        let mut place = self.connection.lock().await;
        let connection = match place.take() {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        // Kept here, so that an error gives it up; but not the end of the caller's patience.
        let kept = place.insert(connection.clone());
        let own = session.over(kept.clone());
        *sent = uptime.now();
        let outcome = async {
            let value = own
                .send(script, keys, before, args, false, (sent, uptime))
                .await?;
            let left = until.saturating_duration_since(Instant::now()).as_millis();
            let mut wait = redis::cmd("WAIT");
            // Zero would be for ever.
            wait.arg(replicas)
                .arg(u64::try_from(left).unwrap_or(u64::MAX).max(1));
            let reached = wait.query_async(&mut connection.clone()).await?;
            Ok((value, reached))
        };
        let outcome = outcome.await;
        if outcome.is_err() {
            *place = None;
        }
        outcome
    }
}
