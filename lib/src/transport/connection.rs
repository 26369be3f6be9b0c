//! A server as callers see it, and the session with it while there is one. [`keeper`] makes and keeps the connection.

mod driver;

use std::{
    borrow::Cow,
    io,
    pin::pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use redis::{RedisError, Value, aio::MultiplexedConnection};
use tokio::{
    sync::{Notify, mpsc},
    time::Instant,
};

pub(crate) use self::driver::ConnectionDriver;
use crate::{
    Credentials, Error,
    protocol::{script::Script, slot},
    transport::{
        admission::Admission,
        backend::{Channels, LocalServer, ScriptCall, ScriptConnection},
        clock::Clock,
        endpoint::Access,
        lock,
        own_connection::OwnConnection,
        sentinel::Sentinels,
        subscriptions::{Subscriptions, subscribe},
        unreachable,
        uptime::{Moment, Uptime},
    },
};

const LOST: &str = "the connection is lost";
/// A server that was restarted may get its users a moment later, from an administrator or from the controller.
const USERS_RETURN: Duration = Duration::from_secs(10);

/// The settings that all servers of a client share.
pub(crate) struct ConnectionConfig {
    pub(crate) channels: Channels,
    pub(crate) response_timeout: Duration,
    pub(crate) receiver: Arc<dyn Receiver>,
    /// Commands that a server denies now it may accept later.
    pub(crate) credentials_change: bool,
    /// When a server was connected last, and so had accepted them.
    pub(crate) accepted: Mutex<Option<Instant>>,
    pub(crate) uptime: Arc<Uptime>,
    /// Draws a token. No other token is the same.
    pub(crate) draw: Box<dyn Fn() -> uuid::Uuid + Send + Sync>,
}

impl ConnectionConfig {
    /// Returns whether a server that denies the credentials now may accept them soon: because they change, or because they were
    /// accepted until a moment ago.
    pub(crate) fn may_be_accepted(&self) -> bool {
        let accepted = *lock(&self.accepted);
        self.credentials_change || accepted.is_some_and(|at| at.elapsed() < USERS_RETURN)
    }

    pub(crate) fn draw(&self) -> uuid::Uuid {
        (self.draw)()
    }

    /// For a delay, so that clients that met the same do not come back together.
    pub(crate) fn chance(&self) -> u8 {
        self.draw().as_bytes()[0]
    }
}

/// The way to find a server.
pub(crate) enum Endpoint {
    /// One of these, tried in turn.
    At(Vec<redis::Client>, Arc<Access>),
    /// The address that the Sentinels return.
    Sentinels(Sentinels),
    /// In this process.
    #[allow(dead_code, reason = "the feature `memory` has the only one")]
    Local(Arc<dyn LocalServer>),
}

/// Receives what comes in without having been asked for, on the connection's own task: it must not block.
pub(crate) trait Receiver: Send + Sync + 'static {
    /// A message on one of the subscribed channels, over the connection that has this clock.
    fn message(&self, clock: &Clock, channel: &str, payload: &str);
    /// A new connection: messages may have been missed before it.
    fn connected(&self);
    /// The server has ended a sharded subscription, because it has the slot of the channel no longer.
    fn unsubscribed(&self, channel: &str);
    /// No message comes any more.
    fn closed(&self);
}

/// One connection's life. Each call has the session, so that it is shared and not copied.
#[derive(Clone)]
pub(crate) struct Session {
    number: u64,
    connection: Arc<dyn ScriptConnection>,
    /// The same, for questions about the server itself; a local server has none.
    redis: Option<MultiplexedConnection>,
    /// Absent: the server is none of a cluster.
    subscriptions: Option<Arc<Subscriptions>>,
    /// For writes that wait for replicas; the twin has none.
    pub(crate) own_connection: Option<Arc<OwnConnection>>,
    pub(crate) clock: Arc<Clock>,
    /// With which it was made, if they change.
    credentials: Option<Credentials>,
    heard: Arc<LastAnswer>,
    response_timeout: Duration,
    pub(crate) run_id: Arc<str>,
    /// The protocol's version and the run id: an argument of each call.
    version_and_run: Arc<str>,
    pub(crate) version: Arc<str>,
    /// The server's name for this connection, where we may know it.
    id: Option<i64>,
}

/// When something came in last, and how long the last answer took.
struct LastAnswer(Mutex<(Instant, Duration)>);

