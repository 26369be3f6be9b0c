//! The way from an object to its server.
//!
//! Callers wait for a session with the server that has their object and for their turn, send, and on a broken connection
//! wait for the next one and send the same again: every script may be repeated, for it carries its token. A caller that
//! gives up gets `Unreachable`.

use std::{borrow::Cow, sync::Arc, time::Duration};

use redis::{Cmd, RedisError, Value};
use tokio::{task::AbortHandle, time::Instant};
use tracing::debug;

use crate::Error;
use crate::{
    protocol::{
        calls::{self, Arguments, Call, Hears},
        channel,
        script::Script,
        slot, unusable,
    },
    transport::{
        admission::{self, Class, Ticket},
        all_servers::{AllServers, ServerAnswer},
        backoff::Backoff,
        clock::SentAt,
        cluster::{Cluster, ClusterSeeds},
        cluster_map,
        connection::{ConnectionConfig, Endpoint, Receiver, ServerConnection, Session, State, StateChanged},
        error_text, later, replicated,
        retry::{RetryAction, retry_action},
        routing_table::{RoutingTable, Shard},
        unreachable,
        uptime::Moment,
    },
};

/// In a row; after so many the servers do not agree yet, and are given time.
const REDIRECTS: u32 = 4;

/// A reply, and when its request was sent.
pub(crate) struct Reply<T> {
    pub(crate) value: T,
    pub(crate) asked: SentAt,
    /// `true` if the call was sent before, so that this reply may be about a state that the first sending made.
    pub(crate) repeated: bool,
}

impl Reply<Value> {
    fn read<C: Call>(self, call: &C) -> Result<Reply<C::Reply>, Error> {
        Ok(Reply {
            value: calls::read(call, &self.value)?,
            asked: self.asked,
            repeated: self.repeated,
        })
    }
}

#[derive(Clone)]
pub(crate) struct Router(Arc<Inner>);

struct Inner {
    routes: Arc<RoutingTable>,
    config: Arc<ConnectionConfig>,
    all_servers: AllServers,
    /// Keeps the connections.
    keeper: AbortHandle,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

/// Closes the routes when the task that keeps them ends, whatever ends it.
struct Closing {
    routes: Arc<RoutingTable>,
    receiver: Arc<dyn Receiver>,
}

impl Drop for Closing {
    fn drop(&mut self) {
        self.routes.close();
        self.receiver.closed();
    }
}

/// Why a call has no reply.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) error: Error,
    /// The call was sent before, over a connection that broke: it may have had its effects, whatever the error.
    pub(crate) repeated: bool,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self {
            error,
            repeated: false,
        }
    }
}

impl From<Failed> for Error {
    fn from(failed: Failed) -> Self {
        failed.error
    }
}

/// The treatment of a try that is under way when the time of the call is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LastTry {
    /// Its answer is waited for.
    Whole,
    Cut,
}

/// In response timeouts: a script that the server does not know takes three commands.
const LONGEST_TRY: u32 = 3;

/// A call of a script, or a subscription alone.
struct Request<'a> {
    script: Option<&'static Script>,
    keys: &'a [Arc<str>],
    objects: usize,
    /// The arguments, with the ending of the client's name in a cluster.
    arguments: &'a (dyn Fn(Option<&str>) -> Arguments<'a> + Send + Sync),
    hears: Hears,
}

impl Router {
    /// Starts the task that connects. It ends when the last clone of the link is dropped. `seeds`: the settings
    /// for the servers of a cluster, which apply when the server turns out to be one of them.
    pub(crate) fn start(
        address: String,
        endpoint: Endpoint,
        config: Arc<ConnectionConfig>,
        seeds: Option<ClusterSeeds>,
    ) -> Self {
        let state_changed: Arc<StateChanged> = Arc::default();
        let all_servers = AllServers::new(&endpoint, config.response_timeout);
        let (node, keeper) = ServerConnection::new(address, endpoint, config.clone(), state_changed.clone());
        let routes = Arc::new(RoutingTable::to(node, state_changed.clone()));
        let closing = Closing {
            routes: routes.clone(),
            receiver: config.receiver.clone(),
        };
        let keeper = tokio::spawn(async move {
            keeper.run(seeds.is_none()).await;
            if let Some(seeds) = seeds.map(Arc::new) {
                closing
                    .routes
                    .become_cluster(Cluster::new(seeds.clone(), state_changed));
                cluster_map::follow(&closing.routes, &seeds).await;
            }
            // The error stays available for later callers.
            std::future::pending::<()>().await;
        });
        Self(Arc::new(Inner {
            routes,
            config,
            all_servers,
            keeper: keeper.abort_handle(),
        }))
    }

