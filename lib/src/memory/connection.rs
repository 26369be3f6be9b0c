//! A client's connection to the twin: two pipes that keep their order, one for calls and one for replies and pushes,
//! each emptied by a task. A call that was sent is executed even if its caller is gone, as with a real connection.

use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use redis::{RedisError, Value};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use crate::memory::{Fault, Memory, Message, State, scripts};
use crate::{
    Error,
    memory::scripts::Interpreter,
    protocol::script::Script,
    transport::{
        backend::{Caller, Channels, Connected, LocalServer, ScriptCall, ScriptConnection},
        later, lock,
    },
};

/// The client's side.
struct Connection {
    shared: Arc<Mutex<State>>,
    id: u64,
    calls: mpsc::UnboundedSender<Call>,
    response_timeout: Duration,
}

/// The server, as the clients of one process reach it.
pub(crate) struct ProcessServer {
    pub(crate) memory: Memory,
    /// The process name that [`Memory::set_faults`] is called with.
    pub(crate) process: Arc<str>,
}

struct Call {
    arrives: Instant,
    request: Request,
    reply: oneshot::Sender<Value>,
}

enum Request {
    Time,
    /// To be answered with an error.
    Refused(&'static str),
    Script {
        script: &'static Script,
        keys: Vec<String>,
        args: Vec<String>,
    },
}

impl Request {
    fn name(&self) -> &'static str {
        match self {
            Self::Time => "time",
            Self::Refused(_) => "refused",
            Self::Script { script, .. } => script.name,
        }
    }
}

/// The server's side.
pub(super) struct Peer {
    process: Arc<str>,
    own: Arc<str>,
    events: Option<Arc<str>>,
    deliveries: mpsc::UnboundedSender<(Instant, Delivery)>,
    /// When the last thing on its way arrives: what follows it does not overtake.
    last_up: Instant,
    last_down: Instant,
    /// The connection is dead: nothing passes any more, and neither side is notified.
    silent: bool,
    unanswered: Vec<oneshot::Sender<Value>>,
}

impl Peer {
    fn new(
        process: Arc<str>,
        channels: Channels,
        deliveries: mpsc::UnboundedSender<(Instant, Delivery)>,
    ) -> Self {
        let now = Instant::now();
        Self {
            process,
            own: channels.own.channel(None),
            events: channels.events,
            deliveries,
            last_up: now,
            last_down: now,
            silent: false,
            unanswered: Vec::new(),
        }
    }
}

impl Peer {
    fn hears(&self, channel: &str) -> bool {
        let is_event = |pattern: &Arc<str>| {
            let (start, end) = pattern.split_once('*').unwrap_or((pattern, ""));
            channel.starts_with(start) && channel.ends_with(end)
        };
        channel == &*self.own || self.events.as_ref().is_some_and(is_event)
    }
}

enum Delivery {
    Reply(oneshot::Sender<Value>, Value),
    Push { channel: String, payload: String },
    Cut,
}

impl State {
    fn decide(&mut self, process: &str, message: Message<'_>) -> Fault {
        self.faults
            .as_mut()
            .map_or(Fault::Deliver, |faults| faults(process, message))
    }

    pub(super) fn cut(&mut self, id: u64) {
        if let Some(peer) = self.remove(id) {
            // An error means that the client has gone.
            let _ = peer.deliveries.send((peer.last_down, Delivery::Cut));
        }
    }

    fn add(&mut self, peer: Peer) -> u64 {
        let mut database = lock(&self.database);
        *database.listeners.entry(peer.own.to_string()).or_default() += 1;
        self.connections += 1;
        self.peers.insert(self.connections, peer);
        self.connections
    }

    fn remove(&mut self, id: u64) -> Option<Peer> {
        let peer = self.peers.remove(&id)?;
        let mut database = lock(&self.database);
        let own = &*peer.own;
        if let Some(count) = database.listeners.get_mut(own) {
            *count -= 1;
            if *count == 0 {
                database.listeners.remove(own);
            }
        }
        Some(peer)
    }

