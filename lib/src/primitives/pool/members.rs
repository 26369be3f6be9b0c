//! The resources of a pool: listing those of any pool, and changing those of a pool that programs keep.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    Control, Error, LockPool,
    control::{Order, Resource},
    primitives::pool::read_properties,
    protocol::{
        calls::{Call, Change, Entry, List, Members},
        object::ResourceState,
        refusal,
    },
    transport::later,
};

/// Resources in one command: 250 commands assign 100,000, and none keeps the server for much over a millisecond.
const PIECE: usize = 400;

/// A resource of a pool, as [`LockPool::list`] finds it.
///
/// ```no_run
/// # async fn run(seats: tenure::LockPool) -> Result<(), tenure::Error> {
/// for member in seats.list().await? {
///     println!("{} {:?} {:?}", member.name, member.state, member.properties);
/// }
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ResourceView {
    /// Its name.
    pub name: String,
    /// Its properties.
    pub properties: BTreeMap<String, String>,
    /// The state of the resource.
    pub state: ResourceState,
}

/// The number of resources of a pool in each state.
///
/// ```no_run
/// # async fn run(seats: tenure::LockPool) -> Result<(), tenure::Error> {
/// let health = seats.health().await?;
/// println!("{} of {} are free, {} wait", health.free, health.in_service, health.waiting);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolHealth {
    /// Resources that are granted in turn.
    pub in_service: u64,
    /// Those of them that are free.
    pub free: u64,
    /// Resources held, drained ones included.
    pub held: u64,
    /// Resources held that were taken out of service meanwhile.
    pub draining: u64,
    /// Requests in the queue.
    pub waiting: u64,
}

/// The resources of the pool. A pool that is not declared can be *kept* by programs: it lasts until it is empty, has no
/// declared lease and no recovery after a loss of Redis' data, and its fencing tokens are a lock's.
///
/// The bounds of a kept pool, whose resources need not have properties:
///
/// | part | bound |
/// |---|---|
/// | resources | no limit but the memory of Redis; 100,000 are sent in 250 commands |
/// | name | 1 to 253 ASCII letters, digits and `- _ .`; not `-` alone |
/// | properties of one resource | 64 KiB (65,536 bytes) as JSON, keys and values together; any number, of any text |
///
/// For a custom resource, the API server accepts less: 1024 named resources, names of 63 characters, 16 properties with
/// keys of 63 and values of 256 characters.
impl LockPool {
    /// All named resources: those of a kept pool, and those that a custom resource names; a generated pool lists none. Read
    /// in pieces of about 400, one command each: what changes meanwhile may be missing or not.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::Refused`].
    ///
    /// # Cancel safety
    /// Cancel safe: it only looks.
    ///
    /// ```no_run
    /// # async fn run(seats: tenure::LockPool) -> Result<(), tenure::Error> {
    /// println!("{} resources", seats.list().await?.len());
    /// # Ok(()) }
    /// ```
    pub async fn list(&self) -> Result<Vec<ResourceView>, Error> {
        let mut members = BTreeMap::new();
        let mut cursor = "0".to_owned();
        loop {
            let (rest, page) = self.page(&cursor).await?;
            members.extend(page.into_iter().map(|member| (member.name.clone(), member)));
            if rest == "0" {
                return Ok(members.into_values().collect());
            }
            cursor = rest;
        }
    }

    /// Returns whether the pool has a named resource of this name. One command.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::Refused`].
    ///
    /// # Cancel safety
    /// Cancel safe: it only looks.
    ///
    /// ```no_run
    /// # async fn run(seats: tenure::LockPool) -> Result<(), tenure::Error> {
    /// println!("{}", seats.contains("seat-a").await?);
    /// # Ok(()) }
    /// ```
    pub async fn contains(&self, name: &str) -> Result<bool, Error> {
        Ok(!self.page(&format!("={name}")).await?.1.is_empty())
    }

