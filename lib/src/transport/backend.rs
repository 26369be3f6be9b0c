//! The interface between a session and its server, which a connection to Redis and the in-memory server implement.

use std::{borrow::Cow, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use redis::{RedisError, Value};

use crate::{
    Error,
    protocol::{channel::ClientChannels, script::Script},
    transport::uptime::{Moment, Uptime},
};

/// A call of a script, with the protocol's version and the server's run id before its arguments.
pub(crate) struct ScriptCall<'a> {
    pub(crate) script: &'static Script,
    pub(crate) keys: &'a [Arc<str>],
    pub(crate) version_and_run: &'a str,
    pub(crate) args: &'a [Cow<'a, str>],
    /// The server is about to take the object over from another one of its cluster.
    pub(crate) asking: bool,
    /// Is set anew when the call has to be sent once more.
    pub(crate) sent: &'a mut Moment,
    pub(crate) uptime: &'a Uptime,
}

/// A connection over which scripts are called.
pub(crate) trait ScriptConnection: Send + Sync {
    fn call<'a>(&'a self, call: ScriptCall<'a>) -> BoxFuture<'a, Result<Value, RedisError>>;

    /// The server's time: seconds since 1970, and microseconds.
    fn time(&self) -> BoxFuture<'_, Result<(u64, u64), RedisError>>;
}

/// The channels to which a client subscribes.
#[derive(Debug, Clone)]
pub(crate) struct Channels {
    /// Its own.
    pub(crate) own: ClientChannels,
    /// The channel of the events of a namespace, or the pattern of those of all, with a single server.
    pub(crate) events: Option<Arc<str>>,
}

/// Is called with the channel and the payload of each message.
pub(crate) type OnMessage = Box<dyn Fn(&str, &str) + Send>;

/// A client that connects to a server of this process.
#[allow(dead_code, reason = "the feature `memory` has the only server that reads it")]
pub(crate) struct Caller {
    pub(crate) channels: Channels,
    pub(crate) response_timeout: Duration,
    pub(crate) on_message: OnMessage,
    pub(crate) on_cut: Box<dyn FnOnce() + Send>,
}

/// A connection to a server of this process.
pub(crate) struct Connected {
    pub(crate) connection: Arc<dyn ScriptConnection>,
    pub(crate) id: i64,
    pub(crate) run_id: Arc<str>,
    pub(crate) version: Arc<str>,
}

/// A server in this process.
pub(crate) trait LocalServer: Send + Sync {
    fn connect(&self, caller: Caller) -> BoxFuture<'_, Result<Connected, Error>>;

    /// Ends a connection: calls of it that have not arrived yet are not executed.
    fn end(&self, id: i64);
}
