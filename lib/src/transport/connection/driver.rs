//! Makes the connection to one server, keeps it, and makes it again.
//!
//! The keeper is a task of its own. It connects, checks the server, subscribes to the client's channels, and shows the
//! session to callers; when the session breaks it starts over, with a growing delay.
//!
//! A connection may die without a notice: a load balancer drops it, a host is frozen. So the driver asks a server for
//! its time after a silence of about the time that an answer may take, and gives the connection up when it does not
//! answer. A connection that is in use, also by the renewal of leases, is never asked.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use redis::{PushKind, RedisError, Value, aio::MultiplexedConnection};
use tokio::{sync::mpsc, time::Instant};
use tracing::{debug, info, warn};

use crate::transport::connection::{
    ConnectionConfig, Endpoint, LOST, LastAnswer, ServerConnection, Session, State, report_broken,
};
use crate::{
    Error,
    protocol::script::PROTOCOL,
    transport::{
        backend::{Caller, Channels},
        backoff::Backoff,
        clock::Clock,
        endpoint,
        explain::{explain, explain_channel, greet},
        lock,
        own_connection::OwnConnection,
        server_info::ServerInfo,
        subscriptions::Subscriptions,
        unreachable,
        uptime::Uptime,
    },
};

/// A connection that lived for longer than this is made again at once.
const STABLE: Duration = Duration::from_millis(100);
/// A server that is silent is asked no more and no less often than this.
const SHORTEST_SILENCE: Duration = Duration::from_secs(1);
const LONGEST_SILENCE: Duration = Duration::from_secs(10);

const CANNOT_END: &str = "the server refuses CLIENT KILL: a request that is still on its way when its connection breaks may arrive \
                          after its release, and hold the object until that lease expires";

/// Owns the connection to one server.
pub(crate) struct ConnectionDriver {
    pub(super) node: Arc<ServerConnection>,
    pub(super) endpoint: Endpoint,
    pub(super) config: Arc<ConnectionConfig>,
    pub(super) broken: mpsc::UnboundedReceiver<u64>,
    /// The number of the newest try.
    pub(super) newest: Arc<AtomicU64>,
    /// The run id of the server, and its name for our last connection to it.
    pub(super) last: Option<(Arc<str>, i64)>,
    /// The server, or one before it at its address, has spoken RESP3.
    pub(super) greeted: bool,
    /// It refuses to end a connection, which has been logged.
    pub(super) cannot_end: bool,
}

impl ConnectionDriver {
    /// Keeps the connection for as long as it is polled. It ends when the server turns out to be one of a cluster, which
    /// is `expected` of those that a cluster has named.
    pub(crate) async fn run(mut self, expected: bool) {
        let mut backoff = Backoff::default();
        loop {
            let number = self.newest.fetch_add(1, Ordering::Relaxed) + 1;
            let started = Instant::now();
            let address = self.node.address.clone();
            match self.connect(number, expected).await {
                Ok(None) => return,
                Ok(Some(session)) => {
                    info!(address, version = %session.version, "connected to Redis");
                    self.last = session.id.map(|id| (session.run_id.clone(), id));
                    self.node.set(State::Up(session.clone()));
                    self.config.receiver.connected();
                    self.keep(&session).await;
                    *lock(&self.config.accepted) = Some(Instant::now());
                    warn!(address, "the connection to Redis is lost");
                    let error = unreachable(&address, LOST);
                    self.node.set(State::Down { error });
                    if started.elapsed() > STABLE {
                        backoff.reset();
                        continue;
                    }
                }
                Err(error) => {
                    let known = match self.node.state() {
                        State::Down { error: known } => known.to_string() == error.to_string(),
                        State::Up(_) => false,
                    };
                    if !known {
                        warn!(%error, "cannot connect to Redis, trying again");
                    }
                    self.node.set(State::Down { error });
                }
            }
            tokio::time::sleep(backoff.next(self.config.chance())).await;
        }
    }

