//! The controller's side: declare objects, look at them, take back what ended pods held. It never grants.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use redis::Value;
use tokio::{sync::broadcast, time::Instant};

use crate::{
    Client, Error, Identity, Kind, ObjectRef,
    identity::Holder,
    wire::{
        ledger::Ledger,
        link::{Receiver, State},
        message::texts,
        script::{self, Script},
    },
};

/// Declares, observes and reclaims. Made by [`Client::control`].
///
/// All of it may be repeated, and all of it fails with [`Error::Unreachable`] when Redis does not answer in time; nothing
/// is retried longer than that, for a controller reconciles anyway.
///
/// ```no_run
/// # async fn run(client: tenure::Client) -> Result<(), tenure::Error> {
/// let seats = tenure::ObjectRef::new(tenure::Kind::Pool, "ml", "gpu-seats")?;
/// if let Some(snapshot) = client.control().look(&seats, 10).await? {
///     for holder in snapshot.holders {
///         println!("{:?} held by {}", holder.resources, holder.holder.process);
///     }
/// }
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Control {
    client: Client,
}

/// What a custom resource declares.
///
/// ```
/// use std::time::Duration;
/// use tenure::control::{Capacity, Declaration};
///
/// let three = Declaration {
///     digest: "generation 1".into(),
///     floor: 1_795_257_448_000_000,
///     recovery: None,
///     lease: Duration::from_secs(30),
///     max_hold: None,
///     capacity: Capacity::Permits(3),
/// };
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declaration {
    /// Stands for all of the rest; a snapshot tells it, so that an unchanged declaration need not be repeated.
    pub digest: String,
    /// Every fencing token from now on is larger. Kept outside of Redis, and raised before a declaration that follows a
    /// loss of data.
    pub floor: u64,
    /// For how long nothing new is granted if this life of the server does not know the object: the longest lease that may
    /// be running from before, `lease` at least. `None`: it has never been declared before, so that nothing is running.
    pub recovery: Option<Duration>,
    /// How long a lease runs, at most.
    pub lease: Duration,
    /// For how long a lease may be renewed.
    pub max_hold: Option<Duration>,
    /// What there is to hold.
    pub capacity: Capacity,
}

/// What there is to hold.
///
/// ```
/// use tenure::control::{Capacity, Order, Resource};
///
/// let seats = Capacity::Resources {
///     order: Order::LeastRecentlyUsed,
///     resources: vec![Resource::new("seat-a"), Resource::new("seat-b")],
/// };
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Capacity {
    /// A semaphore's permits.
    Permits(u64),
    /// A pool's resources, by name.
    Resources {
        /// Which one is granted next.
        order: Order,
        /// The resources.
        resources: Vec<Resource>,
    },
    /// A pool's resources `prefix0` to `prefix(count - 1)`.
    Generated {
        /// Which one is granted next.
        order: Order,
        /// What the names begin with.
        prefix: String,
        /// How many there are.
        count: u64,
    },
}

/// Which free resource is granted next.
///
/// ```
/// use tenure::control::{Capacity, Order};
///
/// let prefix = "seat-".into();
/// let million = Capacity::Generated { order: Order::MostRecentlyUsed, prefix, count: 1_000_000 };
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The one that has been free for longest: wear is spread.
    LeastRecentlyUsed,
    /// The one that was given back last: caches stay warm, and the rest may be put away.
    MostRecentlyUsed,
    /// Any.
    Random,
}

impl Order {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::LeastRecentlyUsed => "LeastRecentlyUsed",
            Self::MostRecentlyUsed => "MostRecentlyUsed",
            Self::Random => "Random",
        }
    }
}

/// A declared resource of a pool.
///
/// ```
/// use tenure::control::Resource;
///
/// let seat = Resource { disabled: true, ..Resource::new("seat-b") };
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// Its name.
    pub name: String,
    /// What its holder is told about it.
    pub properties: BTreeMap<String, String>,
    /// Not granted: whoever holds it keeps it, nobody gets it next.
    pub disabled: bool,
}