impl Default for LastAnswer {
    fn default() -> Self {
        Self(Mutex::new((Instant::now(), Duration::ZERO)))
    }
}

impl LastAnswer {
    fn now(&self) {
        lock(&self.0).0 = Instant::now();
    }

    fn answer_to(&self, asked: Instant) {
        let now = Instant::now();
        *lock(&self.0) = (now, now.duration_since(asked));
    }

    fn last(&self) -> Instant {
        lock(&self.0).0
    }

    fn last_and_took(&self) -> (Instant, Duration) {
        *lock(&self.0)
    }
}

#[derive(Clone)]
pub(crate) enum State {
    Down { error: Error },
    Up(Arc<Session>),
}

/// Wakes who waits for another state of any server. In the order of coming, so that calls go out over a new connection in
/// the order in which they were made.
#[derive(Default)]
pub(crate) struct StateChanged(Notify);

impl StateChanged {
    pub(crate) fn ring(&self) {
        self.0.notify_waiters();
    }

    /// Waits until `find` finds something.
    pub(crate) async fn until<T>(&self, find: impl Fn() -> Option<T>) -> T {
        loop {
            let rung = self.0.notified();
            if let Some(found) = find() {
                return found;
            }
            rung.await;
        }
    }
}

/// A server, as callers see it.
pub(crate) struct ServerConnection {
    /// For people.
    pub(crate) address: String,
    pub(crate) admission: Arc<Admission>,
    state: Mutex<State>,
    broken: mpsc::UnboundedSender<u64>,
    state_changed: Arc<StateChanged>,
}

impl ServerConnection {
    /// The keeper is to be run by the caller.
    pub(crate) fn new(
        address: String,
        endpoint: Endpoint,
        config: Arc<ConnectionConfig>,
        state_changed: Arc<StateChanged>,
    ) -> (Arc<Self>, ConnectionDriver) {
        let (broken, broken_in) = mpsc::unbounded_channel();
        let error = unreachable(&address, "not connected yet");
        let node = Arc::new(Self {
            address,
            admission: Arc::default(),
            state: Mutex::new(State::Down { error }),
            broken,
            state_changed,
        });
        let keeper = ConnectionDriver {
            node: node.clone(),
            endpoint,
            config,
            broken: broken_in,
            newest: Arc::default(),
            last: None,
            greeted: false,
            cannot_end: false,
        };
        (node, keeper)
    }

    pub(crate) fn state(&self) -> State {
        lock(&self.state).clone()
    }

    /// The version of its server, where that answers.
    pub(crate) fn version(&self) -> Result<Arc<str>, Error> {
        match self.state() {
            State::Up(session) => Ok(session.version.clone()),
            State::Down { error } => Err(error),
        }
    }

    fn set(&self, state: State) {
        self.replace(&mut lock(&self.state), state);
        self.state_changed.ring();
    }

    /// The admission of calls changes in the same step.
    fn replace(&self, old: &mut State, new: State) {
        match &new {
            State::Up(_) => self.admission.open(),
            State::Down { .. } => self.admission.close(),
        }
        *old = new;
    }

    /// The connection is kept no longer.
    pub(crate) fn retire(&self, error: Error) {
        self.set(State::Down { error });
    }

    /// Asks for another connection. From now on this one is no longer handed out.
    pub(crate) fn give_up(&self, session: &Session) {
        report_broken(&self.broken, session.number);
        {
            let mut state = lock(&self.state);
            if !matches!(&*state, State::Up(current) if current.number == session.number) {
                return;
            }
            let error = unreachable(&self.address, LOST);
            self.replace(&mut state, State::Down { error });
        }
        self.state_changed.ring();
    }
}

impl Session {
    /// Waits for an answer. After a silence the connection may be dead without a notice: it then counts as broken if no
    /// byte arrives for a third of the response timeout, or twice the time of the last answer if that is longer. So
    /// there is time left to repeat the call over another connection.
    async fn answer<T>(
        &self,
        answer: impl Future<Output = Result<T, RedisError>> + Send,
    ) -> Result<T, RedisError> {
        let asked = Instant::now();
        let (before, took) = self.heard.last_and_took();
        let mut answer = pin!(answer);
        let patience = (self.response_timeout / 3).max(took * 2);
        let mut early = None;
        if asked.duration_since(before) >= patience && patience < self.response_timeout {
            early = tokio::time::timeout(patience, &mut answer).await.ok();
            if early.is_none() && self.heard.last() == before {
                return Err(io::Error::from(io::ErrorKind::TimedOut).into());
            }
        }
        let answer = match early {
            Some(answer) => answer,
            None => answer.await,
        };
        // An error reply is an answer.
        if answer
            .as_ref()
            .map_or_else(|error| error.code().is_some(), |_| true)
        {
            self.heard.answer_to(asked);
        }
        answer
    }

