//! One server's connection: made, kept, and made again.
//!
//! One task owns it. It connects, checks the server, subscribes to the client's channels, and shows the session to
//! callers; when the session breaks it starts over, with a growing delay.

use std::{
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use redis::{
    AsyncConnectionConfig, ErrorKind, PushKind, RedisError, ServerErrorKind, Value,
    aio::MultiplexedConnection,
};
use tokio::{
    sync::{Notify, mpsc},
    time::Instant,
};
use tracing::{info, warn};

use super::{
    about::About,
    address,
    admission::{Admission, jittered},
    clock::Clock,
    explain::{at_greeting, explain},
    lock,
    script::Script,
    sentinel::Sentinels,
    unreachable,
    uptime::{Moment, Uptime},
};
use crate::Error;
#[cfg(feature = "memory")]
use crate::memory::{self, Memory};

/// Between two tries, at first and at most.
pub(crate) const FIRST_DELAY: Duration = Duration::from_millis(20);
pub(crate) const LONGEST_DELAY: Duration = Duration::from_secs(1);
/// A connection that lived for longer than this is made again at once.
const STABLE: Duration = Duration::from_millis(100);

const LOST: &str = "the connection is lost";

/// What is the same for all servers of a client.
pub(crate) struct Setting {
    /// The client's own channel first; a controller also listens for events.
    pub(crate) channels: Vec<String>,
    /// The protocol's version, `@`, and the channel on which a controller listens: what each call says.
    pub(crate) version_and_events: String,
    pub(crate) response_timeout: Duration,
    pub(crate) receiver: Arc<dyn Receiver>,
    pub(crate) uptime: Arc<Uptime>,
    #[cfg(feature = "memory")]
    pub(crate) memory: Option<Memory>,
}

impl Setting {
    /// For a token: nobody else draws the same. The twin draws by its seed.
    pub(crate) fn draw(&self) -> uuid::Uuid {
        #[cfg(feature = "memory")]
        if let Some(memory) = &self.memory {
            return uuid::Uuid::from_u128(memory.draw());
        }
        uuid::Uuid::new_v4()
    }

    /// For a delay, so that clients that met the same do not come back together.
    pub(crate) fn chance(&self) -> u8 {
        self.draw().as_bytes()[0]
    }
}

/// Where a server is to be found.
pub(crate) enum Whereabouts {
    /// One of these, tried in turn.
    At(Vec<redis::Client>),
    /// Where the Sentinels say.
    Sentinels(Sentinels),
    /// With the process name of the client.
    #[cfg(feature = "memory")]
    Memory(Memory, Arc<str>),
}

/// Receives what comes in without having been asked for, on the connection's own task: it must not block.
pub(crate) trait Receiver: Send + Sync + 'static {
    /// A message on one of the subscribed channels, over the connection that has this clock.
    fn message(&self, clock: &Clock, channel: &str, payload: &str);
    /// A new connection: messages may have been missed before it.
    fn connected(&self);
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
    pub(crate) clock: Arc<Clock>,
    pub(crate) run_id: Arc<str>,
    pub(crate) version: Arc<str>,
    /// The server's name for this connection, where we may know it.
    id: Option<i64>,
}

#[derive(Clone)]
pub(crate) enum State {
    Down { error: Error },
    Up(Session),
}

/// Wakes who waits for another state of any server. In the order of coming, so that calls go out over a new connection in
/// the order in which they were made.
#[derive(Default)]
pub(crate) struct Bell(Notify);

impl Bell {
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
pub(crate) struct Node {
    /// For people.
    pub(crate) address: String,
    pub(crate) admission: Arc<Admission>,
    state: Mutex<State>,
    broken: mpsc::UnboundedSender<u64>,
    bell: Arc<Bell>,
}

impl Node {
    /// The keeper is to be run by the caller.
    pub(crate) fn new(
        address: String,
        whereabouts: Whereabouts,
        setting: Arc<Setting>,
        bell: Arc<Bell>,
    ) -> (Arc<Self>, Keeper) {
        let (broken, broken_in) = mpsc::unbounded_channel();
        let error = unreachable(&address, "not connected yet");
        let node = Arc::new(Self {
            address,
            admission: Arc::default(),
            state: Mutex::new(State::Down { error }),
            broken,
            bell,
        });
        let keeper = Keeper {
            node: node.clone(),
            whereabouts,
            setting,
            broken: broken_in,
            newest: Arc::default(),
            last: None,
        };
        (node, keeper)
    }

    pub(crate) fn state(&self) -> State {
        lock(&self.state).clone()
    }

    fn set(&self, state: State) {
        self.replace(&mut lock(&self.state), state);
        self.bell.ring();
    }

    /// What admits calls changes in the same step.
    fn replace(&self, old: &mut State, new: State) {
        match &new {
            State::Up(_) => self.admission.open(),
            State::Down { .. } => self.admission.close(),
        }
        *old = new;
    }

    /// Nobody keeps this connection any more.
    pub(crate) fn retire(&self) {
        let error = unreachable(&self.address, "it is no master of the cluster any more");
        self.set(State::Down { error });
    }

