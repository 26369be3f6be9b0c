//! The connection of a client: made, kept, and made again.
//!
//! One task owns it. It connects, checks the server, subscribes to the client's channel, and publishes the session
//! through a watch; when the session breaks it starts over, with a growing delay. Callers wait for a session, send, and
//! on a broken connection wait for the next one and send the same again: every script may be repeated, for it carries
//! its token. A caller that gives up gets `Unreachable`.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use redis::{
    AsyncConnectionConfig, ErrorKind, PushKind, RedisError, ServerErrorKind, Value,
    aio::MultiplexedConnection,
};
use tokio::{
    sync::{Notify, mpsc, watch},
    time::Instant,
};
use tracing::{debug, info, warn};

use super::script::Script;
use crate::Error;
#[cfg(feature = "memory")]
use crate::memory::{self, Memory};

const FIRST_DELAY: Duration = Duration::from_millis(20);
const LONGEST_DELAY: Duration = Duration::from_secs(1);
/// A connection that lived for longer than this is made again at once.
const STABLE: Duration = Duration::from_millis(100);

/// What to connect to, and how long to try.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) backend: Backend,
    pub(crate) address: String,
    /// The client's own channel first; a controller also listens for events.
    pub(crate) channels: Vec<String>,
    pub(crate) events_channel: String,
    pub(crate) response_timeout: Duration,
}

/// Where the scripts run.
#[derive(Clone)]
pub(crate) enum Backend {
    Redis(Box<redis::Client>),
    /// With the process name of the client.
    #[cfg(feature = "memory")]
    Memory(Memory, Arc<str>),
}

impl Backend {
    /// For a token or a channel: nobody else draws the same.
    pub(crate) fn draw(&self) -> uuid::Uuid {
        match self {
            Self::Redis(_) => uuid::Uuid::new_v4(),
            #[cfg(feature = "memory")]
            Self::Memory(memory, _) => uuid::Uuid::from_u128(memory.draw()),
        }
    }
}

#[derive(Clone)]
enum Connection {
    Redis(MultiplexedConnection),
    #[cfg(feature = "memory")]
    Memory(memory::Connection),
}

/// One connection's life.
#[derive(Clone)]
pub(crate) struct Session {
    number: u64,
    connection: Connection,
    /// Names this life of the server process: another one may have lost data.
    pub(crate) run_id: Arc<str>,
    pub(crate) version: Arc<str>,
}

#[derive(Clone)]
pub(crate) enum State {
    Down { error: Error },
    Up(Session),
}

/// Receives what comes in without having been asked for, on the connection's own task: it must not block.
pub(crate) trait Receiver: Send + Sync + 'static {
    /// A message on one of the subscribed channels.
    fn message(&self, channel: &str, payload: &str);
    /// A new connection: messages may have been missed before it.
    fn connected(&self);
}

/// A reply, and when its request was sent.
pub(crate) struct Reply {
    pub(crate) value: Value,
    pub(crate) sent: Instant,
    /// Whether it was sent before, so that this reply may tell of a state that the first sending made.
    pub(crate) repeated: bool,
}

#[derive(Clone)]
pub(crate) struct Link {
    state: watch::Receiver<State>,
    changed: Arc<Notify>,
    broken: mpsc::UnboundedSender<u64>,
    target: Arc<Target>,
}

impl Link {
    /// Starts the task that connects. It ends when the last clone of the link is dropped.
    pub(crate) fn start(target: Target, receiver: Arc<dyn Receiver>) -> Self {
        let none = Error::Unreachable {
            reason: format!("{}: not connected yet", target.address),
        };
        let (state_out, state) = watch::channel(State::Down { error: none });
        let (broken, broken_in) = mpsc::unbounded_channel();
        let target = Arc::new(target);
        let changed = Arc::new(Notify::new());
        let keeper = Keeper {
            target: target.clone(),
            state: state_out,
            broken: broken_in,
            receiver,
            changed: Changed(changed.clone()),
        };
        tokio::spawn(keeper.run(broken.downgrade()));
        Self {
            state,
            changed,
            broken,
            target,
        }
    }