    /// Waits until the connection breaks, or the server does not answer any more.
    async fn keep(&mut self, session: &Session) {
        let broken = async {
            while self
                .broken
                .recv()
                .await
                .is_some_and(|which| which < session.number)
            {}
        };
        let silence = self
            .config
            .response_timeout
            .clamp(SHORTEST_SILENCE, LONGEST_SILENCE);
        tokio::select! {
            biased;
            () = broken => {}
            () = self.node.admission.run() => {}
            () = authenticated(session, &self.endpoint, &self.config, &self.node.address) => {}
            error = silent(session, silence, &self.config.uptime) => debug!(%error, "the server is silent"),
        }
    }

    /// A session; `None`: the server is one of a cluster.
    async fn connect(&mut self, number: u64, in_cluster: bool) -> Result<Option<Arc<Session>>, Error> {
        let receiver = self.config.receiver.clone();
        let clock = Arc::new(Clock::of_a_connection_begun_at(self.config.uptime.now()));
        let broken = self.node.broken.clone();
        let here: Arc<OnceLock<Arc<str>>> = Arc::default();
        let heard: Arc<LastAnswer> = Arc::default();
        let subscriptions: Arc<Subscriptions> = Arc::default();
        let on_message = {
            let (here, newest) = (here.clone(), self.newest.clone());
            let (clock, heard) = (clock.clone(), heard.clone());
            move |channel: &str, payload: &str| {
                heard.now();
                // Messages over a connection that was given up may be older than those over a newer one.
                if newest.load(Ordering::Relaxed) != number {
                    return;
                }
                // Messages of other servers come over their own connections.
                if let Some((said_by, payload)) = payload.split_once('\n')
                    && here.get().is_none_or(|here| **here == *said_by)
                {
                    receiver.message(&clock, channel, payload);
                }
            }
        };
        let timeout = self.config.response_timeout;
        let (client, access) = match &self.endpoint {
            Endpoint::At(servers, access) => {
                let turn = usize::try_from(number - 1).unwrap_or_default() % servers.len();
                (servers[turn].clone(), access)
            }
            Endpoint::Sentinels(sentinels) => (sentinels.master().await?, &sentinels.access),
            Endpoint::Local(server) => {
                let caller = Caller {
                    channels: self.config.channels.clone(),
                    response_timeout: timeout,
                    on_message: Box::new(on_message),
                    on_cut: Box::new(move || report_broken(&broken, number)),
                };
                let connected = server.connect(caller).await?;
                if let Some((run, id)) = &self.last
                    && *run == connected.run_id
                {
                    server.end(*id);
                }
                return Ok(Some(Arc::new(Session {
                    number,
                    clock,
                    credentials: None,
                    response_timeout: timeout,
                    heard,
                    id: Some(connected.id),
                    connection: connected.connection,
                    redis: None,
                    subscriptions: None,
                    own_connection: None,
                    version_and_run: version_and_run(&connected.run_id),
                    run_id: connected.run_id,
                    version: connected.version,
                })));
            }
        };
        let address = endpoint::of(&client);
        let (client, credentials) = access.current(&client, timeout).await?;
        let plain = access.connection(timeout);
        let config = plain.clone().set_push_sender(on_push(
            broken,
            number,
            on_message,
            self.on_unsubscribed(number, subscriptions.clone()),
        ));
        let mut connection = greet(&client, &config, &plain, self.greeted).await?;
        self.greeted = true;
        let asked = Instant::now();
        let text = ask_info(&mut connection)
            .await
            .map_err(|e| explain(&client, &e))?;
        heard.answer_to(asked);
        let about = ServerInfo::read(&text, &address)?;
        if about.is_cluster && !in_cluster {
            return Ok(None);
        }
        // Not set before, as nothing is subscribed to yet.
        let _ = here.set(about.run_id.clone());
        open_channels(&self.config.channels, about.is_cluster, &client, &mut connection).await?;
        let id = self.end_last(&mut connection, &about.run_id).await;
        Ok(Some(Arc::new(Session {
            number,
            clock,
            credentials,
            response_timeout: timeout,
            heard,
            redis: Some(connection.clone()),
            connection: Arc::new(connection),
            subscriptions: about.is_cluster.then_some(subscriptions),
            own_connection: Some(Arc::new(OwnConnection::new(client, plain))),
            version_and_run: version_and_run(&about.run_id),
            run_id: about.run_id,
            version: about.version,
            id,
        })))
    }