/// An object as Redis has it.
///
/// ```no_run
/// # fn run(snapshot: &tenure::control::Snapshot) {
/// println!("{} of {} held, {} wait", snapshot.held, snapshot.limit, snapshot.waiting);
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// When this was so, by the server's clock.
    pub now: SystemTime,
    /// The digest of the declaration; none: its first user made it.
    pub digest: Option<String>,
    /// Whether it was declared under this very life of the server that answers. If not, that server may have lost the
    /// object's newest leases, and it grants nothing new before it is declared again. In a cluster each object has its own
    /// server, so that only the script can tell.
    pub current: bool,
    /// Permits, or resources in service.
    pub limit: u64,
    /// Permits or resources held.
    pub held: u64,
    /// Permits or resources that could be granted.
    pub free: u64,
    /// Requests in the queue.
    pub waiting: u64,
    /// The newest fencing token.
    pub last_fence: u64,
    /// Until then nothing new is granted.
    pub recovering_until: Option<SystemTime>,
    /// Being withdrawn: gone when nothing is held any more.
    pub withdrawing: bool,
    /// When a lease or a place runs out next, or the recovery ends.
    pub next_change: Option<SystemTime>,
    /// The oldest leases first, as many as were asked for.
    pub holders: Vec<HolderView>,
    /// The head of the queue first, as many as were asked for.
    pub waiters: Vec<WaiterView>,
}

impl Snapshot {
    /// What is held beyond what is in service: it drains.
    ///
    /// ```no_run
    /// # fn run(snapshot: &tenure::control::Snapshot) {
    /// println!("{} are kept by their holders alone", snapshot.draining());
    /// # }
    /// ```
    #[must_use]
    pub fn draining(&self) -> u64 {
        (self.held + self.free).saturating_sub(self.limit)
    }
}

/// A lease, as others see it.
///
/// ```no_run
/// # fn run(snapshot: &tenure::control::Snapshot) {
/// for view in &snapshot.holders {
///     println!("{:?} by {} until {:?}", view.resources, view.holder.process, view.expires);
/// }
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HolderView {
    /// Names the lease, for [`Control::reclaim`].
    pub token: String,
    /// The fencing token.
    pub fence: u64,
    /// How many permits it has.
    pub permits: u64,
    /// Which resources it has.
    pub resources: Vec<String>,
    /// When it was granted.
    pub since: SystemTime,
    /// When it runs out unless renewed.
    pub expires: SystemTime,
    /// Who holds it.
    pub holder: Identity,
    /// What for.
    pub reason: String,
}

/// A place in the queue, as others see it.
///
/// ```no_run
/// # fn run(snapshot: &tenure::control::Snapshot) {
/// for (place, view) in snapshot.waiters.iter().enumerate() {
///     println!("{}. {} since {:?}", place + 1, view.holder.process, view.since);
/// }
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaiterView {
    /// Names the place, for [`Control::reclaim`].
    pub token: String,
    /// How many permits or resources it asks for.
    pub permits: u64,
    /// When it asked.
    pub since: SystemTime,
    /// Who waits.
    pub holder: Identity,
    /// What for.
    pub reason: String,
}

/// How to take a declared object away.
///
/// ```
/// use std::time::Duration;
///
/// let day = tenure::control::Withdrawal::Retain { keep: Duration::from_secs(86_400) };
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Withdrawal {
    /// Waiters are sent away, holders keep what they have, and the keys go with the last of them.
    Drain,
    /// Waiters are sent away, leases are lost, the keys go.
    Delete,
    /// Everything goes on as it is, for at most this long.
    Retain {
        /// How long the keys stay.
        keep: Duration,
    },
}

/// How Redis is.
///
/// ```no_run
/// # fn run(client: tenure::Client) {
/// use tenure::control::Server;
///
/// match client.control().server() {
///     Server::Connected { version, .. } => println!("{version}"),
///     Server::Disconnected { error, transient: true } => println!("trying on: {error}"),
///     Server::Disconnected { error, .. } => println!("somebody has to mend it: {error}"),
/// }
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Server {
    /// It answers.
    Connected {
        /// Names this life of the server process.
        run_id: String,
        /// Product and version.
        version: String,
    },
    /// It does not, or not to us.
    Disconnected {
        /// Why.
        error: String,
        /// Whether waiting may help; otherwise somebody has to change something.
        transient: bool,
    },
}