    /// Counts, exact at the moment at which Redis answers; all zero for a pool that is not there. One command.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::Refused`].
    ///
    /// # Cancel safety
    /// Cancel safe: it only looks.
    ///
    /// ```no_run
    /// # async fn run(seats: tenure::LockPool) -> Result<(), tenure::Error> {
    /// println!("{:?}", seats.health().await?);
    /// # Ok(()) }
    /// ```
    pub async fn health(&self) -> Result<PoolHealth, Error> {
        let snapshot = Control::new(self.handle.session.clone())
            .look(self.object(), 0)
            .await?;
        Ok(snapshot.map_or(
            PoolHealth {
                in_service: 0,
                free: 0,
                held: 0,
                draining: 0,
                waiting: 0,
            },
            |snapshot| PoolHealth {
                in_service: snapshot.limit,
                free: snapshot.free,
                held: snapshot.held,
                draining: snapshot.draining(),
                waiting: snapshot.waiting,
            },
        ))
    }

    /// The same pool, of which resources are granted in this order, once they are assigned or added with this handle.
    ///
    /// ```no_run
    /// # fn run(proxies: tenure::LockPool) -> tenure::LockPool {
    /// proxies.ordered(tenure::control::Order::Random)
    /// # }
    /// ```
    #[must_use]
    pub fn ordered(mut self, order: Order) -> Self {
        self.order = order;
        self
    }

    /// Adds resources to a kept pool, in pieces of 400; one that is there already gets the new properties. Returns
    /// how many the pool has then.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] on `resources.name`, `resources.properties` (more than 64 KiB) or `resources.disabled` (true),
    /// before anything is sent; [`Error::Refused`] when a custom resource declares the pool; [`Error::Unreachable`]: some pieces may have been added, and it may be repeated.
    ///
    /// # Cancel safety
    /// Dropping the future leaves some pieces added.
    ///
    /// ```no_run
    /// # async fn run(proxies: tenure::LockPool) -> Result<(), tenure::Error> {
    /// use tenure::control::Resource;
    /// proxies.extend([Resource::new("proxy-1").property("host", "10.0.0.1")]).await?;
    /// # Ok(()) }
    /// ```
    pub async fn extend(&self, resources: impl IntoIterator<Item = Resource>) -> Result<u64, Error> {
        let pairs = pairs(resources)?;
        let mut size = self.health().await?.in_service;
        for piece in pairs.chunks(PIECE * 2) {
            size = self
                .change(Change::Extend, piece.len() / 2, piece, ("", &[]))
                .await?;
        }
        Ok(size)
    }

    /// Takes resources out of a kept pool, in pieces of 400; unknown names do no harm, held ones drain. Returns how
    /// many the pool has then.
    ///
    /// # Errors
    /// As [`LockPool::extend`].
    ///
    /// # Cancel safety
    /// Dropping the future leaves some pieces taken out.
    ///
    /// ```no_run
    /// # async fn run(proxies: tenure::LockPool) -> Result<(), tenure::Error> {
    /// proxies.shrink(["proxy-1"]).await?;
    /// # Ok(()) }
    /// ```
    pub async fn shrink<S: Into<String>>(&self, names: impl IntoIterator<Item = S>) -> Result<u64, Error> {
        let names: Vec<String> = names.into_iter().map(Into::into).collect();
        let mut size = self.health().await?.in_service;
        for piece in names.chunks(PIECE) {
            size = self.change(Change::Shrink, piece.len(), piece, ("", &[])).await?;
        }
        Ok(size)
    }