    pub(crate) fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    pub(crate) fn draw(&self) -> uuid::Uuid {
        self.target.backend.draw()
    }

    pub(crate) fn response_timeout(&self) -> Duration {
        self.target.response_timeout
    }

    /// Waits for a session until `until`. A refusal that waiting cannot mend ends the wait.
    pub(crate) async fn session(&self, until: Instant) -> Result<Session, Error> {
        let up = self.until(|state| match state {
            State::Up(session) => Some(Ok(session.clone())),
            State::Down { error } if !error.is_unreachable() => Some(Err(error.clone())),
            State::Down { .. } => None,
        });
        match tokio::time::timeout_at(until, up).await {
            Ok(Some(found)) => found,
            Ok(None) => Err(Error::Unreachable {
                reason: "the client is closed".to_owned(),
            }),
            Err(_) => match &*self.state.borrow() {
                State::Down { error } => Err(error.clone()),
                State::Up(_) => Err(unreachable(&self.target.address, "no answer in time")),
            },
        }
    }

    /// Waits for a state in which `find` finds something. Who waits is woken in the order of coming, so that calls go
    /// out over a new connection in the order in which they were made; the watch would wake in any. None: it is closed.
    async fn until<T>(&self, find: impl Fn(&State) -> Option<T>) -> Option<T> {
        loop {
            let changed = self.changed.notified();
            if let Some(found) = find(&self.state.borrow()) {
                return Some(found);
            }
            if self.state.has_changed().is_err() {
                return None;
            }
            changed.await;
        }
    }

    /// Calls a script, with the server's run id and the controller's channel before the arguments. Repeats it over new
    /// connections until `until`.
    pub(crate) async fn call(
        &self,
        script: &'static Script,
        keys: &[String],
        args: &[&str],
        until: Instant,
    ) -> Result<Reply, Error> {
        Ok(self.call_replicated(script, keys, args, until, 0).await?.0)
    }

    /// As `call`, and then waits until that many replicas have what the script has written, or for half a response
    /// timeout. Returns how many have it.
    pub(crate) async fn call_replicated(
        &self,
        script: &'static Script,
        keys: &[String],
        args: &[&str],
        until: Instant,
        replicas: u8,
    ) -> Result<(Reply, u64), Error> {
        let mut repeated = false;
        loop {
            let session = self.session(until).await?;
            let mut sent = Instant::now();
            let outcome = match self.send(&session, script, keys, args, &mut sent).await {
                Ok(value) => self
                    .acknowledged(&session, replicas)
                    .await
                    .map(|reached| (value, reached)),
                Err(error) => Err(error),
            };
            let error = match outcome {
                Ok((value, reached)) => {
                    return Ok((
                        Reply {
                            value,
                            sent,
                            repeated,
                        },
                        reached,
                    ));
                }
                Err(error) => error,
            };
            match judge(&error) {
                Verdict::Broken => {
                    debug!(script = script.name, %error, "the connection broke, and the call is repeated");
                    repeated = true;
                    self.give_up(&session).await;
                }
                Verdict::NotNow => tokio::time::sleep(FIRST_DELAY).await,
                Verdict::Final => return Err(refusal(&error)),
            }
            if Instant::now() >= until {
                return Err(unreachable(&self.target.address, error));
            }
        }
    }

    /// The server counts from the last write of this very connection.
    async fn acknowledged(&self, session: &Session, replicas: u8) -> Result<u64, RedisError> {
        if replicas == 0 {
            return Ok(0);
        }
        let patience = u64::try_from(self.response_timeout().as_millis() / 2).unwrap_or(u64::MAX);
        match &session.connection {
            Connection::Redis(connection) => {
                let mut connection = connection.clone();
                redis::cmd("WAIT")
                    .arg(replicas)
                    .arg(patience)
                    .query_async(&mut connection)
                    .await
            }
            // The twin has no replicas.
            #[cfg(feature = "memory")]
            Connection::Memory(_) => Ok(0),
        }
    }