/// Something a controller should look at.
///
/// ```no_run
/// # fn run(event: tenure::control::Event) {
/// use tenure::control::Event;
///
/// match event {
///     Event::Changed(object) | Event::Missing(object) => println!("look at {object}"),
///     Event::Reconnected => println!("look at everything"),
/// }
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A watched object has changed. It is told once; observing it asks for the next.
    Changed(ObjectRef),
    /// Somebody wants an object that is not there.
    Missing(ObjectRef),
    /// There is a new connection, or events were lost: anything may have changed.
    Reconnected,
}

/// The stream of events. Made by [`Control::events`].
///
/// ```no_run
/// # async fn run(client: tenure::Client) -> Result<(), tenure::Error> {
/// let mut events = client.control().events()?;
/// while let Some(event) = events.next().await {
///     println!("{event:?}");
/// }
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Events {
    events: broadcast::Receiver<Event>,
}

impl Events {
    /// The next event; `None` when the client is closed.
    ///
    /// # Cancel safety
    /// Cancel safe: no event is lost.
    ///
    /// ```no_run
    /// # async fn run(mut events: tenure::control::Events) {
    /// let event = events.next().await;
    /// # }
    /// ```
    pub async fn next(&mut self) -> Option<Event> {
        match self.events.recv().await {
            Ok(event) => Some(event),
            Err(broadcast::error::RecvError::Lagged(_)) => Some(Event::Reconnected),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

/// Passes pushes on to the ledger, and events to whoever listens.
pub(crate) struct Mailbox {
    channel: String,
    ledger: Arc<Ledger>,
    events: broadcast::Sender<Event>,
}

impl Mailbox {
    pub(crate) fn new(channel: String, ledger: Arc<Ledger>) -> Self {
        Self {
            channel,
            ledger,
            events: broadcast::channel(4096).0,
        }
    }
}

impl Receiver for Mailbox {
    fn message(&self, channel: &str, payload: &str) {
        if channel != self.channel {
            return self.ledger.message(channel, payload);
        }
        let event = match payload.split_once('\n') {
            Some(("changed", object)) => ObjectRef::parse(object).map(Event::Changed),
            Some(("missing", object)) => ObjectRef::parse(object).map(Event::Missing),
            _ => None,
        };
        if let Some(event) = event {
            // An error means that nobody listens now.
            let _ = self.events.send(event);
        }
    }

    fn connected(&self) {
        self.ledger.connected();
        let _ = self.events.send(Event::Reconnected);
    }
}

impl Control {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    /// How Redis is now.
    ///
    /// ```no_run
    /// # fn run(control: tenure::Control) {
    /// println!("{:?}", control.server());
    /// # }
    /// ```
    #[must_use]
    pub fn server(&self) -> Server {
        server(&self.client.inner.link.state().borrow())
    }

    /// Waits until [`Control::server`] differs from `known`, and returns it.
    ///
    /// # Cancel safety
    /// Cancel safe: it only watches.
    ///
    /// ```no_run
    /// # async fn run(control: tenure::Control) {
    /// let mut known = control.server();
    /// loop {
    ///     println!("{known:?}");
    ///     known = control.server_changed(&known).await;
    /// }
    /// # }
    /// ```
    pub async fn server_changed(&self, known: &Server) -> Server {
        let mut state = self.client.inner.link.state();
        let changed = state.wait_for(|state| server(state) != *known).await;
        // Owned, so that nothing is borrowed while it waits for ever.
        let changed = changed.map(|state| server(&state)).ok();
        match changed {
            Some(server) => server,
            // The client is closed: nothing will change any more.
            None => std::future::pending().await,
        }
    }

    /// Events from now on.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] when the client was built without [`ClientBuilder::with_events`](crate::ClientBuilder::with_events).
    ///
    /// ```no_run
    /// # async fn run() -> Result<(), tenure::Error> {
    /// let client = tenure::Client::builder("redis://127.0.0.1").with_events().connect().await?;
    /// let events = client.control().events()?;
    /// # Ok(()) }
    /// ```
    pub fn events(&self) -> Result<Events, Error> {
        let mailbox = self.client.events().ok_or_else(|| {
            Error::invalid(
                "with_events",
                "was not called",
                "build the client with ClientBuilder::with_events",
            )
        })?;
        Ok(Events {
            events: mailbox.events.subscribe(),
        })
    }

    /// The server's time, in microseconds since 1970: the first floor of an object's fencing tokens.
    ///
    /// # Errors
    /// [`Error::Unreachable`].
    ///
    /// # Cancel safety
    /// Cancel safe: it only looks.
    ///
    /// ```no_run
    /// # async fn run(control: tenure::Control) -> Result<(), tenure::Error> {
    /// let floor = control.now_micros().await?;
    /// # Ok(()) }
    /// ```
    pub async fn now_micros(&self) -> Result<u64, Error> {
        self.client.inner.link.time(self.soon()).await
    }

    /// Makes or changes an object. True: it recovers from a loss of data, and grants nothing new for as long as
    /// [`Declaration::recovery`] says. One command.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::Refused`].
    ///
    /// # Cancel safety
    /// Dropping the future leaves open whether it is done; it may be repeated.
    ///
    /// ```no_run
    /// # use tenure::{Control, Error, ObjectRef, control::Declaration};
    /// # async fn run(control: Control, callers: ObjectRef, three: Declaration) -> Result<(), Error> {
    /// if control.declare(&callers, &three).await? {
    ///     println!("{callers} recovers");
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn declare(&self, object: &ObjectRef, declaration: &Declaration) -> Result<bool, Error> {
        let args = declaration.args()?;
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let reply = self.call(&script::DECLARE, object, &args).await?;
        Ok(reply == Value::Int(1))
    }

    /// What an object is, with at most `head` holders and waiters; `None` when there is no such object. One command.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::Refused`].
    ///
    /// # Cancel safety
    /// Cancel safe: it only looks.
    ///
    /// ```no_run
    /// # async fn run(control: tenure::Control, object: tenure::ObjectRef) -> Result<(), tenure::Error> {
    /// if let Some(snapshot) = control.look(&object, 100).await? {
    ///     println!("{} wait", snapshot.waiting);
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn look(&self, object: &ObjectRef, head: usize) -> Result<Option<Snapshot>, Error> {
        self.read(object, head, "0").await
    }

    /// As [`Control::look`], and its next change sends an [`Event::Changed`].
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::Refused`].
    ///
    /// # Cancel safety
    /// Dropping the future leaves open whether the next change is told.
    ///
    /// ```no_run
    /// # async fn run(control: tenure::Control, object: tenure::ObjectRef) -> Result<(), tenure::Error> {
    /// let snapshot = control.observe(&object, 100).await?;
    /// # Ok(()) }
    /// ```
    pub async fn observe(&self, object: &ObjectRef, head: usize) -> Result<Option<Snapshot>, Error> {
        self.read(object, head, "1").await
    }

    async fn read(&self, object: &ObjectRef, head: usize, watch: &str) -> Result<Option<Snapshot>, Error> {
        match self
            .call(&script::OBSERVE, object, &[&head.to_string(), watch])
            .await?
        {
            Value::Nil => Ok(None),
            reply => snapshot(&reply).map(Some).ok_or_else(|| Error::protocol(&reply)),
        }
    }

    /// Takes a declared object away. Returns how much of it is still held: 0 when the keys are gone, or stay on purpose.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::Refused`].
    ///
    /// # Cancel safety
    /// Dropping the future leaves open whether it is done; it may be repeated.
    ///
    /// ```no_run
    /// # async fn run(control: tenure::Control, object: tenure::ObjectRef) -> Result<(), tenure::Error> {
    /// use tenure::control::Withdrawal;
    ///
    /// let left = control.withdraw(&object, Withdrawal::Drain).await?;
    /// # Ok(()) }
    /// ```
    pub async fn withdraw(&self, object: &ObjectRef, how: Withdrawal) -> Result<u64, Error> {
        let (how, keep) = match how {
            Withdrawal::Drain => ("drain", Duration::ZERO),
            Withdrawal::Delete => ("delete", Duration::ZERO),
            Withdrawal::Retain { keep } => ("retain", keep),
        };
        match self
            .call(&script::WITHDRAW, object, &[how, &keep.as_millis().to_string()])
            .await?
        {
            Value::Nil => Ok(0),
            reply => number(&reply).ok_or_else(|| Error::protocol(&reply)),
        }
    }

    /// Ends leases and places that are not ours, and tells their clients the cause. Returns how many there were.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::Refused`].
    ///
    /// # Cancel safety
    /// Dropping the future leaves open whether it is done; it may be repeated.
    ///
    /// ```no_run
    /// # use tenure::{Control, Error, ObjectRef};
    /// # async fn run(control: Control, object: ObjectRef, tokens: Vec<String>) -> Result<(), Error> {
    /// let ended = control.reclaim(&object, &tokens, "its pod has ended").await?;
    /// # Ok(()) }
    /// ```
    pub async fn reclaim(&self, object: &ObjectRef, tokens: &[String], cause: &str) -> Result<usize, Error> {
        let cause = cause.replace('\n', " ");
        let mut args = vec![cause.as_str()];
        args.extend(tokens.iter().map(String::as_str));
        let reply = self.call(&script::RELEASE, object, &args).await?;
        Ok(texts(&reply)?.iter().filter(|state| *state != "gone").count())
    }

    async fn call(&self, script: &'static Script, object: &ObjectRef, args: &[&str]) -> Result<Value, Error> {
        if object.kind() == Kind::Register {
            return Err(Error::invalid(
                "object",
                format!("{object} is a register, which nobody declares or holds"),
                "use Client::register",
            ));
        }
        let keys = self.client.keys(object);
        Ok(self
            .client
            .inner
            .link
            .call(script, &keys, args, self.soon())
            .await?
            .value)
    }

    fn soon(&self) -> Instant {
        Instant::now() + self.client.inner.link.response_timeout()
    }
}

fn server(state: &State) -> Server {
    match state {
        State::Up(session) => Server::Connected {
            run_id: session.run_id.to_string(),
            version: session.version.to_string(),
        },
        State::Down { error } => Server::Disconnected {
            error: error.to_string(),
            transient: error.is_unreachable(),
        },
    }
}

impl Declaration {
    fn args(&self) -> Result<Vec<String>, Error> {
        let millis = |d: Duration| d.as_millis().to_string();
        let limit = match &self.capacity {
            Capacity::Permits(permits) => *permits,
            Capacity::Resources { resources, .. } => resources.iter().filter(|r| !r.disabled).count() as u64,
            Capacity::Generated { count, .. } => *count,
        };
        let mut args = vec![
            self.digest.clone(),
            self.floor.to_string(),
            millis(
                self.recovery
                    .map_or(Duration::ZERO, |longest| longest.max(self.lease)),
            ),
            millis(self.lease),
            millis(self.max_hold.unwrap_or_default()),
            limit.to_string(),
        ];
        match &self.capacity {
            Capacity::Permits(_) => {}
            Capacity::Generated { order, prefix, count } => {
                args.extend([order.as_str().to_owned(), prefix.clone(), count.to_string()]);
            }
            Capacity::Resources { order, resources } => {
                args.extend([order.as_str().to_owned(), String::new(), "0".to_owned()]);
                for resource in resources {
                    args.extend([resource.name.clone(), resource.entry()?]);
                }
            }
        }
        Ok(args)
    }
}

impl Resource {
    /// A resource in service, without properties.
    ///
    /// ```
    /// let seat = tenure::control::Resource::new("seat-a").property("host", "gpu-1");
    /// assert_eq!(seat.properties["host"], "gpu-1");
    /// ```
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            properties: BTreeMap::new(),
            disabled: false,
        }
    }

    /// The same resource with one more property.
    ///
    /// ```
    /// let seat = tenure::control::Resource::new("seat-a").property("host", "gpu-1").property("zone", "b");
    /// assert_eq!(seat.properties.len(), 2);
    /// ```
    #[must_use]
    pub fn property(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.properties.insert(key.into(), value.into());
        self
    }

    pub(crate) fn entry(&self) -> Result<String, Error> {
        check_resource(&self.name)?;
        let properties = if self.properties.is_empty() {
            String::new()
        } else {
            serde_json::to_string(&self.properties).map_err(|error| {
                Error::invalid("resources.properties", error.to_string(), "use plain text")
            })?
        };
        Ok(format!("{}{properties}", u8::from(!self.disabled)))
    }
}

/// Names of resources are joined by commas, and stand in words.
pub(crate) fn check_resource(name: &str) -> Result<(), Error> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if !name.is_empty() && name.chars().all(allowed) {
        return Ok(());
    }
    Err(Error::invalid(
        "resources.name",
        format!("{name:?} cannot name a resource"),
        "use ASCII letters, digits and - _ .",
    ))
}

