//! The controller's side: declare objects, look at them, take back what ended pods held. It never grants.

pub mod acl;
mod data_watch;
mod declaration;
mod epoch;
mod events;
mod listing;
mod observation;
mod plan;
mod snapshot;
mod tenants;

use std::{fmt, sync::Arc, time::Duration};

use futures_util::{StreamExt, future::ready, stream};
use tokio::time::Instant;

use crate::{
    Error, Kind, ObjectRef,
    lease::options,
    lease::session::Session,
    protocol::{
        calls::{Call, Ending, Inspect, Observe, Release, Released, Removal, Withdraw, Withdrawn},
        refusal,
    },
    transport::later,
};

pub use data_watch::{DataLoss, DataWatch};
use declaration::check_floor;
pub(crate) use declaration::check_resource;
pub use declaration::{Capacity, DIGEST_SCHEME, Declaration, Order, Resource};
pub use epoch::{Backing, Epoch, Epochs, Raised};
pub(crate) use events::Mailbox;
pub use events::{Event, Events};
pub use listing::{ServerFields, WaiterRequest};
pub use observation::{Life, Observation};
pub use plan::{Kept, Plan, plan};
pub use snapshot::{HolderView, Snapshot, WaiterView};
pub use tenants::{ServerTenants, TenantUser};

/// Declares, observes and reclaims. Made by [`Client::control`](crate::Client::control).
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
#[derive(Clone)]
pub struct Control {
    session: Arc<Session>,
    /// The receiver of [`Control::events`], if the client receives them.
    mailbox: Option<Arc<Mailbox>>,
}

const LONGEST_KEPT: Duration = Duration::from_secs(10 * 365 * 86_400);

/// The way in which a declared object is withdrawn.
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
    /// Everything stays as it is, for at most this long.
    Retain {
        /// The time for which the keys stay.
        keep: Duration,
    },
}

/// The state of the connection to Redis.
///
/// ```no_run
/// # fn run(client: tenure::Client) {
/// use tenure::control::Server;
///
/// match client.control().server() {
///     Server::Connected { version, .. } => println!("{version}"),
///     Server::Degraded { error, .. } => println!("some objects are not served: {error}"),
///     Server::Disconnected { error, transient: true } => println!("trying again: {error}"),
///     Server::Disconnected { error, .. } => println!("the URL or the server must be changed: {error}"),
/// }
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Server {
    /// It answers.
    Connected {
        /// Product and version.
        version: String,
    },
    /// Of a cluster, some masters answer and some do not: the objects on the others are served.
    Degraded {
        /// Product and version of one that answers.
        version: String,
        /// The problem of one that does not.
        error: String,
    },
    /// It does not, or not to us.
    Disconnected {
        /// Why.
        error: String,
        /// Returns whether waiting may help; otherwise a setting must be changed.
        transient: bool,
    },
}

/// Holders, and waiters, that one command lists, so that none keeps the server for much over a millisecond.
const PAGE: usize = 200;
/// Objects whose events are subscribed to at the same time.
const LISTENED_AT_ONCE: usize = 64;
/// Tokens that one command ends, so that none keeps the server for much over a millisecond.
const PIECE: usize = 100;

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control").finish_non_exhaustive()
    }
}

impl Control {
    pub(crate) fn new(session: Arc<Session>) -> Self {
        Self {
            session,
            mailbox: None,
        }
    }

    pub(crate) fn with_mailbox(session: Arc<Session>, mailbox: Option<Arc<Mailbox>>) -> Self {
        Self { session, mailbox }
    }

    /// Returns the state of Redis now: of a cluster, whether all, some or none of its masters answer.
    ///
    /// ```no_run
    /// # fn run(control: tenure::Control) {
    /// println!("{:?}", control.server());
    /// # }
    /// ```
    #[must_use]
    pub fn server(&self) -> Server {
        let link = &self.session.link;
        match (link.health(), link.reachable()) {
            (Err(error), Ok(version)) => Server::Degraded {
                version: version.to_string(),
                error: error.bare(),
            },
            (health, _) => server(health),
        }
    }