    /// The server's time, in microseconds since 1970.
    pub(crate) async fn time(&self, until: Instant) -> Result<u64, Error> {
        let time = match self.session(until).await?.connection {
            Connection::Redis(mut connection) => redis::cmd("TIME").query_async(&mut connection).await,
            #[cfg(feature = "memory")]
            Connection::Memory(connection) => connection.time().await,
        };
        let (seconds, micros): (u64, u64) = time.map_err(|error| unreachable(&self.target.address, error))?;
        Ok(seconds * 1_000_000 + micros)
    }

    async fn send(
        &self,
        session: &Session,
        script: &'static Script,
        keys: &[String],
        args: &[&str],
        sent: &mut Instant,
    ) -> Result<Value, RedisError> {
        let mut connection = match &session.connection {
            Connection::Redis(connection) => connection.clone(),
            #[cfg(feature = "memory")]
            Connection::Memory(connection) => {
                let before = [&*session.run_id, &*self.target.events_channel];
                let args = before.into_iter().chain(args.iter().copied());
                return connection.call(script, keys, args).await;
            }
        };
        let mut command = redis::cmd("EVALSHA");
        command
            .arg(script.hash())
            .arg(keys.len())
            .arg(keys)
            .arg(&*session.run_id)
            .arg(&self.target.events_channel)
            .arg(args);
        let result = connection
            .send_packed_command(&command)
            .await
            .and_then(Value::extract_error);
        match result {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                redis::cmd("SCRIPT")
                    .arg("LOAD")
                    .arg(script.text())
                    .exec_async(&mut connection)
                    .await?;
                *sent = Instant::now();
                connection
                    .send_packed_command(&command)
                    .await
                    .and_then(Value::extract_error)
            }
            result => result,
        }
    }

    /// Asks for another connection, and waits until this one is no longer handed out.
    async fn give_up(&self, session: &Session) {
        if self.broken.send(session.number).is_ok() {
            let gone = |s: &State| !matches!(s, State::Up(current) if current.number == session.number);
            // None means that the client is closed, which the next call finds out.
            self.until(|state| gone(state).then_some(())).await;
        }
    }
}

enum Verdict {
    /// The connection is of no use any more: the next one may be.
    Broken,
    /// The server answers, but is not ready.
    NotNow,
    Final,
}

fn judge(error: &RedisError) -> Verdict {
    match error.kind() {
        ErrorKind::Server(
            ServerErrorKind::BusyLoading | ServerErrorKind::MasterDown | ServerErrorKind::TryAgain,
        ) => Verdict::NotNow,
        // The server has become a replica: its master is elsewhere.
        ErrorKind::Server(ServerErrorKind::ReadOnly) => Verdict::Broken,
        ErrorKind::Server(_) | ErrorKind::Extension if error.code() == Some("BUSY") => Verdict::NotNow,
        ErrorKind::Server(_) | ErrorKind::Extension => Verdict::Final,
        _ => Verdict::Broken,
    }
}

/// An error reply of ours carries its name as code; it is read by the caller. The rest are Redis' own.
fn refusal(error: &RedisError) -> Error {
    let code = error.code().unwrap_or_default();
    Error::Refused {
        reason: format!("{code} {}", error.detail().unwrap_or_default())
            .trim()
            .to_owned(),
    }
}