    /// The callback for the end of a sharded subscription.
    fn on_unsubscribed(
        &self,
        number: u64,
        subscriptions: Arc<Subscriptions>,
    ) -> impl Fn(&str) + Send + Sync + use<> {
        let (receiver, newest) = (self.config.receiver.clone(), self.newest.clone());
        let broken = self.node.broken.clone();
        move |channel: &str| {
            if !subscriptions.ended(channel) {
                report_broken(&broken, number);
            }
            if newest.load(Ordering::Relaxed) == number {
                receiver.unsubscribed(channel);
            }
        }
    }

    /// Calls that were sent over the last connection and have not arrived yet must not arrive any more: the same calls
    /// are sent again over this one, and an acquisition that arrived after its own release would take a lease that no
    /// client knows of. If the server refuses to end it, that connection ends when the network gives it up; the log
    /// states the cost as early as at the first connect. Returns the server's name for this connection.
    async fn end_last(&mut self, connection: &mut MultiplexedConnection, run_id: &str) -> Option<i64> {
        let last = self.last.as_ref().filter(|(run, _)| **run == *run_id);
        let mut kill = redis::cmd("CLIENT");
        // No connection has this number.
        kill.arg("KILL")
            .arg("ID")
            .arg(last.map_or(i64::MAX, |(_, id)| *id));
        let ended: Result<Value, RedisError> = kill.query_async(connection).await;
        if let Err(error) = ended
            && error.code().is_some()
            && !self.cannot_end
        {
            self.cannot_end = true;
            let address = &self.node.address;
            // The users of namespaces have no right to it, by intention.
            if error.code() == Some("NOPERM") {
                info!(address, %error, "{CANNOT_END}");
            } else {
                warn!(address, %error, "{CANNOT_END}");
            }
        }
        redis::cmd("CLIENT").arg("ID").query_async(connection).await.ok()
    }
}

/// Asks for what [`ServerInfo::read`] reads. Redis before 7.0 and its forks take no more than one section, or none for all:
/// such a server is asked so, to be refused by its name.
async fn ask_info(connection: &mut MultiplexedConnection) -> Result<String, RedisError> {
    let some = redis::cmd("INFO")
        .arg(&["server", "replication", "memory"])
        .query_async(connection)
        .await;
    match some {
        Err(error) if error.code() == Some("ERR") => redis::cmd("INFO").query_async(connection).await,
        answered => answered,
    }
}

/// Subscribes to the channels, and checks the right to publish: a script goes on without it, so that none of its effects is
/// missing, but then no waiter would hear of its grant in time.
async fn open_channels(
    channels: &Channels,
    in_cluster: bool,
    client: &redis::Client,
    connection: &mut MultiplexedConnection,
) -> Result<(), Error> {
    if in_cluster {
        return check_channels(channels, client, connection).await;
    }
    let own = channels.own.channel(None);
    let refused = |channel: &str, error: &RedisError| explain_channel(client, channel, error);
    connection.subscribe(&*own).await.map_err(|e| refused(&own, &e))?;
    if let Some(events) = &channels.events {
        // The user of a namespace has the right to its channel, and to no pattern.
        let subscribed = if events.contains('*') {
            connection.psubscribe(&**events).await
        } else {
            connection.subscribe(&**events).await
        };
        subscribed.map_err(|e| refused(events, &e))?;
    }
    let mut publish = redis::cmd("PUBLISH");
    publish.arg(&*own).arg("");
    publish
        .exec_async(connection)
        .await
        .map_err(|e| refused(&own, &e))
}

