//! The in-memory twin: a server in this process that runs the very same scripts as Redis does, in an embedded Lua.
//!
//! For tests without a server, and for programs that are one process after all. It stands behind the same
//! [`Client`](crate::Client): locks, queues, pushes, renewals and the controller's side are the same code and the same
//! protocol.
//! Several clients of one [`Memory`] are to one another what several processes on one Redis are.
//!
//! # Virtual time
//! The twin's clock follows tokio's. In a test with `start_paused = true` (or after `tokio::time::pause`; tokio's
//! feature `test-util`) hours of leases pass in microseconds, and always in the same way.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), tenure::Error> {
//! use std::time::Duration;
//! use tenure::{Memory, Options};
//!
//! let memory = Memory::new();
//! let (a, b) = (memory.client().connect().await?, memory.client().connect().await?);
//! let hung = a.lock("x")?.with(Options::new().max_hold(Duration::from_secs(3600))).acquire().await?;
//! // An hour later, which takes no time at all, the second one has it.
//! let lease = b.lock("x")?.acquire().await?;
//! assert!(lease.fencing_token() > hung.fencing_token());
//! # Ok(()) }
//! ```
//!
//! # Faults
//! [`Memory::stop`], [`Memory::restart`], [`Memory::flush_all`], [`Memory::disconnect_all`], [`Memory::set_clock`] and
//! [`Memory::suspend`] do to all clients what happens to real servers. [`Memory::set_faults`] decides on each call, reply and push alone.
//!
//! # What is different from Redis
//! Nothing is kept on disk, and nothing is replicated. The position of a waiter is found in linear time. Only the commands
//! that the scripts use are there, and a script may touch no key that it was not given, as in a cluster.

mod commands;
mod connection;
mod scripts;
mod store;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use redis::Value;
use tokio::time::Instant;

pub(crate) use self::connection::ProcessServer;
use self::{commands::Database, connection::Peer, scripts::Interpreter, store::Store};
use crate::transport::lock;

/// A server in this process. Cheap to clone: the clones are the same server, which lives as long as one of them, or one
/// of its clients, does.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tenure::Error> {
/// let memory = tenure::Memory::new();
/// let client = memory.client().namespace("ml").connect().await?;
/// let lease = client.lock("nightly-migration")?.acquire().await?;
/// assert!(memory.client().namespace("ml").connect().await?.lock("nightly-migration")?.try_acquire().await?.is_none());
/// lease.release().await?;
/// assert!(memory.keys().is_empty());
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Memory {
    shared: Arc<Mutex<State>>,
    /// For how long its clients have been suspended, in microseconds. Beside the state: a lease may be looked at while the
    /// server stands still.
    suspended_us: Arc<AtomicU64>,
}

/// Message between a client and the twin.
///
/// ```
/// use tenure::memory::{Fault, Message};
///
/// let lose_grants = |_process: &str, message: Message<'_>| match message {
///     Message::Push { payload } if payload.starts_with("granted") => Fault::Drop,
///     _ => Fault::Deliver,
/// };
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Message<'a> {
    /// A client connects.
    Connect,
    /// A call of the script that has this name in `lua/`, before it runs. `time` is the command.
    Call {
        /// The script's name.
        script: &'a str,
    },
    /// Its reply: the script has run.
    Reply {
        /// The script's name.
        script: &'a str,
    },
    /// A message that was not asked for: a grant, a loss, an event for a controller.
    Push {
        /// Its text; the first line names its kind.
        payload: &'a str,
    },
}

/// Action on a [`Message`]: it is delivered, delayed, lost, cut off or refused.
///
/// ```
/// use std::time::Duration;
///
/// let slow = tenure::memory::Fault::Delay(Duration::from_millis(200));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It arrives.
    Deliver,
    /// It arrives this much later (to the millisecond), and so does what follows it in the same direction.
    Delay(Duration),
    /// It never arrives. A push is lost alone. A call or a reply is lost because the connection is dead without either
    /// side being notified: nothing passes any more until the client, after its response timeout, makes another one. A
    /// client that connects waits for as long.
    Drop,
    /// The connection is cut before it arrives, and both sides know.
    Cut,
    /// A call arrives and is answered with this error reply, as `MISCONF the disk is full`; its script does not run. Anything
    /// else arrives.
    Refuse(&'static str),
}