    /// Makes these the resources of a kept pool, in place of those that it has. They are sent in pieces of 400 and
    /// replace the old ones in one step at the end: until then, and after any failure, the pool is as it was. Between two
    /// pieces at most a minute may pass, after which Redis drops what was sent.
    ///
    /// # Errors
    /// As [`LockPool::extend`], but nothing has changed after an error. [`Error::Refused`] also when a minute has passed
    /// between two pieces: assign them again.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the pool as it was, or as it is to be.
    ///
    /// ```no_run
    /// # async fn run(proxies: tenure::LockPool) -> Result<(), tenure::Error> {
    /// use tenure::control::Resource;
    /// proxies.assign((0..100_000).map(|i| Resource::new(format!("proxy-{i}")))).await?;
    /// # Ok(()) }
    /// ```
    pub async fn assign(&self, resources: impl IntoIterator<Item = Resource>) -> Result<u64, Error> {
        // By name, so that a resource that is given twice counts once.
        let pairs = pairs(resources)?;
        let count = pairs.len() / 2;
        // Two at the same time do not mix what they put aside.
        let id = self.handle.session.link.draw().simple().to_string();
        let obj = &self.handle.target.keys[0];
        let stem = obj.strip_suffix("obj").unwrap_or(obj);
        let aside = [format!("{stem}staged-{id}"), format!("{stem}staged-free-{id}")].map(Arc::from);
        for piece in pairs.chunks(PIECE * 2) {
            self.change(Change::Stage, piece.len() / 2, piece, (&id, &aside))
                .await?;
        }
        self.change(Change::Commit, count, &[], (&id, &aside)).await
    }

    /// Takes all resources out of a kept pool: held ones drain, and then the pool is gone.
    ///
    /// # Errors
    /// As [`LockPool::extend`].
    ///
    /// # Cancel safety
    /// Dropping the future leaves open whether it is done.
    ///
    /// ```no_run
    /// # async fn run(proxies: tenure::LockPool) -> Result<(), tenure::Error> {
    /// proxies.clear().await
    /// # }
    /// ```
    pub async fn clear(&self) -> Result<(), Error> {
        self.change(Change::Clear, 0, &[], ("", &[])).await.map(drop)
    }

    async fn change(
        &self,
        change: Change,
        count: usize,
        names: &[String],
        (staged, aside): (&str, &[Arc<str>]),
    ) -> Result<u64, Error> {
        let target = &self.handle.target;
        let keys = [&*target.keys, aside].concat();
        let members = Members {
            change,
            order: self.order.as_str(),
            count,
            staged,
            names,
        };
        let changed = self.call(&members, &keys).await;
        changed.map_err(|error| refusal::named(error, &target.object, 0))
    }

    async fn page(&self, cursor: &str) -> Result<(String, Vec<ResourceView>), Error> {
        let list = List { cursor, count: PIECE };
        let (cursor, entries) = self.call(&list, &self.handle.target.keys).await?;
        let member = |entry: Entry| {
            let properties = match entry.state {
                ResourceState::Damaged => BTreeMap::new(),
                _ => read_properties(&entry.properties)?,
            };
            Ok(ResourceView {
                name: entry.name,
                properties,
                state: entry.state,
            })
        };
        Ok((
            cursor,
            entries.into_iter().map(member).collect::<Result<_, Error>>()?,
        ))
    }

    async fn call<C: Call>(&self, call: &C, keys: &[Arc<str>]) -> Result<C::Reply, Error> {
        let link = &self.handle.session.link;
        Ok(link.call(call, keys, later(link.response_timeout())).await?.value)
    }
}

/// Names and entries in turn, each name once.
fn pairs(resources: impl IntoIterator<Item = Resource>) -> Result<Vec<String>, Error> {
    let mut entries = BTreeMap::new();
    for resource in resources {
        if resource.disabled {
            let problem = format!("is true of {}", resource.name);
            return Err(Error::invalid(
                "resources.disabled",
                problem,
                "leave it out of a pool that programs keep",
            ));
        }
        let entry = resource.entry()?;
        entries.insert(resource.name, entry);
    }
    Ok(entries
        .into_iter()
        .flat_map(|(name, entry)| [name, entry])
        .collect())
}