/// Checks the rights to subscribe and to publish in a cluster, where subscriptions follow with the calls that need them. A server
/// refuses to subscribe to channels of two slots at once, whichever it has, but checks the rights before.
async fn check_channels(
    channels: &Channels,
    client: &redis::Client,
    connection: &mut MultiplexedConnection,
) -> Result<(), Error> {
    let [one, other] = [0, 1].map(|slot| channels.own.channel(Some(slot)));
    let mut subscribe = redis::cmd("SSUBSCRIBE");
    subscribe.arg(&*one).arg(&*other);
    let mut publish = redis::cmd("SPUBLISH");
    publish.arg(&*one).arg("");
    let of_the_slot =
        |error: &RedisError| matches!(error.code(), Some("CROSSSLOT" | "MOVED" | "CLUSTERDOWN"));
    for command in [subscribe, publish] {
        match command.exec_async(connection).await {
            Err(error) if !of_the_slot(&error) => return Err(explain_channel(client, &one, &error)),
            _ => {}
        }
    }
    Ok(())
}

/// Waits until a server that has been silent for so long does not answer with its time either.
async fn silent(session: &Session, span: Duration, uptime: &Uptime) -> RedisError {
    loop {
        tokio::time::sleep_until(session.heard.last() + span).await;
        if session.heard.last().elapsed() < span {
            continue;
        }
        let (asked, sent) = (Instant::now(), uptime.now());
        match session.ask_time().await {
            Ok(_) => session.clock.answered(sent),
            // An error reply is an answer.
            Err(error) if error.code().is_some() => {}
            Err(error) => return error,
        }
        session.heard.answer_to(asked);
    }
}

/// Authenticates the connection again when its credentials have changed. Those that it has stay in force where the server
/// denies the new ones: it may not know them yet.
async fn authenticated(session: &Session, endpoint: &Endpoint, config: &ConnectionConfig, address: &str) {
    let access = match endpoint {
        Endpoint::At(_, access) => access,
        Endpoint::Sentinels(sentinels) => &sentinels.access,
        Endpoint::Local(_) => return std::future::pending().await,
    };
    let mut current = session.credentials.clone();
    while let Some(refresh_after) = current.as_ref().and_then(|known| known.refresh_after) {
        tokio::time::sleep(refresh_after).await;
        let asked = access.credentials(config.response_timeout).await;
        let changed = match asked {
            Ok(credentials) if credentials != current => credentials,
            Ok(_) => continue,
            Err(error) => {
                warn!(%error, "the credentials may be old");
                continue;
            }
        };
        let Some(credentials) = changed else { continue };
        let mut auth = redis::cmd("AUTH");
        auth.arg(credentials.username.as_deref().unwrap_or("default"))
            .arg(&credentials.password);
        match session.ask::<()>(&auth).await {
            Ok(()) => {
                info!(address, "authenticated with changed credentials");
                current = Some(credentials);
            }
            Err(error) => {
                warn!(address, %error, "changed credentials are denied, trying again");
            }
        }
    }
    std::future::pending::<()>().await;
}

/// The first argument of each call.
fn version_and_run(run_id: &str) -> Arc<str> {
    format!("{PROTOCOL} {run_id}").into()
}

/// The callbacks of the driver for a message without a request, for the end of a subscription, and for that of the connection.
fn on_push(
    broken: mpsc::UnboundedSender<u64>,
    number: u64,
    on_message: impl Fn(&str, &str) + Send + Sync + 'static,
    on_unsubscribed: impl Fn(&str) + Send + Sync + 'static,
) -> impl Fn(redis::PushInfo) -> Result<(), redis::aio::SendError> + Send + Sync + 'static {
    move |info| {
        match info.kind {
            PushKind::Disconnection => report_broken(&broken, number),
            PushKind::Message | PushKind::PMessage | PushKind::SMessage => {
                // Before the channel of a message for a pattern stands the pattern.
                if let [.., Value::BulkString(channel), Value::BulkString(payload)] = &info.data[..]
                    && let (Ok(channel), Ok(payload)) =
                        (std::str::from_utf8(channel), std::str::from_utf8(payload))
                {
                    on_message(channel, payload);
                }
            }
            PushKind::SUnsubscribe => {
                if let Some(Value::BulkString(channel)) = info.data.first()
                    && let Ok(channel) = std::str::from_utf8(channel)
                {
                    on_unsubscribed(channel);
                }
            }
            _ => {}
        }
        Ok(())
    }
}