/// The data of a server, and its run id. Made by [`Memory::save`].
///
/// ```
/// let saved: tenure::memory::Saved = tenure::Memory::new().save();
/// ```
#[derive(Clone)]
pub struct Saved {
    store: Store,
    run_id: String,
}

impl fmt::Debug for Saved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Saved")
            .field("run_id", &self.run_id)
            .finish_non_exhaustive()
    }
}

type Faults = Box<dyn FnMut(&str, Message<'_>) -> Fault + Send>;

struct State {
    /// Made with the first connection.
    interpreter: Option<Interpreter>,
    database: Arc<Mutex<Database>>,
    run_id: String,
    running: bool,
    clock: Clock,
    peers: BTreeMap<u64, Peer>,
    connections: u64,
    calls: u64,
    faults: Option<Faults>,
    random: fastrand::Rng,
}

/// The server's wall clock: its reading at an instant, from which it continues.
struct Clock {
    said_us: u64,
    at: Instant,
    /// The newest answer. Each script takes a microsecond at least, also while tokio's clock is paused.
    last_us: u64,
}

impl Clock {
    fn set(to: SystemTime) -> Self {
        let since = to.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self {
            said_us: micros(since),
            at: Instant::now(),
            last_us: 0,
        }
    }

    fn read(&self) -> u64 {
        let now = self.said_us.saturating_add(micros(self.at.elapsed()));
        now.max(self.last_us)
    }

    fn tick(&mut self) -> u64 {
        self.last_us = self.read().max(self.last_us + 1);
        self.last_us
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

impl State {
    fn new_life(&mut self) {
        self.run_id = format!("{:032x}", self.random.u128(..));
        self.running = true;
    }

    fn cut_all(&mut self) {
        let all: Vec<u64> = self.peers.keys().copied().collect();
        for id in all {
            self.cut(id);
        }
    }

    fn flush(&mut self) {
        lock(&self.database).store = Store::default();
    }
}

impl Memory {
    /// An empty server, whose clock shows the present time, and whose random numbers have a random seed.
    ///
    /// ```
    /// let memory = tenure::Memory::new();
    /// assert!(memory.keys().is_empty());
    /// ```
    #[must_use]
    pub fn new() -> Self {
        Self::with(fastrand::Rng::new(), SystemTime::now())
    }

    /// An empty server that draws all random values (tokens, names of channels, resources in random order) from `seed`,
    /// and whose clock shows the beginning of 2025: with a paused clock, a single-threaded runtime and the same
    /// program, each run is the same.
    ///
    /// ```
    /// let memory = tenure::Memory::seeded(42);
    /// ```
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        const NEW_YEAR_2025: u64 = 1_735_689_600;
        Self::with(
            fastrand::Rng::with_seed(seed),
            SystemTime::UNIX_EPOCH + Duration::from_secs(NEW_YEAR_2025),
        )
    }

    fn with(mut random: fastrand::Rng, now: SystemTime) -> Self {
        let database = Database {
            store: Store::default(),
            now_us: 0,
            keys: HashSet::new(),
            listeners: HashMap::new(),
            published: Vec::new(),
            random: random.fork(),
            work: 0,
            most_work: 0,
        };
        let mut state = State {
            interpreter: None,
            database: Arc::new(Mutex::new(database)),
            run_id: String::new(),
            running: true,
            clock: Clock::set(now),
            peers: BTreeMap::new(),
            connections: 0,
            calls: 0,
            faults: None,
            random,
        };
        state.new_life();
        Self {
            shared: Arc::new(Mutex::new(state)),
            suspended_us: Arc::default(),
        }
    }

    /// The server's wall clock.
    ///
    /// ```
    /// let memory = tenure::Memory::new();
    /// println!("{:?}", memory.clock());
    /// ```
    #[must_use]
    pub fn clock(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_micros(lock(&self.shared).clock.read())
    }

    /// Sets the server's wall clock, ahead or back. It goes on from there, at the pace of tokio's clock.
    ///
    /// ```
    /// # use std::time::Duration;
    /// let memory = tenure::Memory::new();
    /// memory.set_clock(memory.clock() - Duration::from_secs(3600));
    /// ```
    pub fn set_clock(&self, to: SystemTime) {
        lock(&self.shared).clock = Clock::set(to);
    }

    /// Suspends the machine that all clients run on, and not the server, and wakes it up again: the server's clock goes on
    /// by that much, and tokio's clock, like that of a real machine, does not.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), tenure::Error> {
    /// # use std::time::Duration;
    /// let memory = tenure::Memory::new();
    /// let lease = memory.client().connect().await?.lock("x")?.acquire().await?;
    /// memory.suspend(Duration::from_secs(8 * 3600)); // the lid is closed overnight
    /// assert!(lease.check().is_err());
    /// # Ok(()) }
    /// ```
    pub fn suspend(&self, span: Duration) {
        let mut state = lock(&self.shared);
        state.clock.said_us = state.clock.said_us.saturating_add(micros(span));
        let add = |so_far: u64| Some(so_far.saturating_add(micros(span)));
        // It never refuses.
        let _ = self
            .suspended_us
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    pub(crate) fn suspended(&self) -> Duration {
        Duration::from_micros(self.suspended_us.load(Ordering::Relaxed))
    }

    /// Forgets all data, like `FLUSHALL`. Connections and run id stay.
    ///
    /// ```
    /// let memory = tenure::Memory::new();
    /// memory.flush_all();
    /// ```
    pub fn flush_all(&self) {
        lock(&self.shared).flush();
    }

    /// Stops the server: all connections are cut, and none can be made until [`Memory::restart`].
    ///
    /// ```
    /// let memory = tenure::Memory::new();
    /// memory.stop(); // an outage
    /// memory.restart(true);
    /// ```
    pub fn stop(&self) {
        let mut state = lock(&self.shared);
        state.running = false;
        state.cut_all();
    }

    /// Ends this life of the server, if it runs, and begins another: all connections are cut, and the run id is a new
    /// one. Without `keep_data`, all data is lost.
    ///
    /// ```
    /// let memory = tenure::Memory::new();
    /// memory.restart(false); // a crash without persistence
    /// ```
    pub fn restart(&self, keep_data: bool) {
        let mut state = lock(&self.shared);
        state.cut_all();
        if !keep_data {
            state.flush();
        }
        state.new_life();
    }

    /// The server as it is now, for [`Memory::restore`].
    ///
    /// ```
    /// let memory = tenure::Memory::new();
    /// let before = memory.save();
    /// ```
    #[must_use]
    pub fn save(&self) -> Saved {
        let state = lock(&self.shared);
        let store = lock(&state.database).store.clone();
        Saved {
            store,
            run_id: state.run_id.clone(),
        }
    }

    /// Becomes the server that it was, with its data and its run id; the clock goes on. All connections are cut. So it is for
    /// clients when a failover leads them to another server and, later, a failback to the first one, which has lived on.
    ///
    /// ```
    /// let memory = tenure::Memory::new();
    /// let first = memory.save();
    /// memory.restart(false); // the failover
    /// memory.restore(&first); // the failback
    /// ```
    pub fn restore(&self, saved: &Saved) {
        let mut state = lock(&self.shared);
        state.cut_all();
        lock(&state.database).store = saved.store.clone();
        state.run_id.clone_from(&saved.run_id);
        state.running = true;
    }

    /// Cuts all connections, like `CLIENT KILL`. Messages that the server has sent before still arrive.
    ///
    /// ```
    /// let memory = tenure::Memory::new();
    /// memory.disconnect_all();
    /// ```
    pub fn disconnect_all(&self) {
        lock(&self.shared).cut_all();
    }

    /// From now on, `decide` chooses the fate of each [`Message`]. Its first argument is the process name of the
    /// client's [`Identity`](crate::Identity). It is called while the server stands still: it must not call this
    /// `Memory`.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), tenure::Error> {
    /// use tenure::memory::{Fault, Memory, Message};
    ///
    /// let memory = Memory::new();
    /// // Every first reply is lost, after its script has run: the client asks again, and gets the same lease.
    /// let mut lost = false;
    /// memory.set_faults(move |_process, message| match message {
    ///     Message::Reply { .. } if !std::mem::replace(&mut lost, true) => Fault::Cut,
    ///     _ => Fault::Deliver,
    /// });
    /// let client = memory.client().connect().await?;
    /// client.lock("x")?.acquire().await?.release().await?;
    /// # Ok(()) }
    /// ```
    pub fn set_faults(&self, decide: impl FnMut(&str, Message<'_>) -> Fault + Send + 'static) {
        lock(&self.shared).faults = Some(Box::new(decide));
    }

    /// From now on everything arrives again. Connections that are dead stay so.
    ///
    /// ```
    /// let memory = tenure::Memory::new();
    /// memory.set_faults(|_, _| tenure::memory::Fault::Drop);
    /// memory.clear_faults();
    /// ```
    pub fn clear_faults(&self) {
        lock(&self.shared).faults = None;
    }

    /// The keys that there are, in order.
    ///
    /// ```
    /// let memory = tenure::Memory::new();
    /// assert_eq!(memory.keys().len(), 0);
    /// ```
    #[must_use]
    pub fn keys(&self) -> Vec<String> {
        let state = lock(&self.shared);
        let now_ms = state.clock.read() / 1000;
        let mut database = lock(&state.database);
        database.store.expire(now_ms);
        let read = |key: &Vec<u8>| String::from_utf8_lossy(key).into_owned();
        let mut keys: Vec<String> = database.store.keys().map(read).collect();
        keys.sort_unstable();
        keys
    }

    /// Runs a command on the data, as a person would with `redis-cli`: to see how a program reacts when a key is
    /// overwritten or removed. Replies that are lists are returned as such, everything else as one text, and nil as an
    /// empty list. Only the commands that the scripts use are supported.
    ///
    /// # Errors
    /// The error reply of the command.
    ///
    /// ```
    /// let memory = tenure::Memory::new();
    /// memory.command(&["SET", "tenure:{ml/lock/x}:obj", "not a lease"])?;
    /// assert!(memory.command(&["HKEYS", "tenure:{ml/lock/x}:obj"]).is_err());
    /// # Ok::<(), String>(())
    /// ```
    pub fn command(&self, command: &[&str]) -> Result<Vec<String>, String> {
        let state = lock(&self.shared);
        let mut database = lock(&state.database);
        database.now_us = state.clock.read();
        let now_ms = database.now_us / 1000;
        database.store.expire(now_ms);
        let mut words = command.iter().map(|word| word.as_bytes().to_vec());
        let name = words.next().unwrap_or_default();
        let args: Vec<_> = words.collect();
        database.keys = args.iter().cloned().collect();
        let reply = database.execute(&String::from_utf8_lossy(&name).to_uppercase(), &args)?;
        let text = |value: &Value| redis::from_redis_value_ref(value).unwrap_or_default();
        Ok(match &reply {
            Value::Nil => Vec::new(),
            Value::Okay => vec!["OK".to_owned()],
            Value::Array(values) => values.iter().map(text).collect(),
            one => vec![text(one)],
        })
    }

    /// The most work that one call of a script has been: its commands, and one more for every ten arguments or elements of a
    /// reply. No call works for long, however much there is to do at once.
    ///
    /// ```
    /// let memory = tenure::Memory::new();
    /// assert_eq!(memory.most_work(), 0);
    /// ```
    #[must_use]
    pub fn most_work(&self) -> u64 {
        let state = lock(&self.shared);
        let database = lock(&state.database);
        database.most_work
    }

    /// Returns the number of calls that the server has had from all clients.
    ///
    /// ```
    /// let memory = tenure::Memory::new();
    /// assert_eq!(memory.calls(), 0);
    /// ```
    #[must_use]
    pub fn calls(&self) -> u64 {
        lock(&self.shared).calls
    }

    /// For tokens and channels.
    pub(crate) fn draw(&self) -> u128 {
        lock(&self.shared).random.u128(..)
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = lock(&self.shared);
        f.debug_struct("Memory")
            .field("run_id", &state.run_id)
            .field("running", &state.running)
            .field("connections", &state.peers.len())
            .finish_non_exhaustive()
    }
}
