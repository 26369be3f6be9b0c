//! The servers of a client, and which one has an object.

use std::sync::{Arc, Mutex};

use crate::Error;
use crate::protocol::slot;
use crate::transport::{
    cluster::Cluster,
    connection::{ServerConnection, Session, State, StateChanged},
    error_text, lock,
};

/// Shared by callers and by the tasks that keep the connections.
pub(crate) struct RoutingTable {
    map: Mutex<Map>,
    pub(crate) state_changed: Arc<StateChanged>,
}

/// A master.
pub(crate) struct Shard {
    pub(crate) node: Arc<ServerConnection>,
    /// The first of its slots, where it is one of a cluster.
    pub(crate) first_slot: Option<u16>,
}

impl Shard {
    /// Host and port; behind Sentinels, the name of their service.
    pub(crate) fn address(&self) -> &str {
        &self.node.address
    }

    /// Sends a command for a key of this server. `None`: the server does not answer now, or has no such commands.
    pub(crate) async fn ask(&self, command: &redis::Cmd) -> Result<Option<redis::Value>, Error> {
        let State::Up(session) = self.node.state() else {
            return Ok(None);
        };
        match session.ask(command).await {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.code().is_none() => Ok(None),
            Err(error) => Err(Error::Refused {
                reason: format!("{}: {}", self.address(), error_text(&error)),
            }),
        }
    }
}

enum Map {
    One(Arc<ServerConnection>),
    Cluster(Cluster),
    /// The runtime has ended.
    Closed,
}

impl RoutingTable {
    pub(crate) fn to(node: Arc<ServerConnection>, state_changed: Arc<StateChanged>) -> Self {
        Self {
            map: Mutex::new(Map::One(node)),
            state_changed,
        }
    }

    /// The one server has turned out to be one of a cluster.
    pub(crate) fn become_cluster(&self, cluster: Cluster) {
        *lock(&self.map) = Map::Cluster(cluster);
        self.state_changed.ring();
    }

    pub(crate) fn close(&self) {
        let map = std::mem::replace(&mut *lock(&self.map), Map::Closed);
        // The servers of a cluster retire when it is dropped.
        if let Map::One(node) = &map {
            node.retire(Error::Closed);
        }
        drop(map);
        self.state_changed.ring();
    }

    /// Looks into, or changes, what is known of a cluster, where it is one.
    pub(crate) fn cluster<T>(&self, with: impl FnOnce(&mut Cluster) -> T) -> Option<T> {
        match &mut *lock(&self.map) {
            Map::Cluster(cluster) => Some(with(cluster)),
            Map::One(_) | Map::Closed => None,
        }
    }

    /// The server that has the object with these keys, or the one at `via`, and its session when there is one.
    pub(crate) fn find(
        &self,
        keys: &[Arc<str>],
        via: Option<&str>,
    ) -> Result<(Arc<ServerConnection>, Arc<Session>), Error> {
        let node = match &mut *lock(&self.map) {
            Map::One(node) => node.clone(),
            Map::Cluster(cluster) => match via {
                Some(address) => cluster.at(address)?,
                None => cluster.master(keys.first().map_or(0, |key| slot::of(key)))?,
            },
            Map::Closed => return Err(Error::Closed),
        };
        match node.state() {
            State::Up(session) => Ok((node, session)),
            State::Down { error } => Err(error),
        }
    }

    /// All masters that are known, connected or not.
    pub(crate) fn masters(&self) -> Result<Vec<Arc<ServerConnection>>, Error> {
        match &*lock(&self.map) {
            Map::One(node) => Ok(vec![node.clone()]),
            Map::Cluster(cluster) => cluster.masters(),
            Map::Closed => Err(Error::Closed),
        }
    }

    /// All masters that have slots of a cluster, or the one server.
    pub(crate) fn shards(&self) -> Result<Vec<Shard>, Error> {
        match &*lock(&self.map) {
            Map::One(node) => Ok(vec![Shard {
                node: node.clone(),
                first_slot: None,
            }]),
            Map::Cluster(cluster) => {
                let first = |node: Arc<ServerConnection>| {
                    let slot = cluster.slots_of(&node).next()?;
                    let first_slot = Some(slot);
                    Some(Shard { node, first_slot })
                };
                Ok(cluster.masters()?.into_iter().filter_map(first).collect())
            }
            Map::Closed => Err(Error::Closed),
        }
    }

    /// Any server that answers.
    pub(crate) fn any(&self) -> Result<Arc<Session>, Error> {
        let node = match &*lock(&self.map) {
            Map::One(node) => Some(node.clone()),
            Map::Cluster(cluster) => cluster.any(),
            Map::Closed => None,
        };
        match node.map(|node| node.state()) {
            Some(State::Up(session)) => Ok(session),
            Some(State::Down { error }) => Err(error),
            None => self.health().and(Err(Error::Closed)),
        }
    }

    /// The version of Redis, where any server answers that has objects.
    pub(crate) fn reachable(&self) -> Result<Arc<str>, Error> {
        match &*lock(&self.map) {
            Map::One(node) => node.version(),
            Map::Cluster(cluster) => cluster.reachable(),
            Map::Closed => Err(Error::Closed),
        }
    }

    /// The version of Redis, where all servers answer.
    pub(crate) fn health(&self) -> Result<Arc<str>, Error> {
        match &*lock(&self.map) {
            Map::One(node) => match node.state() {
                State::Up(session) => Ok(session.version.clone()),
                State::Down { error } => Err(error),
            },
            Map::Cluster(cluster) => cluster.health(),
            Map::Closed => Err(Error::Closed),
        }
    }
}