fn time(ms: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(ms)
}

fn text(value: &Value) -> Option<String> {
    redis::from_redis_value_ref(value).ok()
}

fn number(value: &Value) -> Option<u64> {
    redis::from_redis_value_ref(value).ok()
}

fn snapshot(reply: &Value) -> Option<Snapshot> {
    let Value::Array(fields) = reply else { return None };
    let [
        now,
        digest,
        current,
        limit,
        held,
        free,
        waiting,
        last,
        recover,
        draining,
        wake,
        holders,
        waiters,
    ] = &fields[..]
    else {
        return None;
    };
    let now_ms = number(now)?;
    let (recover, wake) = (number(recover)?, number(wake)?);
    let (Value::Array(holders), Value::Array(waiters)) = (holders, waiters) else {
        return None;
    };
    Some(Snapshot {
        now: time(now_ms),
        digest: Some(text(digest)?).filter(|digest| !digest.is_empty()),
        current: number(current)? == 1,
        limit: number(limit)?,
        held: number(held)?,
        free: number(free)?,
        waiting: number(waiting)?,
        last_fence: number(last)?,
        recovering_until: (recover > now_ms).then(|| time(recover)),
        withdrawing: number(draining)? == 1,
        next_change: (wake > 0).then(|| time(now_ms + wake)),
        holders: holders.iter().map(holder_view).collect::<Option<_>>()?,
        waiters: waiters.iter().map(waiter_view).collect::<Option<_>>()?,
    })
}

