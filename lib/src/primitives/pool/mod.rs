//! A pool: named resources, of which each has one holder at a time.

pub(crate) mod members;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Deref,
    sync::Arc,
    time::Duration,
};

use crate::{
    Error, Lease, ObjectRef, Options,
    control::{Order, check_resource},
    lease::session::Session,
    lease::{
        acquire::{Handle, acquired},
        guard::{released, unless_lost},
        machine::request::Wait,
        object_keys::ObjectKeys,
    },
    protocol::selector::Selector,
};

/// A pool of resources, declared by a `LockPool` resource, or kept by programs (see [`LockPool::assign`]).
///
/// Acquiring takes any free resource, in the pool's order (by default the least recently used first), or the resources
/// that [`LockPool::named`], [`LockPool::matching`], [`LockPool::many`] and [`LockPool::preferring`] select. Resources
/// may be added, removed and disabled while the pool is in use: a resource that is removed while held is drained: its
/// holder keeps it, and it is not granted again.
///
/// Fair like [`Lock`](crate::Lock): first come, first served. Only those who wait for certain resources let others pass, to
/// resources that would not do for them.
///
/// ```no_run
/// # async fn run(client: tenure::Client) -> Result<(), tenure::Error> {
/// let seats = client.lock_pool("gpu-seats")?;
/// let seat = seats.acquire().await?;
/// println!("{} on {:?}", seat.resource(), seat.properties().get("host"));
/// seat.release().await?;
///
/// // Two at once, on hosts in this zone.
/// let two = seats.matching([("zone", "b")])?.many(2).acquire().await?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct LockPool {
    pub(crate) handle: Handle,
    pub(crate) order: Order,
    count: u32,
    /// The number of names, if resources are named.
    named: Option<u32>,
}

/// Resources of one lease. A thousand keep the server for some three milliseconds.
const MOST_AT_ONCE: u32 = 10_000;

impl LockPool {
    pub(crate) fn new(session: Arc<Session>, target: Arc<ObjectKeys>) -> Self {
        Self {
            handle: Handle::new(session, target, 0),
            order: Order::LeastRecentlyUsed,
            count: 1,
            named: None,
        }
    }

    /// The same pool, acquired with these options.
    ///
    /// ```no_run
    /// # fn run(seats: tenure::LockPool) -> tenure::LockPool {
    /// seats.with(tenure::Options::new().reason("nightly training"))
    /// # }
    /// ```
    #[must_use]
    pub fn with(mut self, options: Options) -> Self {
        self.handle.options = options;
        self
    }

    /// The pool's full name.
    ///
    /// ```no_run
    /// # fn run(seats: tenure::LockPool) {
    /// println!("{}", seats.object());
    /// # }
    /// ```
    #[must_use]
    pub fn object(&self) -> &ObjectRef {
        &self.handle.target.object
    }

    /// The same pool, of which these very resources are acquired, all or none; 1 to 10,000, of 1 to 253 ASCII letters,
    /// digits and `- _ .` each.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] for a name that no resource can have, or none at all.
    ///
    /// ```no_run
    /// # async fn run(seats: tenure::LockPool) -> Result<(), tenure::Error> {
    /// let seat = seats.named(["seat-a"])?.try_acquire().await?;
    /// # Ok(()) }
    /// ```
    pub fn named<S: AsRef<str>>(mut self, names: impl IntoIterator<Item = S>) -> Result<Self, Error> {
        let names: BTreeSet<String> = names.into_iter().map(|name| name.as_ref().to_owned()).collect();
        if names.is_empty() {
            return Err(Error::invalid("names", "is empty", "name at least one resource"));
        }
        names.iter().try_for_each(|name| check_resource("names", name))?;
        self.count = u32::try_from(names.len()).unwrap_or(u32::MAX);
        self.named = Some(self.count);
        self.handle.selector = Selector::named(&Vec::from_iter(names));
        Ok(self)
    }