    /// Returns the state of the server that has an object: in a cluster, one of several, of which another may be
    /// unreachable.
    ///
    /// ```no_run
    /// # fn run(control: tenure::Control, object: tenure::ObjectRef) {
    /// println!("{:?}", control.server_of(&object));
    /// # }
    /// ```
    #[must_use]
    pub fn server_of(&self, object: &ObjectRef) -> Server {
        server(self.session.link.health_of(&self.session.keys(object)))
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
        let other = || Some(self.server()).filter(|server| server != known);
        self.session.link.until(other).await
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
        let mailbox = self.mailbox.as_ref().ok_or_else(|| {
            Error::invalid(
                "with_events",
                "was not called",
                "build the client with ClientBuilder::with_events",
            )
        })?;
        Ok(mailbox.subscribe())
    }

    /// Listens to the events of these objects. In a cluster a client receives the events of an object from when it has watched it
    /// first, by [`Control::observe`] or [`Control::inspect`], until it connects again; this does the same without a look at the
    /// object, so that [`Event::Missing`] comes, too. With a single server all events come, and it does nothing.
    ///
    /// # Errors
    /// As [`Control::events`]; [`Error::Unreachable`] and [`Error::Refused`] of one of the objects, when the others have been
    /// tried.
    ///
    /// # Cancel safety
    /// Dropping the future leaves open for which objects it is done; it may be repeated.
    ///
    /// ```no_run
    /// # async fn run(client: tenure::Client, seats: tenure::ObjectRef) -> Result<(), tenure::Error> {
    /// let control = client.control();
    /// control.listen(&[seats]).await?;
    /// # Ok(()) }
    /// ```
    pub async fn listen(&self, objects: &[ObjectRef]) -> Result<(), Error> {
        self.events()?;
        let keys: Vec<_> = objects.iter().map(|object| self.session.keys(object)).collect();
        let listened =
            stream::iter(keys).map(|keys| async move { self.session.link.listen(&keys, self.soon()).await });
        listened
            .buffer_unordered(LISTENED_AT_ONCE)
            .fold(Ok(()), |all, one| ready(all.and(one)))
            .await
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
        self.session.link.time(self.soon()).await
    }