fn holder_view(value: &Value) -> Option<HolderView> {
    let Value::Array(fields) = value else { return None };
    let [token, fence, expires, entry] = &fields[..] else {
        return None;
    };
    let entry = Entry::read(&text(entry)?)?;
    Some(HolderView {
        token: text(token)?,
        fence: number(fence)?,
        permits: entry.permits,
        resources: entry.resources,
        since: time(entry.since),
        expires: time(number(expires)?),
        holder: entry.holder.identity,
        reason: entry.holder.reason,
    })
}

fn waiter_view(value: &Value) -> Option<WaiterView> {
    let Value::Array(fields) = value else { return None };
    let [token, entry] = &fields[..] else { return None };
    let entry = Entry::read(&text(entry)?)?;
    Some(WaiterView {
        token: text(token)?,
        permits: entry.permits,
        since: time(entry.since),
        holder: entry.holder.identity,
        reason: entry.holder.reason,
    })
}

/// What stands under a token: see the head of `lua/core.lua`.
struct Entry {
    permits: u64,
    since: u64,
    resources: Vec<String>,
    holder: Holder,
}

impl Entry {
    fn read(entry: &str) -> Option<Self> {
        let mut parts = entry.splitn(9, ' ');
        let permits = parts.next()?.parse().ok()?;
        let since = parts.nth(4)?.parse().ok()?;
        let names = parts.nth(1)?;
        let resources = if names == "-" || names.starts_with('@') {
            Vec::new()
        } else {
            names.split(',').map(str::to_owned).collect()
        };
        // Another language's client may say about itself what it likes.
        let holder = parts
            .next()
            .and_then(|json| serde_json::from_str(json).ok())
            .unwrap_or_default();
        Some(Self {
            permits,
            since,
            resources,
            holder,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_reads_with_spaces_in_the_holder_and_without_a_known_holder() {
        let entry = Entry::read(
            r#"2 30000 10000 0 0 17 chan a,b {"process":"h/1","namespace":"x","reason":"two words"}"#,
        );
        let entry = entry.unwrap();
        assert_eq!(
            (entry.permits, entry.since, entry.resources),
            (2, 17, vec!["a".to_owned(), "b".to_owned()])
        );
        assert_eq!(
            (
                entry.holder.reason.as_str(),
                entry.holder.identity.process.as_str()
            ),
            ("two words", "h/1")
        );
        let strange = Entry::read("1 30000 10000 0 0 17 chan - whoever").unwrap();
        assert_eq!((strange.resources, strange.holder), (vec![], Holder::default()));
    }

    #[test]
    fn a_resource_that_could_break_the_lists_is_refused() {
        for name in ["", "a,b", "a b", "a\n"] {
            let resource = Resource {
                name: name.into(),
                properties: BTreeMap::new(),
                disabled: false,
            };
            assert!(
                resource
                    .entry()
                    .unwrap_err()
                    .to_string()
                    .starts_with("resources.name"),
                "{name:?}"
            );
        }
    }
}