    /// Asks for another connection. From now on this one is no longer handed out.
    pub(crate) fn give_up(&self, session: &Session) {
        tell(&self.broken, session.number);
        {
            let mut state = lock(&self.state);
            if !matches!(&*state, State::Up(current) if current.number == session.number) {
                return;
            }
            let error = unreachable(&self.address, LOST);
            self.replace(&mut state, State::Down { error });
        }
        self.bell.ring();
    }
}

impl Session {
    /// Calls a script, with the server's run id and the controller's channel before the arguments. `asking`: of a server
    /// that is about to take the object over. `sent` is set anew when it has to be sent once more.
    pub(crate) async fn send(
        &self,
        script: &'static Script,
        keys: &[String],
        before: &str,
        args: &[&str],
        asking: bool,
        (sent, uptime): (&mut Moment, &Uptime),
    ) -> Result<Value, RedisError> {
        let connection = match &self.connection {
            Connection::Redis(connection) => connection,
            #[cfg(feature = "memory")]
            Connection::Memory(connection) => {
                let args = [&*self.run_id, before].into_iter().chain(args.iter().copied());
                return connection.call(script, keys, args).await;
            }
        };
        let mut connection = connection.clone();
        let mut command = redis::cmd("EVALSHA");
        command
            .arg(script.hash())
            .arg(keys.len())
            .arg(keys)
            .arg(&*self.run_id)
            .arg(before)
            .arg(args);
        match evaluate(&mut connection, &command, asking).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                redis::cmd("SCRIPT")
                    .arg("LOAD")
                    .arg(script.text())
                    .exec_async(&mut connection)
                    .await?;
                *sent = uptime.now();
                evaluate(&mut connection, &command, asking).await
            }
            result => result,
        }
    }

    /// Waits until that many replicas have what this very connection has written last, and says how many have it.
    pub(crate) async fn acknowledged(&self, replicas: u8, patience: Duration) -> Result<u64, RedisError> {
        if replicas == 0 {
            return Ok(0);
        }
        let mut command = redis::cmd("WAIT");
        command
            .arg(replicas)
            .arg(u64::try_from(patience.as_millis()).unwrap_or(u64::MAX));
        match &self.connection {
            Connection::Redis(connection) => command.query_async(&mut connection.clone()).await,
            // The twin has no replicas.
            #[cfg(feature = "memory")]
            Connection::Memory(_) => Ok(0),
        }
    }

    /// The server's time, in microseconds since 1970.
    pub(crate) async fn time(&self) -> Result<u64, RedisError> {
        let (seconds, micros): (u64, u64) = match &self.connection {
            Connection::Redis(connection) => redis::cmd("TIME").query_async(&mut connection.clone()).await?,
            #[cfg(feature = "memory")]
            Connection::Memory(connection) => connection.time().await?,
        };
        Ok(seconds * 1_000_000 + micros)
    }

    /// For questions about the server itself.
    pub(crate) fn redis(&self) -> Option<MultiplexedConnection> {
        match &self.connection {
            Connection::Redis(connection) => Some(connection.clone()),
            #[cfg(feature = "memory")]
            Connection::Memory(_) => None,
        }
    }
}

async fn evaluate(
    connection: &mut MultiplexedConnection,
    command: &redis::Cmd,
    asking: bool,
) -> Result<Value, RedisError> {
    if !asking {
        return connection
            .send_packed_command(command)
            .await
            .and_then(Value::extract_error);
    }
    let mut both = redis::pipe();
    both.cmd("ASKING").add_command(command.clone());
    let replies = connection.send_packed_commands(&both, 0, 2).await?;
    replies.into_iter().nth(1).unwrap_or(Value::Nil).extract_error()
}

fn tell(broken: &mpsc::UnboundedSender<u64>, number: u64) {
    // An error means that nobody keeps the connection any more.
    let _ = broken.send(number);
}

/// What a try to connect has found.
enum Found {
    Session(Session),
    Cluster,
}

/// Owns the connection to one server.
pub(crate) struct Keeper {
    node: Arc<Node>,
    whereabouts: Whereabouts,
    setting: Arc<Setting>,
    broken: mpsc::UnboundedReceiver<u64>,
    /// The number of the newest try.
    newest: Arc<AtomicU64>,
    /// The run id of the server, and its name for our last connection to it.
    last: Option<(Arc<str>, i64)>,
}

impl Keeper {
    /// Keeps the connection for as long as it is polled. It ends when the server turns out to be one of a cluster, which
    /// is `expected` of those that a cluster has named.
    pub(crate) async fn run(mut self, expected: bool) {
        let mut delay = FIRST_DELAY;
        loop {
            let number = self.newest.fetch_add(1, Ordering::Relaxed) + 1;
            let started = Instant::now();
            let address = self.node.address.clone();
            match self.connect(number, expected).await {
                Ok(Found::Cluster) => return,
                Ok(Found::Session(session)) => {
                    info!(address, version = %session.version, "connected to Redis");
                    self.last = session.id.map(|id| (session.run_id.clone(), id));
                    self.node.set(State::Up(session));
                    self.setting.receiver.connected();
                    self.keep(number).await;
                    warn!(address, "the connection to Redis is lost");
                    let error = unreachable(&address, LOST);
                    self.node.set(State::Down { error });
                    if started.elapsed() > STABLE {
                        delay = FIRST_DELAY;
                        continue;
                    }
                }
                Err(error) => {
                    let known = match self.node.state() {
                        State::Down { error: known } => known.to_string() == error.to_string(),
                        State::Up(_) => false,
                    };
                    if !known {
                        warn!(%error, "cannot connect to Redis, trying on");
                    }
                    self.node.set(State::Down { error });
                }
            }
            tokio::time::sleep(jittered(delay, self.setting.chance())).await;
            delay = (delay * 2).min(LONGEST_DELAY);
        }
    }

