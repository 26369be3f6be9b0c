//! The sharded subscriptions of one connection to a server of a cluster.
//!
//! A client subscribes to a channel in the slot of an object before the first call that a push may follow, and remembers it. The
//! server ends the subscription with a push, `sunsubscribe`, when the slot moves. Then the leases and queue entries of the slot
//! are renewed at once, and the renewal subscribes at the server that has the slot.
//!
//! The driver takes a `sunsubscribe` for the reply to the oldest request that is in flight. While there is none, that has no
//! effect. Otherwise each later reply would go to the wrong request: so none of them counts any more, and the connection is made
//! again. For that reason requests in flight are counted. One whose reply was not waited for counts for good. For the same reason
//! the client sends no `SUNSUBSCRIBE`, whose reply looks the same: a channel that is not used any more stays until the connection
//! ends.

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use redis::{RedisError, aio::MultiplexedConnection};
use tokio::sync::OnceCell;

use crate::transport::{lock, redis_connection::send};

/// A subscription. It is set when the server has confirmed it.
type Subscription = Arc<OnceCell<()>>;

#[derive(Default)]
pub(crate) struct Subscriptions {
    channels: Mutex<HashMap<Arc<str>, Subscription>>,
    in_flight: AtomicUsize,
    /// Replies go to the wrong requests.
    out_of_step: AtomicBool,
}

impl Subscriptions {
    /// Returns the subscription to a channel, to be made if it is not set.
    pub(crate) fn of(&self, channel: &Arc<str>) -> Subscription {
        let mut channels = lock(&self.channels);
        match channels.get(channel) {
            Some(subscription) => subscription.clone(),
            None => channels.entry(channel.clone()).or_default().clone(),
        }
    }

    /// Notes that the server has ended a subscription. Returns whether the connection can be used further.
    pub(crate) fn ended(&self, channel: &str) -> bool {
        lock(&self.channels).remove(channel);
        if self.in_flight.load(Ordering::SeqCst) > 0 {
            self.out_of_step.store(true, Ordering::SeqCst);
        }
        !self.out_of_step.load(Ordering::SeqCst)
    }

    /// Waits for the reply to a request.
    pub(crate) async fn reply<T>(
        &self,
        reply: impl Future<Output = Result<T, RedisError>>,
    ) -> Result<T, RedisError> {
        self.in_flight.fetch_add(1, Ordering::SeqCst);
        let reply = reply.await;
        // Any other error, such as a timeout, leaves the request in flight.
        if reply
            .as_ref()
            .map_or_else(|error| error.code().is_some(), |_| true)
        {
            self.in_flight.fetch_sub(1, Ordering::SeqCst);
        }
        if self.out_of_step.load(Ordering::SeqCst) {
            return Err(io::Error::from(io::ErrorKind::ConnectionReset).into());
        }
        reply
    }
}

/// Subscribes to a channel. `asking`: at a server that is about to take its slot over.
pub(crate) async fn subscribe(
    mut connection: MultiplexedConnection,
    channel: &str,
    asking: bool,
) -> Result<(), RedisError> {
    let mut command = redis::cmd("SSUBSCRIBE");
    command.arg(channel);
    send(&mut connection, &command, asking).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reset() -> RedisError {
        io::Error::from(io::ErrorKind::ConnectionReset).into()
    }

    #[tokio::test]
    async fn an_end_while_nothing_is_in_flight_leaves_the_connection_in_use() {
        let subscriptions = Subscriptions::default();
        let channel: Arc<str> = "c".into();
        subscriptions.of(&channel).set(()).unwrap();
        assert!(subscriptions.of(&channel).initialized());
        assert!(subscriptions.ended("c"));
        assert!(!subscriptions.of(&channel).initialized());
        assert_eq!(subscriptions.reply(async { Ok(1) }).await.unwrap(), 1);
        assert!(subscriptions.ended("c"));
    }

    #[tokio::test]
    async fn from_an_end_while_a_request_is_in_flight_no_reply_counts() {
        let subscriptions = Subscriptions::default();
        let reply = subscriptions.reply(async {
            assert!(!subscriptions.ended("c"));
            Ok(1)
        });
        assert!(reply.await.is_err());
        assert!(subscriptions.reply(async { Ok(2) }).await.is_err());
    }

    #[tokio::test]
    async fn a_request_whose_reply_may_still_come_is_in_flight() {
        let subscriptions = Subscriptions::default();
        let refused = subscriptions.reply(async {
            let server = redis::ServerErrorKind::ResponseError.into();
            Err::<(), RedisError>((server, "refused").into())
        });
        assert!(refused.await.is_err());
        assert!(subscriptions.ended("c"), "an error reply is a reply");
        let lost = subscriptions.reply(async { Err::<(), _>(reset()) });
        assert!(lost.await.is_err());
        assert!(!subscriptions.ended("c"));

        let subscriptions = Subscriptions::default();
        {
            let mut dropped = Box::pin(subscriptions.reply(std::future::pending::<Result<(), _>>()));
            assert!(futures_util::poll!(&mut dropped).is_pending());
        }
        assert!(!subscriptions.ended("c"));
    }
}