    pub(crate) fn draw(&self) -> uuid::Uuid {
        self.0.config.draw()
    }

    pub(crate) fn response_timeout(&self) -> Duration {
        self.0.config.response_timeout
    }

    /// Returns the slot of an object in a cluster. Objects in different slots cannot go into one command.
    pub(crate) fn slot(&self, keys: &[Arc<str>]) -> Option<u16> {
        self.0
            .routes
            .cluster(|_| keys.first().map(|key| slot::of(key)))
            .flatten()
    }

    /// The version of Redis, where all servers answer.
    pub(crate) fn health(&self) -> Result<Arc<str>, Error> {
        self.0.routes.health()
    }

    /// The version of Redis, where any server answers.
    pub(crate) fn reachable(&self) -> Result<Arc<str>, Error> {
        self.0.routes.reachable()
    }

    /// The version of the server that has the object with these keys, where that answers.
    pub(crate) fn health_of(&self, keys: &[Arc<str>]) -> Result<Arc<str>, Error> {
        self.0
            .routes
            .find(keys, None)
            .map(|(_, session)| session.version.clone())
    }

    /// Waits until `find` finds something; it looks again whenever a server has come, gone, or changed.
    pub(crate) async fn until<T>(&self, find: impl Fn() -> Option<T>) -> T {
        self.0.routes.state_changed.until(find).await
    }

    /// Waits until a server answers: of a cluster, any one, as the others' objects are not the only ones. A refusal that
    /// waiting cannot mend ends the wait.
    pub(crate) async fn connected(&self, until: Instant) -> Result<(), Error> {
        self.wait(until, false, || self.reachable()).await.map(drop)
    }

    /// The time of any server, in microseconds since 1970.
    pub(crate) async fn time(&self, until: Instant) -> Result<u64, Error> {
        let session = self.wait(until, false, || self.0.routes.any()).await?;
        match tokio::time::timeout_at(until, session.time()).await {
            Ok(answer) => answer.map_err(|error| unreachable("a server", error)),
            Err(_elapsed) => Err(unreachable("a server", "no answer in time")),
        }
    }

    /// Returns whether the servers are those of a Redis Cluster, as far as is known.
    pub(crate) fn is_cluster(&self) -> bool {
        self.0.routes.cluster(|_| ()).is_some()
    }

    /// The number of the database in the URL.
    pub(crate) fn database(&self) -> i64 {
        self.0.all_servers.database()
    }

    /// The masters, each with the first of its slots in a cluster.
    pub(crate) fn shards(&self) -> Result<Vec<Shard>, Error> {
        self.0.routes.shards()
    }

    /// The slots that a master has, in order; `None`: it is not one of a cluster.
    pub(crate) fn slots_of(&self, shard: &Shard) -> Option<Vec<u16>> {
        self.0
            .routes
            .cluster(|cluster| cluster.slots_of(&shard.node).collect())
    }

    /// Sends a command about the servers themselves to each master and each replica.
    pub(crate) async fn send_to_all(&self, command: &Cmd) -> Result<Vec<ServerAnswer>, Error> {
        self.0.all_servers.send(&self.0.routes, command).await
    }

    /// As [`AllServers::scan`].
    pub(crate) async fn scan(&self, pattern: &str) -> Result<Vec<String>, Error> {
        self.0.all_servers.scan(&self.0.routes, pattern).await
    }

    /// Waits for what is not there yet. With `patient`, also until an operator has mended what refuses connections.
    async fn wait<T>(
        &self,
        until: Instant,
        patient: bool,
        find: impl Fn() -> Result<T, Error>,
    ) -> Result<T, Error> {
        let find_now = || match find() {
            Err(Error::Closed) => Some(Err(Error::Closed)),
            Err(error) if patient || error.is_unreachable() => None,
            // The provider is asked again, and may know others by then; or the server does.
            Err(Error::Authentication { .. }) if self.0.config.may_be_accepted() => None,
            found => Some(found),
        };
        // Mostly it is there, and needs no timer.
        if let Some(found) = find_now() {
            return found;
        }
        match tokio::time::timeout_at(until, self.0.routes.state_changed.until(find_now)).await {
            Ok(found) => found,
            Err(_elapsed) => match find() {
                Err(error) => Err(error),
                Ok(_) => Err(unreachable("Redis", "no answer in time")),
            },
        }
    }