    /// Sends a call on its way, to be taken from `calls` when it arrives.
    fn send(
        &mut self,
        id: u64,
        request: Request,
        calls: &mpsc::UnboundedSender<Call>,
    ) -> Result<oneshot::Receiver<Value>, RedisError> {
        let process = self.peers.get(&id).ok_or_else(reset)?.process.clone();
        let fault = self.decide(
            &process,
            Message::Call {
                script: request.name(),
            },
        );
        let peer = self.peers.get_mut(&id).ok_or_else(reset)?;
        let (reply, answer) = oneshot::channel();
        match fault {
            Fault::Cut => self.cut(id),
            Fault::Deliver | Fault::Delay(_) | Fault::Refuse(_) if !peer.silent => {
                let call = Call {
                    arrives: arrival(&mut peer.last_up, fault),
                    request: match fault {
                        Fault::Refuse(error) => Request::Refused(error),
                        _ => request,
                    },
                    reply,
                };
                calls.send(call).map_err(|_| reset())?;
            }
            _ => {
                peer.silent = true;
                peer.unanswered.push(reply);
            }
        }
        Ok(answer)
    }

    fn execute(&mut self, id: u64, call: Call) {
        if !self.peers.contains_key(&id) {
            return; // cut while the call was on its way
        }
        self.calls += 1;
        let now_us = self.clock.tick();
        let name = call.request.name();
        let (value, published) = match call.request {
            Request::Time => {
                let parts = [now_us / 1_000_000, now_us % 1_000_000];
                let parts = parts.map(|part| Value::BulkString(part.to_string().into_bytes()));
                (Value::Array(parts.into()), Vec::new())
            }
            Request::Refused(error) => (scripts::error_reply(error), Vec::new()),
            Request::Script { script, keys, args } => {
                let Some(interpreter) = &mut self.interpreter else {
                    return;
                };
                interpreter.run(script, &keys, &args, now_us)
            }
        };
        for (channel, payload) in published {
            let listening = |(id, peer): (&u64, &Peer)| peer.hears(&channel).then_some(*id);
            let listeners: Vec<u64> = self.peers.iter().filter_map(listening).collect();
            for listener in listeners {
                let delivery = Delivery::Push {
                    channel: channel.clone(),
                    payload: payload.clone(),
                };
                self.deliver(listener, delivery, name);
            }
        }
        self.deliver(id, Delivery::Reply(call.reply, value), name);
    }

    fn deliver(&mut self, id: u64, delivery: Delivery, script: &str) {
        let Some(peer) = self.peers.get(&id) else { return };
        let process = peer.process.clone();
        let message = match &delivery {
            Delivery::Push { payload, .. } => Message::Push { payload },
            Delivery::Reply(..) | Delivery::Cut => Message::Reply { script },
        };
        let fault = self.decide(&process, message);
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        match (fault, delivery) {
            (Fault::Cut, _) => self.cut(id),
            (Fault::Deliver | Fault::Delay(_) | Fault::Refuse(_), delivery) if !peer.silent => {
                let arrives = arrival(&mut peer.last_down, fault);
                // An error means that the client has gone.
                let _ = peer.deliveries.send((arrives, delivery));
            }
            (_, Delivery::Reply(reply, _)) => {
                peer.silent = true;
                peer.unanswered.push(reply);
            }
            (_, Delivery::Push { .. } | Delivery::Cut) => {}
        }
    }
}

fn arrival(last: &mut Instant, fault: Fault) -> Instant {
    let delay = match fault {
        Fault::Delay(delay) => delay,
        _ => Duration::ZERO,
    };
    *last = (*last).max(later(delay));
    *last
}

fn reset() -> RedisError {
    io::Error::new(
        io::ErrorKind::ConnectionReset,
        "the connection to the in-memory twin is cut",
    )
    .into()
}

async fn until(arrives: Instant) {
    if arrives > Instant::now() {
        tokio::time::sleep_until(arrives).await;
    }
}

impl LocalServer for ProcessServer {
    fn connect(&self, caller: Caller) -> BoxFuture<'_, Result<Connected, Error>> {
        self.memory.connect(self.process.clone(), caller).boxed()
    }

    fn end(&self, id: i64) {
        if let Ok(id) = u64::try_from(id) {
            lock(&self.memory.shared).cut(id);
        }
    }
}