    /// Waits until the connection with this number breaks.
    async fn keep(&mut self, number: u64) {
        let broken = async { while self.broken.recv().await.is_some_and(|which| which < number) {} };
        tokio::select! {
            biased;
            () = broken => {}
            () = self.node.admission.run() => {}
        }
    }

    async fn connect(&mut self, number: u64, in_cluster: bool) -> Result<Found, Error> {
        let receiver = self.setting.receiver.clone();
        let clock = Arc::new(Clock::of_a_connection_begun_at(self.setting.uptime.now()));
        let broken = self.node.broken.clone();
        let here: Arc<OnceLock<Arc<str>>> = Arc::default();
        let on_message = {
            let (here, newest, clock) = (here.clone(), self.newest.clone(), clock.clone());
            move |channel: &str, payload: &str| {
                // What arrives over a connection that was given up may be older than what a newer one has said.
                if newest.load(Ordering::Relaxed) != number {
                    return;
                }
                // Other servers' words come from their own connections.
                if let Some((said_by, payload)) = payload.split_once('\n')
                    && here.get().is_none_or(|here| **here == *said_by)
                {
                    receiver.message(&clock, channel, payload);
                }
            }
        };
        let (client, address) = match &self.whereabouts {
            Whereabouts::At(servers) => {
                let turn = usize::try_from(number - 1).unwrap_or_default() % servers.len();
                (servers[turn].clone(), address::of(&servers[turn]))
            }
            Whereabouts::Sentinels(sentinels) => {
                let found = sentinels.master().await?;
                let address = address::of(&found);
                (found, address)
            }
            #[cfg(feature = "memory")]
            Whereabouts::Memory(memory, process) => {
                let caller = memory::Caller {
                    process: process.clone(),
                    channels: self.setting.channels.clone(),
                    response_timeout: self.setting.response_timeout,
                    on_message,
                    on_cut: move || tell(&broken, number),
                };
                let (connection, run_id) = memory.connect(caller).await?;
                if let Some((run, id)) = &self.last
                    && *run == run_id
                {
                    memory.end(*id);
                }
                return Ok(Found::Session(Session {
                    number,
                    id: Some(connection.id()),
                    connection: Connection::Memory(connection),
                    clock,
                    run_id,
                    version: concat!("in-memory twin ", env!("CARGO_PKG_VERSION")).into(),
                }));
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
                        on_message(channel, payload);
                    }
                }
                _ => {}
            }
            Ok::<(), redis::aio::SendError>(())
        };
        let timeout = self.setting.response_timeout;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(timeout))
            .set_response_timeout(Some(timeout))
            .set_push_sender(on_push);
        let refused = |error: &RedisError| explain(&client, error);
        let mut connection = match client.get_multiplexed_async_connection_with_config(&config).await {
            Ok(connection) => connection,
            Err(error) => return Err(at_greeting(&client, timeout, &error).await),
        };
        let text: String = redis::cmd("INFO")
            .arg(&["server", "replication", "memory"])
            .query_async(&mut connection)
            .await
            .map_err(|e| refused(&e))?;
        let about = About::read(&text, &address)?;
        if about.is_cluster && !in_cluster {
            return Ok(Found::Cluster);
        }
        // Not set before, as nothing is subscribed to yet.
        let _ = here.set(about.run_id.clone());
        connection
            .subscribe(&self.setting.channels)
            .await
            .map_err(|e| refused(&e))?;
        let id = self.end_last(&mut connection, &about.run_id).await;
        Ok(Found::Session(Session {
            number,
            connection: Connection::Redis(connection),
            clock,
            run_id: about.run_id,
            version: about.version,
            id,
        }))
    }

    /// What was sent over the last connection and has not arrived yet must not arrive any more: the same is sent again
    /// over this one, and an acquisition that came in after its own release would hold what nobody knows of. Without the
    /// right to end it, it ends when the network gives it up. Returns the server's name for this connection.
    async fn end_last(&self, connection: &mut MultiplexedConnection, run_id: &str) -> Option<i64> {
        if let Some((run, id)) = &self.last
            && **run == *run_id
        {
            let mut kill = redis::cmd("CLIENT");
            kill.arg("KILL").arg("ID").arg(*id);
            let _: Result<Value, RedisError> = kill.query_async(connection).await;
        }
        redis::cmd("CLIENT").arg("ID").query_async(connection).await.ok()
    }
}