    /// Calls a script for a caller who waits until then, and no longer, even if the server hangs. A call that is late
    /// already has one attempt. See [`Router::repeat`].
    pub(crate) async fn call<C: Call>(
        &self,
        call: &C,
        keys: &[Arc<str>],
        until: Instant,
    ) -> Result<Reply<C::Reply>, Failed> {
        let now = Instant::now();
        let until = if until > now {
            until
        } else {
            now + self.response_timeout()
        };
        self.answered(call, keys, (until, LastTry::Cut)).await
    }

    /// The error of a call that was not answered in time, with the address of its server, or the reason why that cannot
    /// be reached.
    fn no_answer(&self, keys: &[Arc<str>]) -> Error {
        match self.0.routes.find(keys, None) {
            Ok((node, _)) => unreachable(&node.address, "no answer in time"),
            Err(error) if error.is_unreachable() => error,
            // The call may have been sent before.
            Err(_) => unreachable("Redis", "no answer in time"),
        }
    }

    /// Calls a script, with the protocol's version and the server's run id before the arguments. Repeats it over new
    /// connections until `until`; the last reply is waited for, because no other reply may contain its outcome.
    pub(crate) async fn repeat<C: Call>(
        &self,
        call: &C,
        keys: &[Arc<str>],
        until: Instant,
    ) -> Result<Reply<C::Reply>, Failed> {
        self.answered(call, keys, (until, LastTry::Whole)).await
    }

    async fn answered<C: Call>(
        &self,
        call: &C,
        keys: &[Arc<str>],
        end: (Instant, LastTry),
    ) -> Result<Reply<C::Reply>, Failed> {
        let mut repeated = false;
        let request = Request {
            script: Some(C::script()),
            keys,
            objects: call.objects(),
            arguments: &|ending| call.arguments_in(ending),
            hears: call.hears(),
        };
        let answered = self.attempts(&request, end, &mut repeated).await;
        answered
            .and_then(|reply| reply.read(call))
            .map_err(|error| Failed { error, repeated })
    }

    /// Subscribes to the events of an object in a cluster. With a single server all events come on one pattern.
    pub(crate) async fn listen(&self, keys: &[Arc<str>], until: Instant) -> Result<(), Error> {
        let request = Request {
            script: None,
            keys,
            objects: 1,
            arguments: &|_| Arguments::new(),
            hears: Hears::Events,
        };
        match tokio::time::timeout_at(
            until,
            self.attempts(&request, (until, LastTry::Whole), &mut false),
        )
        .await
        {
            Ok(listens) => listens.map(drop),
            Err(_elapsed) => Err(self.no_answer(keys)),
        }
    }