impl Memory {
    async fn connect(&self, process: Arc<str>, caller: Caller) -> Result<Connected, Error> {
        let refused = |why: &str| Error::Unreachable {
            reason: format!("in-memory twin: {why}"),
        };
        let fault = lock(&self.shared).decide(&process, Message::Connect);
        match fault {
            Fault::Deliver | Fault::Refuse(_) => {}
            Fault::Delay(delay) => tokio::time::sleep(delay).await,
            Fault::Drop => {
                tokio::time::sleep(caller.response_timeout).await;
                return Err(refused("timed out"));
            }
            Fault::Cut => return Err(refused("connection refused")),
        }
        let (deliveries, delivered) = mpsc::unbounded_channel();
        let (calls, arriving) = mpsc::unbounded_channel();
        let (id, run_id) = {
            let mut state = lock(&self.shared);
            if !state.running {
                return Err(refused("it is stopped"));
            }
            if state.interpreter.is_none() {
                let interpreter = Interpreter::new(state.database.clone());
                state.interpreter = Some(interpreter.map_err(|error| scripts::unusable(&error))?);
            }
            let peer = Peer::new(process, caller.channels, deliveries);
            (state.add(peer), state.run_id.as_str().into())
        };
        // Outside of the lock: on a runtime that shuts down, a task is dropped at once, and with it its registration.
        tokio::spawn(serve(arriving, Registered(self.shared.clone(), id)));
        tokio::spawn(deliver(delivered, caller.on_message, caller.on_cut));
        let connection = Connection {
            shared: self.shared.clone(),
            id,
            calls,
            response_timeout: caller.response_timeout,
        };
        Ok(Connected {
            connection: Arc::new(connection),
            id: i64::try_from(id).unwrap_or(i64::MAX),
            run_id,
            version: concat!("in-memory twin ", env!("CARGO_PKG_VERSION")).into(),
        })
    }
}

/// Takes the peer out when the client, or its runtime, has gone.
struct Registered(Arc<Mutex<State>>, u64);

impl Drop for Registered {
    fn drop(&mut self) {
        lock(&self.0).remove(self.1);
    }
}

async fn serve(mut calls: mpsc::UnboundedReceiver<Call>, peer: Registered) {
    while let Some(call) = calls.recv().await {
        until(call.arrives).await;
        lock(&peer.0).execute(peer.1, call);
    }
}

async fn deliver(
    mut deliveries: mpsc::UnboundedReceiver<(Instant, Delivery)>,
    on_message: impl Fn(&str, &str),
    on_cut: impl FnOnce(),
) {
    while let Some((arrives, delivery)) = deliveries.recv().await {
        until(arrives).await;
        match delivery {
            // An error means that the caller does not wait any more.
            Delivery::Reply(reply, value) => drop(reply.send(value)),
            Delivery::Push { channel, payload } => on_message(&channel, &payload),
            Delivery::Cut => return on_cut(),
        }
    }
}

impl ScriptConnection for Connection {
    fn call<'a>(&'a self, call: ScriptCall<'a>) -> BoxFuture<'a, Result<Value, RedisError>> {
        let args = [call.version_and_run]
            .into_iter()
            .chain(call.args.iter().map(AsRef::as_ref));
        let request = Request::Script {
            script: call.script,
            keys: call.keys.iter().map(ToString::to_string).collect(),
            args: args.map(str::to_owned).collect(),
        };
        self.send(request).boxed()
    }

    fn time(&self) -> BoxFuture<'_, Result<(u64, u64), RedisError>> {
        async { redis::from_redis_value(self.send(Request::Time).await?).map_err(Into::into) }.boxed()
    }
}

impl Connection {
    async fn send(&self, request: Request) -> Result<Value, RedisError> {
        let answer = lock(&self.shared).send(self.id, request, &self.calls)?;
        match tokio::time::timeout(self.response_timeout, answer).await {
            Ok(Ok(value)) => value.extract_error(),
            Ok(Err(_)) => Err(reset()),
            Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
        }
    }
}