    /// The same pool, of which only resources with all of these properties are acquired; keys and values are compared byte
    /// for byte. Resources of a generated pool have no properties.
    ///
    /// One command looks at up to 500 free resources, in the pool's order, and the next one continues behind them: an
    /// acquisition sends as many commands as there are pieces of 500, before it is refused as busy or waits. So this is for
    /// pools of thousands at most.
    ///
    /// With [`LockPool::many`], one command has to find all resources of the lease among those that it looks at: 500, up to
    /// 1,000 while the request waits, or twice as many as are requested if that is more. A pool with more free resources may
    /// have enough matching ones that stand further apart: the request is not granted before enough of them stand closer.
    ///
    /// A request is not refused because no resource of the pool has these properties, or too few have, for the pool may
    /// change: it waits until its timeout, and [`LockPool::acquire`] without end.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] on `properties` when there is none here, and when a generated pool is acquired.
    ///
    /// ```no_run
    /// # async fn run(seats: tenure::LockPool) -> Result<(), tenure::Error> {
    /// let seat = seats.matching([("zone", "b"), ("gpu", "h100")])?.acquire().await?;
    /// # Ok(()) }
    /// ```
    pub fn matching<K: AsRef<str>, V: AsRef<str>>(
        mut self,
        properties: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Self, Error> {
        let properties: Vec<(K, V)> = properties.into_iter().collect();
        if properties.is_empty() {
            return Err(Error::invalid(
                "properties",
                "is empty",
                "name at least one, or leave `matching` out",
            ));
        }
        let pairs = properties.iter();
        self.handle.selector = Selector::matching(pairs.map(|(key, value)| (key.as_ref(), value.as_ref())));
        Ok(self)
    }

    /// The same pool, of which this resource is acquired if it is free, and otherwise any: so that a caller finds again
    /// what it has used before.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] for a name that no resource can have.
    ///
    /// ```no_run
    /// # async fn run(seats: tenure::LockPool) -> Result<(), tenure::Error> {
    /// let first = seats.acquire().await?;
    /// let mine = seats.clone().preferring(first.resource())?;
    /// first.release().await?;
    /// let again = mine.acquire().await?;
    /// # Ok(()) }
    /// ```
    pub fn preferring(mut self, name: impl AsRef<str>) -> Result<Self, Error> {
        let name = name.as_ref();
        check_resource("name", name)?;
        self.handle.selector = Selector::preferring(name);
        Ok(self)
    }

    /// The same pool, of which that many resources are acquired at once, all or none; 1 to 10,000. Not beside
    /// [`LockPool::named`], which requests as many as it has names. Beside [`LockPool::matching`], the resources must stand
    /// close together: see there.
    ///
    /// Acquiring fails with [`Error::InvalidInput`] on `count` for another number, and with [`Error::TooLarge`] for more
    /// than the pool has. All resources of a lease are sent in one message with their properties: Redis closes the
    /// connection of a client for which more than 32 MB wait (`client-output-buffer-limit pubsub`).
    ///
    /// ```no_run
    /// # async fn run(seats: tenure::LockPool) -> Result<(), tenure::Error> {
    /// let both = seats.many(2).acquire().await?;
    /// for (name, properties) in both.resources() {
    ///     println!("{name}: {properties:?}");
    /// }
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn many(mut self, count: u32) -> Self {
        self.count = count;
        self
    }

    /// Waits for a free resource, as long as it takes, outages of Redis included. One command when one is free.
    ///
    /// # Errors
    /// [`Error::NotDeclared`] when the pool is not declared within five seconds, or is deleted meanwhile;
    /// [`Error::NoSuchResource`] for a name that it does not have; [`Error::TooLarge`] when it has fewer resources in
    /// total; [`Error::InvalidInput`] names the option, [`Error::Refused`] has the error reply of Redis.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the queue, and gives back what had been granted meanwhile, in the background. Its
    /// position in the queue is lost.
    ///
    /// ```no_run
    /// # async fn run(seats: tenure::LockPool) -> Result<(), tenure::Error> {
    /// let seat = seats.acquire().await?;
    /// # Ok(()) }
    /// ```
    pub async fn acquire(&self) -> Result<PoolLease, Error> {
        acquired(self.take(Wait::Forever).await)
    }

    /// Waits for at most `timeout`; then leaves the queue and returns `None`. Zero is one attempt.
    ///
    /// # Errors
    /// As [`LockPool::acquire`], and [`Error::Unreachable`] when Redis does not answer up to the timeout.
    ///
    /// # Cancel safety
    /// As [`LockPool::acquire`].
    ///
    /// ```no_run
    /// # async fn run(seats: tenure::LockPool) -> Result<(), tenure::Error> {
    /// let seat = seats.acquire_timeout(std::time::Duration::from_secs(1)).await?;
    /// # Ok(()) }
    /// ```
    pub async fn acquire_timeout(&self, timeout: Duration) -> Result<Option<PoolLease>, Error> {
        self.take(Wait::for_up_to(timeout)).await
    }

    /// Takes a resource if one is free and has no waiter, else returns `None`. One command.
    ///
    /// # Errors
    /// [`Error::NotDeclared`] at once, [`Error::Unreachable`] when Redis does not answer within the response timeout;
    /// else as [`LockPool::acquire`].
    ///
    /// # Cancel safety
    /// As [`LockPool::acquire`].
    ///
    /// ```no_run
    /// # async fn run(seats: tenure::LockPool) -> Result<(), tenure::Error> {
    /// let seat = seats.try_acquire().await?;
    /// # Ok(()) }
    /// ```
    pub async fn try_acquire(&self) -> Result<Option<PoolLease>, Error> {
        self.take(Wait::Not).await
    }

    /// Takes over the lease that [`Lease::detach`] has left: see [`Lock::adopt`](crate::Lock::adopt).
    ///
    /// # Errors
    /// As [`Lock::adopt`](crate::Lock::adopt).
    ///
    /// # Cancel safety
    /// As [`Lock::adopt`](crate::Lock::adopt).
    ///
    /// ```no_run
    /// # async fn run(seats: tenure::LockPool, secret: String) -> Result<(), tenure::Error> {
    /// let seat = seats.adopt(&secret).await?;
    /// # Ok(()) }
    /// ```
    pub async fn adopt(&self, secret: &str) -> Result<Option<PoolLease>, Error> {
        self.handle.adopt(secret).await?.map(PoolLease::new).transpose()
    }

    async fn take(&self, wait: Wait) -> Result<Option<PoolLease>, Error> {
        if !(1..=MOST_AT_ONCE).contains(&self.count) {
            return Err(Error::invalid(
                "count",
                format!("is {}", self.count),
                format!("acquire 1 to {MOST_AT_ONCE} resources at once"),
            ));
        }
        if let Some(names) = self.named.filter(|names| *names != self.count) {
            return Err(Error::invalid(
                "count",
                format!("is {} beside {names} names", self.count),
                "leave `many` out where resources are named",
            ));
        }
        self.handle
            .acquire(self.count.into(), wait)
            .await?
            .map(PoolLease::new)
            .transpose()
    }
}

/// A [`Lease`] of one or more resources of a pool.
///
/// ```no_run
/// # async fn run(client: tenure::Client) -> Result<(), tenure::Error> {
/// let seat = client.lock_pool("gpu-seats")?.acquire().await?;
/// seat.check()?; // all that a lease can do
/// println!("{}", seat.resource());
/// # Ok(()) }
/// ```
#[derive(Debug)]
#[must_use = "dropping a lease gives its resource back at once"]
pub struct PoolLease {
    lease: Lease,
    resources: Vec<(String, BTreeMap<String, String>)>,
}

impl PoolLease {
    /// Should the properties not be readable, dropping the lease gives the resources back.
    fn new(lease: Lease) -> Result<Self, Error> {
        let granted = &lease.hold().grant.resources;
        let damaged = |name: &str| Error::Damaged {
            object: lease.object().clone(),
            reason: format!("the properties of resource {name} cannot be read: declare it again"),
        };
        let resources = granted.iter().map(|(name, json)| {
            let properties = read_properties(json).map_err(|_| damaged(name))?;
            Ok((name.clone(), properties))
        });
        let resources = resources.collect::<Result<Vec<_>, Error>>()?;
        if resources.is_empty() {
            return Err(Error::protocol("a lease of a pool without a resource"));
        }
        Ok(Self { lease, resources })
    }

