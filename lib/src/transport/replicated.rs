//! Writes that wait for replicas, over a connection of their own.
//!
//! `WAIT` holds up all that follows it on its connection, and counts what was written over that very connection. So script
//! and `WAIT` go over one that nothing else uses, made when it is first needed. One write at a time: a write that does not
//! get its turn in time has reached no replica, as far as its caller knows.

use std::{borrow::Cow, sync::Arc};

use redis::{RedisError, Value};
use tokio::time::Instant;

use crate::{
    protocol::script::Script,
    transport::{
        connection::Session,
        own_connection::OwnConnection,
        uptime::{Moment, Uptime},
    },
};

/// Calls the script over the own connection to the server of this session, and then waits until that many replicas have what it has written, or until then.
pub(crate) async fn call(
    own: &OwnConnection,
    session: &Session,
    script: &'static Script,
    keys: &[Arc<str>],
    args: &[Cow<'_, str>],
    (replicas, until): (u8, Instant),
    (sent, uptime): (&mut Moment, &Uptime),
) -> Result<(Value, u64), RedisError> {
    let mut place = own.connection.lock().await;
    let connection = match place.take() {
        Some(connection) => connection,
        None => own.connect().await?,
    };
    // Kept here, so that an error gives it up; but not the end of the caller's patience.
    let kept = place.insert(connection.clone());
    let session = session.over(kept.clone());
    *sent = uptime.now();
    let outcome = async {
        let value = session.send(script, keys, args, false, (sent, uptime)).await?;
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
