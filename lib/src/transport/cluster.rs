//! Redis Cluster: which server has which object.
//!
//! All keys of an object share one hash tag, so that an object lies in one slot, and a slot on one master. There is a
//! connection to each master. The map of the slots is requested again when a server does not answer, or replies that a
//! slot has moved (MOVED). Pushes come on sharded channels: see [`subscriptions`](crate::transport::subscriptions).

use std::{collections::HashMap, sync::Arc};

use redis::Value;
use tokio::{runtime::Handle, sync::Notify, task::AbortHandle};
use tracing::info;

use crate::Error;
use crate::protocol::slot::SLOTS;
use crate::transport::{
    connection::{ConnectionConfig, Endpoint, ServerConnection, Session, State, StateChanged},
    endpoint::{self, Access},
    unreachable,
};

/// The settings for the servers of a cluster.
pub(crate) struct ClusterSeeds {
    pub(crate) access: Arc<Access>,
    pub(crate) config: Arc<ConnectionConfig>,
    /// The servers that are asked first.
    pub(crate) seeds: Vec<redis::Client>,
}

/// A server, and the task that keeps its connection for as long as this lives.
struct Member {
    node: Arc<ServerConnection>,
    keeper: AbortHandle,
}

impl Drop for Member {
    fn drop(&mut self) {
        self.keeper.abort();
        let hint = "it is no master of the cluster any more";
        self.node.retire(unreachable(&self.node.address, hint));
    }
}

/// The servers, as far as they are known.
pub(crate) struct Cluster {
    seeds: Arc<ClusterSeeds>,
    state_changed: Arc<StateChanged>,
    /// In which the connections are kept: a caller's may end before the client does.
    runtime: Handle,
    members: HashMap<String, Member>,
    /// A master for each slot.
    slots: Vec<Option<Arc<ServerConnection>>>,
    /// They can be asked for the map as well.
    replicas: Vec<String>,
    /// Why there is no map.
    pub(super) problem: Option<Error>,
    /// The map is to be asked for again.
    pub(super) stale: Arc<Notify>,
}

impl Cluster {
    /// Has to be called in the client's runtime.
    pub(crate) fn new(seeds: Arc<ClusterSeeds>, state_changed: Arc<StateChanged>) -> Self {
        let none = Error::Unreachable {
            reason: "no server of the cluster has been asked yet".to_owned(),
        };
        Self {
            seeds,
            state_changed,
            runtime: Handle::current(),
            members: HashMap::new(),
            slots: vec![None; SLOTS.into()],
            replicas: Vec::new(),
            problem: Some(none),
            stale: Arc::default(),
        }
    }

    /// The master of a slot.
    pub(crate) fn master(&self, slot: u16) -> Result<Arc<ServerConnection>, Error> {
        match (&self.slots[usize::from(slot)], &self.problem) {
            (Some(node), _) => Ok(node.clone()),
            (None, Some(problem)) => Err(problem.clone()),
            (None, None) => Err(Error::Unreachable {
                reason: format!("no server of the cluster has the slot {slot}"),
            }),
        }
    }

    /// The server at an address, `host:port`, which a member has named.
    pub(crate) fn at(&mut self, address: &str) -> Result<Arc<ServerConnection>, Error> {
        if let Some(member) = self.members.get(address) {
            return Ok(member.node.clone());
        }
        let client = self.client(address)?;
        let (node, keeper) = ServerConnection::new(
            address.to_owned(),
            Endpoint::At(vec![client], self.seeds.access.clone()),
            self.seeds.config.clone(),
            self.state_changed.clone(),
        );
        let keeper = self.runtime.spawn(keeper.run(true)).abort_handle();
        let member = Member {
            node: node.clone(),
            keeper,
        };
        self.members.insert(address.to_owned(), member);
        Ok(node)
    }

    fn client(&self, address: &str) -> Result<redis::Client, Error> {
        let (host, port) = address
            .rsplit_once(':')
            .and_then(|(host, port)| Some((host, port.parse().ok()?)))
            .ok_or_else(|| Error::protocol(address))?;
        self.seeds.access.client_at(host, port)
    }

    /// Notes that a slot is at this address, as a server has replied, and requests the rest of the map.
    pub(crate) fn moved(&mut self, slot: u16, address: &str) {
        if let Ok(node) = self.at(address) {
            self.slots[usize::from(slot)] = Some(node);
        }
        self.look_again();
    }

    pub(crate) fn look_again(&self) {
        self.stale.notify_one();
    }

    /// Any version will do, where all that has slots answers.
    pub(crate) fn health(&self) -> Result<Arc<str>, Error> {
        if let Some(problem) = &self.problem {
            return Err(problem.clone());
        }
        let mut version = None;
        let mut seen: Option<&Arc<ServerConnection>> = None;
        for (slot, node) in self.slots.iter().enumerate() {
            let Some(node) = node else {
                return self
                    .master(u16::try_from(slot).unwrap_or_default())
                    .map(|_| "".into());
            };
            // Neighbours mostly are on one server.
            if seen.is_some_and(|seen| Arc::ptr_eq(seen, node)) {
                continue;
            }
            seen = Some(node);
            match node.state() {
                State::Up(session) => version = Some(session.version.clone()),
                State::Down { error } => return Err(error),
            }
        }
        Ok(version.unwrap_or_default())
    }