    /// Makes or changes an object. Returns `true` if it recovers from a loss of data, and grants nothing new for
    /// [`Declaration::recovery`]. One command.
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
        self.send_declaration(object, declaration, None).await
    }

    /// As [`Control::declare`], if the server's data still is that which the declaration was planned for.
    ///
    /// # Errors
    /// [`Error::OtherLife`] when the server was restarted, or has lost data, since the object was observed: plan again. Else as
    /// [`Control::declare`].
    ///
    /// # Cancel safety
    /// As [`Control::declare`].
    ///
    /// ```no_run
    /// # use tenure::{Control, Error, ObjectRef, control::Declaration};
    /// # async fn run(control: Control, callers: ObjectRef, three: Declaration) -> Result<(), Error> {
    /// let seen = control.inspect(&callers, 0, 0).await?;
    /// control.declare_in(&seen.life, &callers, &three).await?;
    /// # Ok(()) }
    /// ```
    pub async fn declare_in(
        &self,
        life: &Life,
        object: &ObjectRef,
        declaration: &Declaration,
    ) -> Result<bool, Error> {
        self.send_declaration(object, declaration, Some(life)).await
    }

    async fn send_declaration(
        &self,
        object: &ObjectRef,
        declaration: &Declaration,
        life: Option<&Life>,
    ) -> Result<bool, Error> {
        self.call(&declaration.call(object.kind(), life)?, object).await
    }

    /// Returns the state of an object, with at most `head` holders and waiters; `None` when there is no such object.
    /// One command for each 200 that are listed: entries that change in between may be missing, or listed twice.
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
        self.read(object, head, false).await
    }

    /// As [`Control::look`], and its next change sends an [`Event::Changed`].
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::Refused`].
    ///
    /// # Cancel safety
    /// After dropping the future, the next change may or may not be published.
    ///
    /// ```no_run
    /// # async fn run(control: tenure::Control, object: tenure::ObjectRef) -> Result<(), tenure::Error> {
    /// let snapshot = control.observe(&object, 100).await?;
    /// # Ok(()) }
    /// ```
    pub async fn observe(&self, object: &ObjectRef, head: usize) -> Result<Option<Snapshot>, Error> {
        self.read(object, head, true).await
    }

    /// As [`Control::observe`], with what has to be known before the object is declared. `floor` is the floor of its fencing
    /// tokens that is kept outside of Redis, or 0: where Redis' data is older than that, nothing new is granted from here on.
    /// At most 200 holders and waiters are listed. One command.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] when `floor` is larger than any floor may be; [`Error::Unreachable`], [`Error::Refused`].
    ///
    /// # Cancel safety
    /// As [`Control::observe`].
    ///
    /// ```no_run
    /// # async fn run(control: tenure::Control, object: tenure::ObjectRef) -> Result<(), tenure::Error> {
    /// let seen = control.inspect(&object, 100, 1_795_257_448_000_000).await?;
    /// # Ok(()) }
    /// ```
    pub async fn inspect(&self, object: &ObjectRef, head: usize, floor: u64) -> Result<Observation, Error> {
        check_floor(floor)?;
        let inspect = Inspect {
            count: head.min(PAGE),
            floor,
        };
        Ok(Observation::of(self.call(&inspect, object).await?))
    }

    async fn read(&self, object: &ObjectRef, head: usize, watch: bool) -> Result<Option<Snapshot>, Error> {
        let Some(mut snapshot) = self.page(object, 0, head.min(PAGE), watch).await? else {
            return Ok(None);
        };
        let mut listed = PAGE;
        let mut full = snapshot.holders.len() >= PAGE || snapshot.waiters.len() >= PAGE;
        while full && listed < head {
            let count = PAGE.min(head - listed);
            let Some(more) = self.page(object, listed, count, false).await? else {
                break;
            };
            full = more.holders.len() >= PAGE || more.waiters.len() >= PAGE;
            listed += count;
            snapshot.holders.extend(more.holders);
            snapshot.waiters.extend(more.waiters);
        }
        Ok(Some(snapshot))
    }

    async fn page(
        &self,
        object: &ObjectRef,
        skip: usize,
        count: usize,
        watch: bool,
    ) -> Result<Option<Snapshot>, Error> {
        let observe = Observe { count, watch, skip };
        Ok(self.call(&observe, object).await?.map(Snapshot::of))
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
        let how = match how {
            Withdrawal::Drain => Removal::Drain,
            Withdrawal::Delete => Removal::Delete,
            Withdrawal::Retain { keep } if keep > LONGEST_KEPT => {
                return Err(Error::invalid(
                    "keep",
                    format!("is {keep:?}"),
                    "use at most ten years",
                ));
            }
            Withdrawal::Retain { keep } => Removal::Retain {
                keep_ms: keep.as_millis(),
            },
        };
        let withdraw = Withdraw { how };
        loop {
            let Withdrawn { held, left } = self.call(&withdraw, object).await?;
            if left == 0 {
                return Ok(held);
            }
        }
    }

    /// Ends leases and queue entries of other clients, and notifies their clients of the cause, of at most 256 bytes.
    /// Returns how many there were.
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
        options::check_text("cause", cause)?;
        let mut ended = 0;
        for piece in tokens.chunks(PIECE) {
            let release = Release {
                how: Ending::Reclaimed(cause),
                // The call has them in one argument; no request has a token with a space.
                tokens: piece
                    .iter()
                    .map(String::as_str)
                    .filter(|token| !token.contains(char::is_whitespace))
                    .collect(),
            };
            let outcomes = self.call(&release, object).await?;
            ended += outcomes.iter().filter(|one| **one != Released::Neither).count();
        }
        Ok(ended)
    }

    async fn call<C: Call>(&self, call: &C, object: &ObjectRef) -> Result<C::Reply, Error> {
        if object.kind() == Kind::Register {
            return Err(Error::invalid(
                "object",
                format!("{object} is a register, which is neither declared nor held"),
                "use Client::register",
            ));
        }
        let keys = self.session.keys(object);
        match self.session.link.call(call, &keys, self.soon()).await {
            Ok(reply) => Ok(reply.value),
            Err(failed) => Err(refusal::named(failed.error, object, 0)),
        }
    }

    fn soon(&self) -> Instant {
        later(self.session.link.response_timeout())
    }
}

fn server(health: Result<Arc<str>, Error>) -> Server {
    match health {
        Ok(version) => Server::Connected {
            version: version.to_string(),
        },
        Err(error) => Server::Disconnected {
            transient: error.is_unreachable(),
            error: error.bare(),
        },
    }
}
