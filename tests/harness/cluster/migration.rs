//! Slots that move from one master to another while they are in use.

use std::collections::BTreeMap;

use anyhow::ensure;
use redis::aio::MultiplexedConnection;
use redis::{Cmd, Pipeline, cmd, pipe};

use super::Cluster;
use crate::Result;

/// Slots that are on their way together. A request for keys that are not all on one node is answered with ASK or TRYAGAIN.
const TOGETHER: usize = 100;
/// Milliseconds for the keys of one object.
const MIGRATE: u64 = 10_000;

/// Slots on their way to another node: see [`Cluster::begin_move`]. Does not end on its own.
#[derive(Debug)]
#[must_use = "the slots stay on their way until it is finished"]
pub struct Move<'a> {
    cluster: &'a Cluster,
    from: usize,
    to: usize,
    slots: Vec<u16>,
    source: MultiplexedConnection,
    target: MultiplexedConnection,
}

impl Cluster {
    /// Begins to move slots, which one node serves all of: from now on it answers ASK for what it does not have, and
    /// TRYAGAIN for what it has in part; and the other node answers TRYAGAIN for what it does not have all of.
    pub async fn begin_move(&self, slots: &[u16], to: usize) -> Result<Move<'_>> {
        ensure!(!slots.is_empty(), "no slots to move");
        let from = self.owner(slots[0]).await?;
        self.begin(slots, from, to).await
    }

    /// Moves slots, which one node serves all of, to another one.
    pub async fn reshard(&self, slots: &[u16], to: usize) -> Result {
        for slots in slots.chunks(TOGETHER) {
            self.begin_move(slots, to).await?.finish().await?;
        }
        Ok(())
    }

    /// Moves all slots of a node to others in turn.
    pub async fn reshard_all(&self, from: usize, to: &[usize]) -> Result {
        let slots = self.slots_of(from).await?;
        for (slots, &to) in slots.chunks(TOGETHER).zip(to.iter().cycle()) {
            self.begin(slots, from, to).await?.finish().await?;
        }
        self.settled().await
    }

    async fn begin(&self, slots: &[u16], from: usize, to: usize) -> Result<Move<'_>> {
        ensure!(from != to, "{to} has them");
        let mut moved = Move {
            cluster: self,
            from,
            to,
            slots: slots.to_vec(),
            source: self.patient_connection(from).await?,
            target: self.patient_connection(to).await?,
        };
        // The target first: it would send back what the source sends it.
        moved
            .set_slots("IMPORTING", &self.ids[from])
            .exec_async(&mut moved.target)
            .await?;
        moved
            .set_slots("MIGRATING", &self.ids[to])
            .exec_async(&mut moved.source)
            .await?;
        Ok(moved)
    }
}

impl Move<'_> {
    /// The keys that have not been moved.
    pub async fn left(&mut self) -> Result<Vec<String>> {
        let mut ask = pipe();
        for slot in &self.slots {
            ask.cmd("CLUSTER").arg("GETKEYSINSLOT").arg(slot).arg(1000);
        }
        let keys: Vec<Vec<String>> = ask.query_async(&mut self.source).await?;
        Ok(keys.concat())
    }

    /// Moves these keys, of one slot, in one step.
    pub async fn carry(&mut self, keys: &[String]) -> Result {
        let mut migrate = cmd("MIGRATE");
        migrate
            .arg("127.0.0.1")
            .arg(self.cluster.nodes[self.to].port())
            .arg("")
            .arg(0)
            .arg(MIGRATE)
            .arg("KEYS")
            .arg(keys);
        // A key that has expired meanwhile needs no migration: NOKEY is as good as OK.
        Ok(migrate.exec_async(&mut self.source).await?)
    }

    /// Moves what is left, and makes the target the one that serves the slots.
    pub async fn finish(mut self) -> Result {
        loop {
            let left = self.left().await?;
            if left.is_empty() {
                break;
            }
            let mut objects = BTreeMap::<_, Vec<_>>::new();
            for key in left {
                objects.entry(tag(&key)).or_default().push(key);
            }
            for keys in objects.values() {
                self.carry(keys).await?;
            }
        }
        let done = self.set_slots("NODE", &self.cluster.ids[self.to]);
        // The target first, so that there is no moment in which both send clients to each other.
        done.exec_async(&mut self.target).await?;
        done.exec_async(&mut self.source).await?;
        for (index, _) in self.cluster.running() {
            if index != self.from && index != self.to {
                // A replica learns it from its master.
                let mut other = self.cluster.patient_connection(index).await?;
                let _ = done.exec_async(&mut other).await;
            }
        }
        Ok(())
    }

    fn set_slots(&self, how: &str, node: &str) -> Pipeline {
        let mut pipeline = pipe();
        for slot in &self.slots {
            let mut command = Cmd::new();
            command.arg("CLUSTER").arg("SETSLOT").arg(slot).arg(how).arg(node);
            pipeline.add_command(command).ignore();
        }
        pipeline
    }
}

/// The part of a key that decides about its slot, if it has a tag.
fn tag(key: &str) -> String {
    let tag = key
        .split_once('{')
        .and_then(|(_, rest)| rest.split_once('}'))
        .map(|(tag, _)| tag);
    tag.unwrap_or(key).to_owned()
}