    /// Calls a script, with the protocol's version and the server's run id before the arguments. `asking`: of a server
    /// that is about to take the object over. `sent` is set anew when it has to be sent once more.
    pub(crate) fn send<'a>(
        &'a self,
        script: &'static Script,
        keys: &'a [Arc<str>],
        args: &'a [Cow<'a, str>],
        asking: bool,
        sent: (&'a mut Moment, &'a Uptime),
    ) -> impl Future<Output = Result<Value, RedisError>> + Send {
        self.answer(self.evaluate(script, keys, args, asking, sent))
    }

    /// The same without an eye on the silence of the connection.
    pub(super) fn evaluate<'a>(
        &'a self,
        script: &'static Script,
        keys: &'a [Arc<str>],
        args: &'a [Cow<'a, str>],
        asking: bool,
        (sent, uptime): (&'a mut Moment, &'a Uptime),
    ) -> impl Future<Output = Result<Value, RedisError>> + Send {
        let call = ScriptCall {
            script,
            keys,
            version_and_run: &self.version_and_run,
            args,
            asking,
            sent,
            uptime,
        };
        self.reply(self.connection.call(call))
    }

    /// Waits for a reply. Each request over the shared connection does: see [`Subscriptions`].
    async fn reply<T>(
        &self,
        reply: impl Future<Output = Result<T, RedisError>> + Send,
    ) -> Result<T, RedisError> {
        match &self.subscriptions {
            Some(subscriptions) => subscriptions.reply(reply).await,
            None => reply.await,
        }
    }

    /// The slot of an object, if the server is one of a cluster.
    pub(crate) fn slot(&self, keys: &[Arc<str>]) -> Option<u16> {
        self.subscriptions.as_ref()?;
        keys.first().map(|key| slot::of(key))
    }

    /// Returns whether there is a subscription to a sharded channel.
    pub(crate) fn listens(&self, channel: &Arc<str>) -> bool {
        let subscriptions = self.subscriptions.as_ref();
        subscriptions.is_some_and(|subscriptions| subscriptions.of(channel).initialized())
    }

    /// Subscribes to a sharded channel, unless that is done. `asking`: at a server that is about to take its slot over.
    pub(crate) async fn listen(&self, channel: &Arc<str>, asking: bool) -> Result<(), RedisError> {
        let (Some(subscriptions), Some(connection)) = (&self.subscriptions, &self.redis) else {
            return Ok(());
        };
        let subscription = subscriptions.of(channel);
        let made = || {
            let made = self.reply(subscribe(connection.clone(), channel, asking));
            self.answer(made)
        };
        subscription.get_or_try_init(made).await.map(drop)
    }

    /// The same server, over another connection.
    pub(crate) fn over(&self, connection: MultiplexedConnection) -> Self {
        Self {
            redis: Some(connection.clone()),
            connection: Arc::new(connection),
            // Nothing is subscribed to over that one.
            subscriptions: None,
            ..self.clone()
        }
    }

    /// The server's time, in microseconds since 1970.
    pub(crate) async fn time(&self) -> Result<u64, RedisError> {
        self.answer(self.ask_time()).await
    }

    /// As `time`, with as much patience after a silence as at any other time.
    async fn ask_time(&self) -> Result<u64, RedisError> {
        let (seconds, micros) = self.reply(self.connection.time()).await?;
        Ok(seconds * 1_000_000 + micros)
    }

    /// Sends a command about the server itself, which a local server does not take.
    pub(crate) async fn ask<T: redis::FromRedisValue>(&self, command: &redis::Cmd) -> Result<T, RedisError> {
        let Some(mut connection) = self.redis.clone() else {
            return Err(io::Error::from(io::ErrorKind::Unsupported).into());
        };
        self.reply(command.query_async(&mut connection)).await
    }
}

fn report_broken(broken: &mpsc::UnboundedSender<u64>, number: u64) {
    // An error means that the connection has no users any more.
    let _ = broken.send(number);
}