fn unreachable(address: &str, error: impl std::fmt::Display) -> Error {
    Error::Unreachable {
        reason: format!("{address}: {error}"),
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Nothing panics while it holds one of our mutexes; should it, what they guard is still whole.
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn tell(broken: &mpsc::WeakUnboundedSender<u64>, number: u64) {
    if let Some(broken) = broken.upgrade() {
        // The keeper is gone only when the client is.
        let _ = broken.send(number);
    }
}

/// The task that owns the connection.
struct Keeper {
    target: Arc<Target>,
    state: watch::Sender<State>,
    broken: mpsc::UnboundedReceiver<u64>,
    receiver: Arc<dyn Receiver>,
    /// Dropped after the state: whoever waits then finds it closed.
    changed: Changed,
}

/// Wakes who waits for another state.
struct Changed(Arc<Notify>);

impl Drop for Changed {
    fn drop(&mut self) {
        self.0.notify_waiters();
    }
}

impl Keeper {
    fn set(&self, state: State) {
        self.state.send_replace(state);
        self.changed.0.notify_waiters();
    }

    async fn run(mut self, broken: mpsc::WeakUnboundedSender<u64>) {
        let mut number = 0;
        let mut delay = FIRST_DELAY;
        loop {
            number += 1;
            let started = Instant::now();
            match self.connect(number, broken.clone()).await {
                Ok(session) => {
                    info!(address = %self.target.address, version = %session.version, "connected to Redis");
                    self.set(State::Up(session));
                    self.receiver.connected();
                    if !self.until_broken(number).await {
                        return;
                    }
                    warn!(address = %self.target.address, "the connection to Redis is lost");
                    let error = unreachable(&self.target.address, "the connection is lost");
                    self.set(State::Down { error });
                    if started.elapsed() > STABLE {
                        delay = FIRST_DELAY;
                        continue;
                    }
                }
                Err(error) => {
                    let same = matches!(&*self.state.borrow(), State::Down { error: known } if known.to_string() == error.to_string());
                    if !same {
                        warn!(%error, "cannot connect to Redis, trying on");
                    }
                    self.set(State::Down { error });
                }
            }
            tokio::select! {
                () = tokio::time::sleep(delay) => delay = (delay * 2).min(LONGEST_DELAY),
                () = self.state.closed() => return,
            }
        }
    }

    /// False when nobody needs the connection any more.
    async fn until_broken(&mut self, number: u64) -> bool {
        loop {
            tokio::select! {
                told = self.broken.recv() => match told {
                    Some(which) if which < number => {}
                    Some(_) => return true,
                    None => return false,
                },
                () = self.state.closed() => return false,
            }
        }
    }

    async fn connect(&self, number: u64, broken: mpsc::WeakUnboundedSender<u64>) -> Result<Session, Error> {
        let receiver = self.receiver.clone();
        #[cfg_attr(not(feature = "memory"), allow(clippy::infallible_destructuring_match))]
        let client = match &self.target.backend {
            Backend::Redis(client) => client,
            #[cfg(feature = "memory")]
            Backend::Memory(memory, process) => {
                let caller = memory::Caller {
                    process: process.clone(),
                    channels: self.target.channels.clone(),
                    response_timeout: self.target.response_timeout,
                    on_message: move |channel: &str, payload: &str| receiver.message(channel, payload),
                    on_cut: move || tell(&broken, number),
                };
                let (connection, run_id) = memory.connect(caller).await?;
                return Ok(Session {
                    number,
                    connection: Connection::Memory(connection),
                    run_id,
                    version: concat!("in-memory twin ", env!("CARGO_PKG_VERSION")).into(),
                });
            }
        };
        let on_push = move |info: redis::PushInfo| {
            match info.kind {
                PushKind::Disconnection => tell(&broken, number),
                PushKind::Message => {
                    if let [Value::BulkString(channel), Value::BulkString(payload)] = &info.data[..]
                        && let (Ok(channel), Ok(payload)) =
                            (std::str::from_utf8(channel), std::str::from_utf8(payload))
                    {
                        receiver.message(channel, payload);
                    }
                }
                _ => {}
            }
            Ok::<(), redis::aio::SendError>(())
        };
        let timeout = self.target.response_timeout;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(timeout))
            .set_response_timeout(Some(timeout))
            .set_push_sender(on_push);
        let refused = |error: &RedisError| self.explain(error);
        let mut connection = client
            .get_multiplexed_async_connection_with_config(&config)
            .await
            .map_err(|e| refused(&e))?;
        let about: String = redis::cmd("INFO")
            .arg(&["server", "replication", "memory"])
            .query_async(&mut connection)
            .await
            .map_err(|e| refused(&e))?;
        let (run_id, version) = self.check(&about)?;
        if let Some(policy) = evicting(&about) {
            warn!(address = %self.target.address, policy, "Redis may evict leases when its memory is full: set maxmemory-policy to noeviction");
        }
        connection
            .subscribe(&self.target.channels)
            .await
            .map_err(|e| refused(&e))?;
        Ok(Session {
            number,
            connection: Connection::Redis(connection),
            run_id,
            version,
        })
    }

    /// Why a connection could not be made, in words that say what to do.
    fn explain(&self, error: &RedisError) -> Error {
        let address = self.target.address.clone();
        match (error.kind(), error.code()) {
            (ErrorKind::AuthenticationFailed, _) | (_, Some("WRONGPASS" | "NOAUTH" | "NOPERM")) => {
                Error::Authentication {
                    address,
                    reason: error.to_string(),
                }
            }
            (kind, code)
                if kind == ErrorKind::RESP3NotSupported
                    || code == Some("NOPROTO")
                    || error.detail().is_some_and(|detail| detail.contains("HELLO")) =>
            {
                Error::UnsupportedServer {
                    address,
                    found: "a server that does not speak RESP3".to_owned(),
                }
            }
            _ => unreachable(&address, error),
        }
    }

    fn check(&self, about: &str) -> Result<(Arc<str>, Arc<str>), Error> {
        let field = |name: &str| field(about, name);
        let (product, version) = match (field("valkey_version"), field("redis_version")) {
            (Some(valkey), _) => ("Valkey", valkey),
            (None, Some(redis)) => ("Redis", redis),
            (None, None) => ("a server that does not say its version", ""),
        };
        let minimum = if product == "Valkey" { (7, 2) } else { (7, 0) };
        let mut numbers = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
        let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        match field("run_id") {
            Some(_) if found >= minimum && field("role") == Some("slave") => Err(unreachable(
                &self.target.address,
                "it is a replica, which takes no writes: connect to its master, or promote it",
            )),
            Some(run_id) if found >= minimum => Ok((run_id.into(), format!("{product} {version}").into())),
            _ => Err(Error::UnsupportedServer {
                address: self.target.address.clone(),
                found: format!("{product} {version}").trim().to_owned(),
            }),
        }
    }
}

/// A field of what INFO says.
fn field<'a>(about: &'a str, name: &str) -> Option<&'a str> {
    about
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .map(str::trim)
}

/// The server's policy for a full memory, if it is one that throws keys away.
fn evicting(about: &str) -> Option<&str> {
    let limited = field(about, "maxmemory").is_some_and(|bytes| bytes != "0");
    field(about, "maxmemory_policy").filter(|policy| limited && *policy != "noeviction")
}

#[cfg(test)]
mod tests {
    use super::evicting;

    #[test]
    fn only_a_limited_memory_with_an_evicting_policy_is_warned_of() {
        for (about, policy) in [
            ("maxmemory:0\r\nmaxmemory_policy:allkeys-lru\r\n", None),
            ("maxmemory:1000\r\nmaxmemory_policy:noeviction\r\n", None),
            (
                "maxmemory:1000\r\nmaxmemory_policy:allkeys-lru\r\n",
                Some("allkeys-lru"),
            ),
            (
                "maxmemory:1000\r\nmaxmemory_policy:volatile-ttl\r\n",
                Some("volatile-ttl"),
            ),
            ("redis_version:7.0.15\r\n", None),
        ] {
            assert_eq!(evicting(about), policy, "{about}");
        }
    }
}