    /// Any version will do, where anything that has slots answers.
    pub(crate) fn reachable(&self) -> Result<Arc<str>, Error> {
        let mut last = self.problem.clone().map(Err);
        for member in self.members.values() {
            match member.node.version() {
                Ok(version) => return Ok(version),
                Err(error) => last = last.or(Some(Err(error))),
            }
        }
        last.unwrap_or_else(|| self.health())
    }

    /// Any server that answers.
    pub(crate) fn any(&self) -> Option<Arc<ServerConnection>> {
        let mut nodes = self.members.values().map(|member| &member.node);
        nodes.find(|node| matches!(node.state(), State::Up(_))).cloned()
    }

    /// All masters of the map.
    pub(crate) fn masters(&self) -> Result<Vec<Arc<ServerConnection>>, Error> {
        match &self.problem {
            Some(problem) => Err(problem.clone()),
            None => Ok(self.members.values().map(|member| member.node.clone()).collect()),
        }
    }

    /// The slots that a server has, in order.
    pub(crate) fn slots_of(&self, node: &Arc<ServerConnection>) -> impl Iterator<Item = u16> {
        let slots = (0..SLOTS).zip(&self.slots);
        slots
            .filter(|(_, owner)| owner.as_ref().is_some_and(|owner| Arc::ptr_eq(owner, node)))
            .map(|(slot, _)| slot)
    }

    /// The addresses of the replicas in the map.
    pub(crate) fn replicas(&self) -> &[String] {
        &self.replicas
    }

    pub(super) fn adopt(&mut self, map: &SlotMap) {
        let before = self.members.len();
        let mut slots = vec![None; SLOTS.into()];
        for (from, to, address) in &map.masters {
            if let Ok(node) = self.at(address) {
                slots[usize::from(*from)..=usize::from(*to)].fill(Some(node));
            }
        }
        self.slots = slots;
        self.replicas.clone_from(&map.replicas);
        self.problem = None;
        self.members
            .retain(|address, _| map.masters.iter().any(|(_, _, master)| master == address));
        if self.members.len() != before {
            info!(masters = self.members.len(), "the map of the cluster has changed");
        }
        self.state_changed.ring();
    }

    /// Whom to ask for the map: who is connected first, each time from another one on.
    pub(super) fn candidates(&self, turn: usize) -> Vec<Candidate> {
        let mut open = Vec::new();
        let mut closed = Vec::new();
        for (address, member) in &self.members {
            match member.node.state() {
                State::Up(session) => open.push(Candidate::Open(address.clone(), session)),
                State::Down { .. } => closed.push(address),
            }
        }
        let count = open.len().max(1);
        open.rotate_left(turn % count);
        let others = closed.into_iter().chain(&self.replicas);
        open.extend(
            others
                .filter_map(|address| self.client(address).ok())
                .map(|client| Candidate::Closed(Box::new(client))),
        );
        let seeds = self.seeds.seeds.iter().cloned();
        open.extend(seeds.map(|client| Candidate::Closed(Box::new(client))));
        open
    }
}

pub(super) enum Candidate {
    Open(String, Arc<Session>),
    Closed(Box<redis::Client>),
}

/// Reads the reply of CLUSTER SLOTS.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SlotMap {
    /// From slot to slot, and its master's address.
    masters: Vec<(u16, u16, String)>,
    replicas: Vec<String>,
}

impl SlotMap {
    /// A server that does not know its own name is at the host at which it was asked.
    pub(super) fn read(slots: &Value, asked: &str) -> Option<Self> {
        let Value::Array(ranges) = slots else { return None };
        let number = |value: &Value| redis::from_redis_value_ref::<u16>(value).ok();
        let address = |server: &Value| {
            let Value::Array(fields) = server else { return None };
            let host: Option<String> = redis::from_redis_value_ref(fields.first()?).ok()?;
            let host = host.filter(|host| !host.is_empty() && host != "?");
            let port = number(fields.get(1)?)?;
            Some(endpoint::join(host.as_deref().unwrap_or(asked), port))
        };
        let mut map = Self {
            masters: Vec::with_capacity(ranges.len()),
            replicas: Vec::new(),
        };
        for range in ranges {
            let Value::Array(fields) = range else { return None };
            let [from, to, master, replicas @ ..] = &fields[..] else {
                return None;
            };
            let (from, to) = (number(from)?, number(to)?);
            if from > to || to >= SLOTS {
                return None;
            }
            map.masters.push((from, to, address(master)?));
            map.replicas.extend(replicas.iter().filter_map(address));
        }
        Some(map)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_names_masters_and_replicas_and_takes_the_asked_host_for_a_missing_one() {
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let server = |host: Value, port| Value::Array(vec![host, Value::Int(port), text("id")]);
        let slots = Value::Array(vec![
            Value::Array(vec![
                Value::Int(0),
                Value::Int(5460),
                server(text("one"), 7001),
                server(Value::Nil, 7004),
            ]),
            Value::Array(vec![Value::Int(5461), Value::Int(16383), server(text(""), 7002)]),
        ]);
        assert_eq!(
            SlotMap::read(&slots, "asked"),
            Some(SlotMap {
                masters: vec![
                    (0, 5460, "one:7001".to_owned()),
                    (5461, 16383, "asked:7002".to_owned())
                ],
                replicas: vec!["asked:7004".to_owned()],
            })
        );
        for wrong in [
            Value::Nil,
            Value::Array(vec![Value::Array(vec![Value::Int(0)])]),
            Value::Array(vec![Value::Array(vec![
                Value::Int(0),
                Value::Int(16384),
                server(text("x"), 1),
            ])]),
        ] {
            assert_eq!(SlotMap::read(&wrong, "asked"), None);
        }
    }
}
