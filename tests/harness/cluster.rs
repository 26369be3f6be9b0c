//! A Redis Cluster of plain [`Redis`] processes: three masters with a replica each, formed here and not by redis-cli, which
//! waits for longer. Its slots move while clients use them, and its nodes fail.
//!
//! A node is named by its index, which it keeps whatever its role: at the start 0, 1 and 2 are the masters of a third of the
//! slots each, and 3, 4 and 5 their replicas. Data and bus ports are free ones, not bound to each other.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use redis::aio::MultiplexedConnection;
use tokio::sync::OnceCell;

use crate::process::free_port;
use crate::{Redis, Result, eventually};

mod migration;

pub use migration::Move;

/// Number of slots of a cluster.
pub const SLOTS: u16 = 16_384;
/// Number of masters at the start.
pub const MASTERS: usize = 3;

const FORMING: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(60);

/// Settings of a cluster: see [`Cluster::builder`].
#[derive(Clone, Debug)]
pub struct Builder {
    node_timeout: Duration,
    replicas: bool,
    full_coverage: bool,
    valkey: bool,
}

impl Builder {
    /// Time for which a node may be silent; 1.5 s by default.
    #[must_use]
    pub fn node_timeout(mut self, node_timeout: Duration) -> Self {
        self.node_timeout = node_timeout;
        self
    }

    /// Masters alone: what one of them serves is gone with it.
    #[must_use]
    pub fn no_replicas(mut self) -> Self {
        self.replicas = false;
        self
    }

    /// Goes on with the slots that it has when others are not served (`cluster-require-full-coverage no`).
    #[must_use]
    pub fn partial_coverage(mut self) -> Self {
        self.full_coverage = false;
        self
    }

    /// Valkey in place of Redis.
    #[must_use]
    pub fn valkey(mut self) -> Self {
        self.valkey = true;
        self
    }

    /// Starts it and waits until all nodes know each other's slots and the replicas have their data.
    pub async fn start(self) -> Result<Cluster> {
        let count = if self.replicas { 2 * MASTERS } else { MASTERS };
        let mut nodes = Vec::new();
        let mut bus_ports = Vec::new();
        for _ in 0..count {
            let bus = free_port()?;
            let node = self.node(bus).start().await?;
            // After a start, nodes wait for up to five seconds of it before they take anything.
            set_node_timeout(&node, FORMING).await?;
            nodes.push(node);
            bus_ports.push(bus.to_string());
        }
        let mut cluster = Cluster {
            nodes,
            ids: Vec::new(),
            replicas: self.replicas,
            silent: BTreeSet::new(),
        };
        cluster.form(&bus_ports).await?;
        for node in &cluster.nodes {
            set_node_timeout(node, self.node_timeout).await?;
        }
        Ok(cluster)
    }

    fn node(&self, bus: u16) -> crate::redis::Builder {
        let node_timeout = self.node_timeout.as_millis().to_string();
        let full_coverage = if self.full_coverage { "yes" } else { "no" };
        let builder = Redis::builder().cluster_bus(bus).args(&[
            "--cluster-node-timeout",
            &node_timeout,
            "--cluster-require-full-coverage",
            full_coverage,
            // A replica takes over however long it has not heard of its master, and stays with that one.
            "--cluster-replica-validity-factor",
            "0",
            "--cluster-allow-replica-migration",
            "no",
            "--repl-diskless-sync-delay",
            "0",
            // As some services do: in a cluster all messages go over sharded channels, and within scripts, too.
            "--user",
            "default",
            "on",
            "nopass",
            "~*",
            "&*",
            "+@all",
            "-publish",
            "-subscribe",
            "-psubscribe",
        ]);
        if self.valkey { builder.valkey() } else { builder }
    }
}

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Redis>,
    /// The nodes' ids, which they keep over a restart.
    ids: Vec<String>,
    replicas: bool,
    /// Nodes that have been killed or paused.
    silent: BTreeSet<usize>,
}