    /// The attempts of [`Router::repeat`]. `repeated` becomes true when one of them may have reached the server without an answer.
    async fn attempts(
        &self,
        request: &Request<'_>,
        (until, last_try): (Instant, LastTry),
        repeated: &mut bool,
    ) -> Result<Reply<Value>, Error> {
        let routes = &self.0.routes;
        let keys = request.keys;
        let class = request.script.map_or(Class::Other, Class::of);
        let name = request.script.map_or("no script", |script| script.name);
        // A lease that is not given back now delays the next holder by a whole lease.
        let gives_back = class == Class::Release;
        // The arguments of a call differ between a single server and a cluster, which the server may turn out to be.
        let mut arguments: Option<(Option<u16>, Arguments<'_>)> = None;
        let (mut redirected, mut backoff) = (0, Backoff::default());
        let mut via: Option<String> = None;
        loop {
            let (node, _) = self
                .wait(until, gives_back, || routes.find(keys, via.as_deref()))
                .await?;
            let Some(ticket) = admitted(&node, class, keys, until).await? else {
                continue;
            };
            // Another one by now, perhaps, than when the call began to wait for its turn.
            let State::Up(session) = node.state() else {
                continue;
            };
            let asking = via.take().is_some();
            let slot = session.slot(keys);
            if arguments.as_ref().is_none_or(|(known, _)| *known != slot) {
                let ending = slot.map(|slot| self.0.config.channels.own.ending(slot));
                arguments = Some((slot, (request.arguments)(ending)));
            }
            let mut sent = self.0.config.uptime.now();
            let arguments = arguments.as_ref().map_or(&[][..], |(_, arguments)| arguments);
            let attempt = self.attempt(
                request,
                arguments,
                (&session, slot, asking),
                (until, last_try),
                &mut sent,
            );
            let Some(answered) = attempt.await else {
                *repeated = true;
                return Err(self.no_answer(keys));
            };
            let error = match answered {
                Ok(value) => {
                    ticket.answered();
                    // A subscription may have been there already, without a request.
                    if request.script.is_some() {
                        session.clock.answered(sent);
                    }
                    let reply = Reply {
                        value,
                        asked: SentAt { sent },
                        repeated: *repeated,
                    };
                    return Ok(reply);
                }
                Err(error) => error,
            };
            let action = retry_action(&error);
            match action {
                RetryAction::Wait => ticket.refused(error_text(&error), self.0.config.chance()),
                RetryAction::Reconnect => drop(ticket),
                RetryAction::Deny if gives_back => ticket.denied(error_text(&error), self.0.config.chance()),
                _ => ticket.answered(),
            }
            match action {
                RetryAction::Wait => {
                    debug!(script = name, %error, "the server takes no calls, and this one is repeated");
                    // The error may be about its cluster, of which another node has newer information.
                    routes.cluster(|cluster| cluster.look_again());
                }
                RetryAction::Reconnect => {
                    debug!(script = name, %error, "the connection broke, and the call is repeated");
                    *repeated = true;
                    node.give_up(&session);
                }
                RetryAction::Moved | RetryAction::Ask if self.slot(keys).is_none() => {
                    // It has become one of a cluster, which the next connection finds out.
                    node.give_up(&session);
                }
                RetryAction::Moved | RetryAction::Ask => {
                    via = self.redirected(&node, action, &error);
                    redirected += 1;
                    if redirected % REDIRECTS == 0 {
                        self.pause(&mut backoff, until).await;
                    }
                }
                RetryAction::AskForMap => {
                    routes.cluster(|cluster| cluster.look_again());
                    self.pause(&mut backoff, until).await;
                }
                RetryAction::Repeat => self.pause(&mut backoff, until).await,
                RetryAction::Deny if gives_back => {}
                RetryAction::Deny | RetryAction::Fail => return Err(refusal(keys, &error)),
            }
            if Instant::now() >= until {
                return Err(unreachable(&node.address, error_text(&error)));
            }
        }
    }

    /// Sends a call once, after the subscription that it needs. `None`: the time of the call is over.
    async fn attempt(
        &self,
        request: &Request<'_>,
        arguments: &[Cow<'_, str>],
        (session, slot, asking): (&Session, Option<u16>, bool),
        (until, last_try): (Instant, LastTry),
        sent: &mut Moment,
    ) -> Option<Result<Value, RedisError>> {
        let may_be_late = last_try == LastTry::Cut;
        if let Some(channel) = self.channel(request, slot)
            && !session.listens(&channel)
        {
            // On the heap, because it is rare, and each acquisition's future would hold it.
            let listening = Box::pin(session.listen(&channel, asking));
            let listens = if may_be_late {
                tokio::time::timeout_at(until, listening).await.ok()?
            } else {
                listening.await
            };
            if let Err(error) = listens {
                return Some(Err(error));
            }
        }
        let Some(script) = request.script else {
            return Some(Ok(Value::Nil));
        };
        let uptime = &self.0.config.uptime;
        *sent = uptime.now();
        let keys = sent_keys(request.keys, request.objects, slot);
        let sending = session.send(script, keys, arguments, asking, (sent, uptime));
        // A timer costs as much as the arguments, and the driver has one for each command.
        let longest = self.response_timeout().saturating_mul(LONGEST_TRY);
        if may_be_late && until <= later(longest) {
            tokio::time::timeout_at(until, sending).await.ok()
        } else {
            Some(sending.await)
        }
    }

    /// The sharded channel that the client has to be subscribed to before a call.
    fn channel(&self, request: &Request<'_>, slot: Option<u16>) -> Option<Arc<str>> {
        let slot = slot?;
        let channels = &self.0.config.channels;
        match request.hears {
            Hears::Nothing => None,
            Hears::Pushes => Some(channels.own.channel(Some(slot))),
            Hears::Events if channels.events.is_none() => None,
            Hears::Events => request.keys.first().and_then(|key| channel::of_key(key)),
        }
    }

    /// Waits before a call is repeated, longer each time, but not past its end.
    async fn pause(&self, backoff: &mut Backoff, until: Instant) {
        let at = later(backoff.next(self.0.config.chance()));
        tokio::time::sleep_until(at.min(until)).await;
    }

    /// Calls a script once, over a connection of its own, and then waits until that many replicas have what it has written.
    /// Returns how many have it. None: nothing is known until then.
    pub(crate) async fn replicated<C: Call>(
        &self,
        call: &C,
        keys: &[Arc<str>],
        replicas: u8,
        until: Instant,
    ) -> Result<Option<(Reply<C::Reply>, u64)>, Error> {
        let uptime = &self.0.config.uptime;
        let answered = async {
            let (node, session) = self.wait(until, false, || self.0.routes.find(keys, None)).await?;
            let Some(own) = &session.own_connection else {
                // The twin has no replicas.
                return Ok((self.repeat(call, keys, until).await?, 0));
            };
            let arguments = call.arguments();
            let mut sent = uptime.now();
            let outcome = replicated::call(
                own,
                &session,
                C::script(),
                sent_keys(keys, call.objects(), session.slot(keys)),
                &arguments,
                (replicas, until),
                (&mut sent, uptime),
            );
            let (value, reached) = outcome
                .await
                .map_err(|error| unreachable(&node.address, error_text(&error)))?;
            // It shows nothing about the order in the shared connection: see the clock.
            let asked = SentAt { sent };
            let reply = Reply {
                value,
                asked,
                repeated: false,
            };
            Ok((reply.read(call)?, reached))
        };
        match tokio::time::timeout_at(until, answered).await {
            Ok(answered) => answered.map(Some),
            Err(_elapsed) => Ok(None),
        }
    }

    /// Notes that a slot has moved, or returns where this once to ask.
    fn redirected(&self, node: &ServerConnection, action: RetryAction, error: &RedisError) -> Option<String> {
        let (address, slot) = error.redirect_node()?;
        // Without a host it is the one that was asked.
        let address = match address.strip_prefix(':') {
            Some(port) => {
                let host = node.address.rsplit_once(':').map_or("", |(host, _)| host);
                format!("{host}:{port}")
            }
            None => address.to_owned(),
        };
        if action == RetryAction::Ask {
            return Some(address);
        }
        self.0.routes.cluster(|cluster| cluster.moved(slot, &address));
        None
    }
}

/// The keys of a call, of which those of its objects stand first. The script finds the others by them, so that they cost
/// nothing. A cluster has to know all of them: it then refuses a call while its keys are on their way to another server,
/// before the script has begun.
fn sent_keys(keys: &[Arc<str>], objects: usize, slot: Option<u16>) -> &[Arc<str>] {
    if slot.is_some() { keys } else { &keys[..objects] }
}

/// Waits for the call's turn; `None`: the connection has gone meanwhile.
async fn admitted(
    node: &ServerConnection,
    class: Class,
    keys: &[Arc<str>],
    until: Instant,
) -> Result<Option<Ticket>, Error> {
    let cost = admission::cost(keys.len());
    // Mostly there is room, and no need for a timer.
    if let Some(ticket) = node.admission.enter_now(class, cost) {
        return Ok(Some(ticket));
    }
    let turn = node.admission.enter(class, cost);
    tokio::time::timeout_at(until, turn).await.map_err(|_elapsed| {
        let refusal = node.admission.refusal(class);
        unreachable(&node.address, refusal.as_deref().unwrap_or("no answer in time"))
    })
}

/// An error reply of a script carries its name as code, which the caller reads. The rest are errors of Redis, or name
/// an object that is damaged, or of another version.
fn refusal(keys: &[Arc<str>], error: &RedisError) -> Error {
    let reason = error_text(error);
    unusable::error(keys, reason)
}