    /// The resource's name; the first one's if there are more.
    ///
    /// ```no_run
    /// # fn run(seat: tenure::PoolLease) {
    /// println!("{}", seat.resource());
    /// # }
    /// ```
    #[must_use]
    pub fn resource(&self) -> &str {
        &self.resources[0].0
    }

    /// The resource's properties, as they were when it was granted; the first one's if there are more. None where it was
    /// taken out of the pool between the grant and a repeated answer.
    ///
    /// ```no_run
    /// # fn run(seat: tenure::PoolLease) {
    /// println!("{:?}", seat.properties().get("host"));
    /// # }
    /// ```
    #[must_use]
    pub fn properties(&self) -> &BTreeMap<String, String> {
        &self.resources[0].1
    }

    /// All resources with their properties, at least one.
    ///
    /// ```no_run
    /// # fn run(seats: tenure::PoolLease) {
    /// for (name, properties) in seats.resources() {
    ///     println!("{name}: {properties:?}");
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn resources(&self) -> &[(String, BTreeMap<String, String>)] {
        &self.resources
    }

    /// The lease alone, for code that holds leases of any object.
    ///
    /// ```no_run
    /// # fn run(seat: tenure::PoolLease) {
    /// let lease: tenure::Lease = seat.into_lease();
    /// # }
    /// ```
    pub fn into_lease(self) -> Lease {
        self.lease
    }