/// A cluster as one of its nodes sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct View {
    /// Slots and the index of the node that serves them.
    slots: BTreeMap<(u16, u16), usize>,
    /// Index of each replica, and of its master.
    replicas: BTreeMap<usize, usize>,
    /// Number of nodes that it knows by their own names.
    known: usize,
}

impl Cluster {
    /// The cluster that all tests of this run share: a test must not move its slots or stop its nodes. It is patient with a
    /// busy machine.
    pub async fn shared() -> Result<&'static Self> {
        static SHARED: OnceCell<Cluster> = OnceCell::const_new();
        let patient = || Self::builder().node_timeout(Duration::from_secs(15)).start();
        SHARED.get_or_try_init(patient).await
    }

    /// An own cluster.
    pub async fn start() -> Result<Self> {
        Self::builder().start().await
    }

    /// An own cluster with other settings.
    #[must_use]
    pub fn builder() -> Builder {
        Builder {
            node_timeout: Duration::from_millis(1500),
            replicas: true,
            full_coverage: true,
            valkey: false,
        }
    }

    /// The URL of the first node: the rest has to be found out.
    #[must_use]
    pub fn url(&self) -> String {
        self.nodes[0].url()
    }

    /// The URL with all nodes.
    #[must_use]
    pub fn url_of_all(&self) -> String {
        let hosts: Vec<_> = self
            .nodes
            .iter()
            .map(|node| format!("127.0.0.1:{}", node.client_port()))
            .collect();
        format!("redis://{}", hosts.join(","))
    }

    /// The node at this index, whatever its role.
    #[must_use]
    pub fn node(&self, index: usize) -> &Redis {
        &self.nodes[index]
    }

    /// The nodes, killed ones too.
    #[must_use]
    pub fn nodes(&self) -> &[Redis] {
        &self.nodes
    }

    /// The slot of a key.
    pub async fn slot(&self, key: &str) -> Result<u16> {
        let (_, node) = self.running().next().context("no node runs")?;
        let slot = node.cli(&["CLUSTER", "KEYSLOT", key]).await?;
        Ok(slot.trim().parse()?)
    }

    /// The node that serves a slot, on which all running nodes agree.
    pub async fn owner(&self, slot: u16) -> Result<usize> {
        let view = self.agreed().await?;
        view.owner(slot)
            .with_context(|| format!("slot {slot} is not served"))
    }

    /// The node that serves a key.
    pub async fn owner_of(&self, key: &str) -> Result<usize> {
        self.owner(self.slot(key).await?).await
    }

    /// All slots that a node serves.
    pub async fn slots_of(&self, index: usize) -> Result<Vec<u16>> {
        Ok(self.agreed().await?.slots_of(index))
    }

    /// The nodes that serve slots, on which all running nodes agree.
    pub async fn masters(&self) -> Result<BTreeSet<usize>> {
        Ok(self.agreed().await?.slots.into_values().collect())
    }

    /// The replica of a master, on which all running nodes agree.
    pub async fn replica_of(&self, master: usize) -> Result<usize> {
        let view = self.agreed().await?;
        let replica = view.replicas.iter().find(|&(_, of)| *of == master);
        let (replica, _) = replica.with_context(|| format!("{master} has no replica: {view:?}"))?;
        Ok(*replica)
    }

    /// Waits until a master's replica has all that it has by now.
    pub async fn replicated(&self, master: usize) -> Result {
        let replica = self.replica_of(master).await?;
        self.nodes[replica].follows(&self.nodes[master]).await
    }

    /// Waits until all running nodes agree, serve all slots, and can be written to.
    pub async fn settled(&self) -> Result {
        eventually("the cluster to be settled", PATIENCE, async || {
            let view = self.agreed().await?;
            let served: u16 = view.slots.keys().map(|(first, last)| last - first + 1).sum();
            ensure!(served == SLOTS, "{served} slots are served");
            for (index, node) in self.running() {
                let state = node.cli(&["CLUSTER", "INFO"]).await?;
                ensure!(
                    state.contains("cluster_state:ok"),
                    "{index} says: {}",
                    state.trim_end()
                );
                if view.replicas.contains_key(&index) {
                    let link = node.info("master_link_status").await?;
                    ensure!(link == "up", "the link of replica {index} is {link}");
                }
            }
            Ok(())
        })
        .await
    }

    /// Kills a node (SIGKILL).
    pub fn kill9(&mut self, index: usize) -> Result {
        self.silent.insert(index);
        self.nodes[index].kill9()
    }

    /// Starts a killed node again, without its data: it knows its name and its place, and whose replica it has to be if
    /// another one serves its slots by now.
    pub async fn start_again(&mut self, index: usize) -> Result {
        self.nodes[index].start_again().await?;
        self.silent.remove(&index);
        Ok(())
    }

    /// Stops a node (SIGSTOP): its connections stay open, and nothing is answered.
    pub fn pause(&mut self, index: usize) -> Result {
        self.silent.insert(index);
        self.nodes[index].pause()
    }

    /// Resumes it after [`pause`](Self::pause), with the role that it had.
    pub fn resume(&mut self, index: usize) -> Result {
        self.silent.remove(&index);
        self.nodes[index].resume()
    }

    /// Waits until a replica of this master, which was killed or paused, serves its slots; returns the replica's index.
    pub async fn promoted(&self, replica: usize) -> Result {
        eventually(&format!("{replica} to be a master"), PATIENCE, async || {
            let masters = self.masters().await?;
            ensure!(masters.contains(&replica), "{masters:?} are the masters");
            Ok(())
        })
        .await?;
        self.settled().await
    }

    /// Replaces a master by its replica in order: nothing is lost, and the master becomes its replica.
    pub async fn fail_over(&self, replica: usize) -> Result {
        eventually(&format!("{replica} to take over"), PATIENCE, async || {
            if !self.masters().await?.contains(&replica) {
                self.nodes[replica].cli(&["CLUSTER", "FAILOVER"]).await?;
            }
            // It gives up after five seconds, should the others have been too busy to agree.
            eventually("the others to agree", Duration::from_secs(6), async || {
                let masters = self.masters().await?;
                ensure!(masters.contains(&replica), "{masters:?} are the masters");
                Ok(())
            })
            .await
        })
        .await?;
        self.settled().await
    }

    /// Waits until a former master, which runs again, follows the one that took its place, and has its data.
    pub async fn demoted(&self, index: usize) -> Result {
        eventually(&format!("{index} to be a replica"), PATIENCE, async || {
            let view = self.agreed().await?;
            ensure!(view.replicas.contains_key(&index), "{view:?}");
            let link = self.nodes[index].info("master_link_status").await?;
            ensure!(link == "up", "its link is {link}");
            Ok(())
        })
        .await
    }

    fn running(&self) -> impl Iterator<Item = (usize, &Redis)> {
        let all = self.nodes.iter().enumerate();
        all.filter(|(index, _)| !self.silent.contains(index))
    }

    /// The owners of all slots, on which all running nodes agree.
    async fn agreed(&self) -> Result<View> {
        let mut agreed: Option<View> = None;
        for (index, _) in self.running() {
            let view = self.view(index).await?;
            match &agreed {
                None => agreed = Some(view),
                Some(other) => ensure!(
                    view.slots == other.slots,
                    "{index} says {view:?}, others {other:?}"
                ),
            }
        }
        agreed.context("no node runs")
    }

    async fn view(&self, index: usize) -> Result<View> {
        let nodes = self.nodes[index].cli(&["CLUSTER", "NODES"]).await?;
        let mut view = View::default();
        for line in nodes.lines().filter(|line| !line.is_empty()) {
            self.read(line, &mut view)
                .with_context(|| format!("{index} says {line:?}"))?;
        }
        Ok(view)
    }

    /// `id address flags master ping pong epoch link slots...`, where slots are `5`, `0-5460`, or what moves in brackets.
    fn read(&self, line: &str, view: &mut View) -> Result {
        let fields: Vec<_> = line.split(' ').collect();
        let [id, _, flags, master, _, _, _, _, slots @ ..] = &fields[..] else {
            bail!("it is too short");
        };
        // In its first moments a node is known by a name that is not its own.
        let index_of = |id: &str| self.ids.iter().position(|known| known == id);
        let Some(index) = index_of(id).filter(|_| !flags.contains("handshake")) else {
            return Ok(());
        };
        view.known += 1;
        if let Some(master) = index_of(master) {
            view.replicas.insert(index, master);
        }
        for range in slots.iter().filter(|range| !range.starts_with('[')) {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            view.slots.insert((first.parse()?, last.parse()?), index);
        }
        Ok(())
    }

    async fn form(&mut self, bus_ports: &[String]) -> Result {
        for node in &self.nodes {
            self.ids
                .push(node.cli(&["CLUSTER", "MYID"]).await?.trim().to_owned());
        }
        for (index, node) in self.nodes.iter().enumerate() {
            // All begin with the same epoch, and would have to find out which of them moves on.
            let epoch = (index + 1).to_string();
            node.cli(&["CLUSTER", "SET-CONFIG-EPOCH", &epoch]).await?;
            if index < MASTERS {
                let (first, last) = third(index);
                node.cli(&["CLUSTER", "ADDSLOTSRANGE", &first, &last]).await?;
            }
        }
        for (index, node) in self.nodes.iter().enumerate() {
            for (other, bus) in self.nodes.iter().zip(bus_ports).skip(index + 1) {
                let port = other.port().to_string();
                node.cli(&["CLUSTER", "MEET", "127.0.0.1", &port, bus]).await?;
            }
        }
        eventually("the nodes to know one another", PATIENCE, async || {
            for index in 0..self.nodes.len() {
                let known = self.view(index).await?.known;
                ensure!(known == self.nodes.len(), "{index} knows {known}");
            }
            Ok(())
        })
        .await?;
        if self.replicas {
            for index in MASTERS..2 * MASTERS {
                let master = &self.ids[index - MASTERS];
                self.nodes[index].cli(&["CLUSTER", "REPLICATE", master]).await?;
            }
        }
        self.settled().await?;
        // Until all nodes know it, a replica would not be asked for its vote, nor shown to clients.
        eventually("the replicas to be known", PATIENCE, async || {
            for index in 0..self.nodes.len() {
                let replicas = self.view(index).await?.replicas.len();
                ensure!(replicas == self.nodes.len() - MASTERS, "{index} knows {replicas}");
            }
            Ok(())
        })
        .await
    }

    /// A connection that does not give up half a second after it has asked for something slow.
    async fn patient_connection(&self, index: usize) -> Result<MultiplexedConnection> {
        let mut connection = self.nodes[index].connection().await?;
        connection.set_response_timeout(PATIENCE);
        Ok(connection)
    }
}

impl View {
    fn owner(&self, slot: u16) -> Option<usize> {
        let owner = |((first, last), index): (&(u16, u16), &usize)| {
            (*first..=*last).contains(&slot).then_some(*index)
        };
        self.slots.iter().find_map(owner)
    }

    fn slots_of(&self, index: usize) -> Vec<u16> {
        let theirs = self.slots.iter().filter(|&(_, owner)| *owner == index);
        theirs.flat_map(|((first, last), _)| *first..=*last).collect()
    }
}

async fn set_node_timeout(node: &Redis, timeout: Duration) -> Result {
    let timeout = timeout.as_millis().to_string();
    node.cli(&["CONFIG", "SET", "cluster-node-timeout", &timeout])
        .await?;
    Ok(())
}

/// The first and the last slot of a master at the start.
fn third(index: usize) -> (String, String) {
    let border = |index| usize::from(SLOTS) * index / MASTERS;
    (border(index).to_string(), (border(index + 1) - 1).to_string())
}