    /// Runs `work` while the resources are held, and then releases them: see [`Lease::while_held`].
    ///
    /// # Errors
    /// As [`Lease::while_held`].
    ///
    /// # Cancel safety
    /// As [`Lease::while_held`].
    ///
    /// ```no_run
    /// # async fn train(seat: &str) {}
    /// # async fn run(seats: tenure::LockPool) -> Result<(), tenure::Error> {
    /// seats.acquire().await?.while_held(async |seat| train(seat.resource()).await).await
    /// # }
    /// ```
    pub async fn while_held<T>(self, work: impl AsyncFnOnce(&Self) -> T) -> Result<T, Error> {
        let outcome = unless_lost(&self.lease, work(&self)).await?;
        let patience = self.lease.response_timeout();
        released(patience, self.release()).await?;
        Ok(outcome)
    }

    /// Gives the resources back: see [`Lease::release`].
    ///
    /// # Errors
    /// As [`Lease::release`].
    ///
    /// # Cancel safety
    /// As [`Lease::release`].
    ///
    /// ```no_run
    /// # async fn run(seat: tenure::PoolLease) -> Result<(), tenure::Error> {
    /// seat.release().await
    /// # }
    /// ```
    pub async fn release(self) -> Result<(), Error> {
        self.lease.release().await
    }
}

pub(crate) fn read_properties(json: &str) -> Result<BTreeMap<String, String>, Error> {
    match json {
        "" => Ok(BTreeMap::new()),
        json => serde_json::from_str(json).map_err(|_| Error::protocol(json)),
    }
}

impl Deref for PoolLease {
    type Target = Lease;

    fn deref(&self) -> &Lease {
        &self.lease
    }
}
