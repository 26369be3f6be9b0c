//! The declaration of an object by a custom resource, and its arguments for the script.

use std::{collections::BTreeMap, time::Duration};

use serde_json::json;
use uuid::Uuid;

use crate::control::Life;
use crate::{
    Error, Kind,
    protocol::{
        calls::{Declare, Pool},
        name::LONGEST_NAME,
    },
};

/// The declaration of an object by a custom resource.
///
/// ```
/// use std::time::Duration;
/// use tenure::control::{Capacity, Declaration};
///
/// let three = Declaration {
///     floor: 1_795_257_448_000_000,
///     lease: Duration::from_secs(60),
///     ..Declaration::new(Capacity::Permits(3))
/// };
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declaration {
    /// Every fencing token from now on is larger. Kept outside of Redis, and raised before a declaration that follows a
    /// loss of data.
    pub floor: u64,
    /// For how long nothing new is granted if this life of the server does not know the object: the longest lease that may
    /// be running from before, `lease` at least. `None`: it has never been declared before, so that nothing is running.
    pub recovery: Option<Duration>,
    /// The longest lease.
    pub lease: Duration,
    /// For how long a lease may be renewed.
    pub max_hold: Option<Duration>,
    /// The permits or resources.
    pub capacity: Capacity,
}

/// The scheme of [`Declaration::digest`]. A later scheme puts its number and a colon before its digests, so that a controller
/// knows which digests it cannot compare. Digests of the first scheme have no number.
pub const DIGEST_SCHEME: u32 = 1;

/// The permits or resources of an object.
///
/// ```
/// use tenure::control::{Capacity, Order, Resource};
///
/// let seats = Capacity::Resources {
///     order: Order::LeastRecentlyUsed,
///     resources: vec![Resource::new("seat-a"), Resource::new("seat-b")],
/// };
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Capacity {
    /// A semaphore's permits.
    Permits(u64),
    /// A pool's resources, by name.
    Resources {
        /// The order in which free resources are granted.
        order: Order,
        /// The resources.
        resources: Vec<Resource>,
    },
    /// A pool's resources `prefix0` to `prefix(count - 1)`.
    Generated {
        /// The order in which free resources are granted.
        order: Order,
        /// The prefix of the names.
        prefix: String,
        /// The number of resources.
        count: u64,
    },
}

/// The order in which free resources are granted.
///
/// ```
/// use tenure::control::{Capacity, Order};
///
/// let prefix = "seat-".into();
/// let million = Capacity::Generated { order: Order::MostRecentlyUsed, prefix, count: 1_000_000 };
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The one that has been free for longest: wear is spread.
    LeastRecentlyUsed,
    /// The one that was given back last: caches stay warm, and the rest may be put away.
    MostRecentlyUsed,
    /// Any.
    Random,
}

impl Capacity {
    /// Checks that an object of this kind can have the capacity.
    fn check(&self, kind: Kind) -> Result<(), Error> {
        let fix = match (kind, self) {
            (Kind::Pool, Self::Permits(_)) => "use Capacity::Resources or Capacity::Generated",
            (Kind::Lock, Self::Permits(permits)) if *permits != 1 => "use Capacity::Permits(1)",
            (
                Kind::Lock | Kind::RwLock | Kind::Semaphore,
                Self::Resources { .. } | Self::Generated { .. },
            ) => "use Capacity::Permits",
            _ => return Ok(()),
        };
        let has = match self {
            Self::Permits(permits) => format!("has {permits} permits"),
            Self::Resources { .. } | Self::Generated { .. } => "has resources".to_owned(),
        };
        Err(Error::invalid("capacity", format!("{has}, for a {kind}"), fix))
    }
}

impl Order {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::LeastRecentlyUsed => "LeastRecentlyUsed",
            Self::MostRecentlyUsed => "MostRecentlyUsed",
            Self::Random => "Random",
        }
    }
}

/// A declared resource of a pool.
///
/// ```
/// use tenure::control::Resource;
///
/// let seat = Resource { disabled: true, ..Resource::new("seat-b") };
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// The name: 1 to 253 ASCII letters, digits and `- _ .`, and not `-` alone.
    pub name: String,
    /// The properties that its holder gets, at most 64 KiB (65,536 bytes) as JSON, keys and values together.
    pub properties: BTreeMap<String, String>,
    /// Not granted: a holder keeps it, and it is not granted again.
    pub disabled: bool,
}

impl Declaration {
    /// Returns a first declaration: with leases of 30 s that may be renewed for ever, and fencing tokens from 2 on. Other values
    /// are set as fields.
    ///
    /// ```
    /// use tenure::control::{Capacity, Declaration};
    ///
    /// let three = Declaration::new(Capacity::Permits(3));
    /// assert_eq!((three.floor, three.recovery, three.max_hold), (1, None, None));
    /// ```
    #[must_use]
    pub fn new(capacity: Capacity) -> Self {
        Self {
            floor: 1,
            recovery: None,
            lease: Duration::from_secs(30),
            max_hold: None,
            capacity,
        }
    }

    /// Returns the digest of the part that a custom resource specifies: lease, longest hold and capacity. Equal parts have equal
    /// digests, in every version of the library with the same [`DIGEST_SCHEME`]. [`Snapshot::digest`](super::Snapshot::digest) is the digest of the declaration
    /// that Redis has, so that an unchanged one need not be repeated: see [`plan`](super::plan()).
    ///
    /// ```
    /// use tenure::control::{Capacity, Declaration};
    ///
    /// let three = Declaration::new(Capacity::Permits(3));
    /// let raised = Declaration { floor: 1000, ..three.clone() };
    /// assert_eq!(three.digest(), raised.digest());
    /// assert_ne!(three.digest(), Declaration::new(Capacity::Permits(4)).digest());
    /// ```
    #[must_use]
    pub fn digest(&self) -> String {
        // All fields are named, so that a new one is either part of the digest or is left out on purpose.
        let Self {
            floor: _,
            recovery: _,
            lease,
            max_hold,
            capacity,
        } = self;
        let capacity = match capacity {
            Capacity::Permits(permits) => json!({ "permits": permits }),
            Capacity::Generated { order, prefix, count } => {
                json!({ "generated": [prefix, count], "order": order.as_str() })
            }
            Capacity::Resources { order, resources } => {
                let resources: BTreeMap<_, _> = resources.iter().map(Resource::canonical).collect();
                json!({ "order": order.as_str(), "resources": resources })
            }
        };
        // The names stand in alphabetical order, as serde_json sorts them unless a program asks it not to.
        let canonical = json!({
            "capacity": capacity,
            "lease_ms": millis(*lease),
            "max_hold_ms": max_hold.map(millis),
        });
        let text = canonical.to_string();
        Uuid::new_v5(&Uuid::NAMESPACE_OID, text.as_bytes())
            .simple()
            .to_string()
    }

    /// As the script wants it, planned for this life of the server's data, or for any.
    pub(super) fn call<'a>(&'a self, kind: Kind, life: Option<&'a Life>) -> Result<Declare<'a>, Error> {
        let spans = [
            ("lease", Some(self.lease), LONGEST_LEASE),
            // Never less than the lease.
            (
                "recovery",
                self.recovery.map(|longest| longest.max(self.lease)),
                LONGEST_LEASE,
            ),
            ("max_hold", self.max_hold, LONGEST_HOLD),
        ];
        for (field, span, longest) in spans {
            if let Some(span) = span.filter(|span| !(SHORTEST..=longest).contains(span)) {
                return Err(Error::invalid(
                    field,
                    format!("is {span:?}"),
                    format!("use 1 ms to {} h", longest.as_secs() / 3600),
                ));
            }
        }
        check_floor(self.floor)?;
        self.capacity.check(kind)?;
        match &self.capacity {
            Capacity::Permits(permits) => most("permits", *permits, MOST)?,
            Capacity::Generated { count, prefix, .. } => {
                most("count", *count, MOST)?;
                check_resource("prefix", prefix)?;
            }
            Capacity::Resources { .. } => {}
        }
        let (limit, pool) = match &self.capacity {
            Capacity::Permits(permits) => (*permits, None),
            Capacity::Generated { order, prefix, count } => {
                let pool = Pool {
                    order: order.as_str(),
                    generated: (prefix, *count),
                    named: Vec::new(),
                };
                (*count, Some(pool))
            }
            Capacity::Resources { order, resources } => {
                let named = resources.iter().map(|one| Ok((one.name.as_str(), one.entry()?)));
                let pool = Pool {
                    order: order.as_str(),
                    generated: ("", 0),
                    named: named.collect::<Result<_, Error>>()?,
                };
                let in_service = resources.iter().filter(|one| !one.disabled).count();
                (in_service as u64, Some(pool))
            }
        };
        let recovery = self.recovery.map(|longest| longest.max(self.lease));
        Ok(Declare {
            digest: self.digest(),
            floor: self.floor,
            recovery_ms: recovery.unwrap_or_default().as_millis(),
            lease_ms: self.lease.as_millis(),
            max_hold_ms: self.max_hold.unwrap_or_default().as_millis(),
            limit,
            life: life.map(|life| (life.run.as_str(), life.newest)),
            pool,
        })
    }
}

/// Durations beyond the limits of a declaration count as the longest.
fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

impl Resource {
    /// The name, and the part of a digest: whether it is disabled, and its properties.
    fn canonical(&self) -> (&str, (bool, &BTreeMap<String, String>)) {
        let Self {
            name,
            properties,
            disabled,
        } = self;
        (name, (*disabled, properties))
    }

    /// A resource in service, without properties. The name is checked when the resource is declared, assigned or added.
    ///
    /// ```
    /// let seat = tenure::control::Resource::new("seat-a").property("host", "gpu-1");
    /// assert_eq!(seat.properties["host"], "gpu-1");
    /// ```
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            properties: BTreeMap::new(),
            disabled: false,
        }
    }

    /// The same resource with one more property, in place of one with the same key. Key and value may be any text; the
    /// limit of [`Resource::properties`] is checked when the resource is declared, assigned or added.
    ///
    /// ```
    /// let seat = tenure::control::Resource::new("seat-a").property("host", "gpu-1").property("zone", "b");
    /// assert_eq!(seat.properties.len(), 2);
    /// ```
    #[must_use]
    pub fn property(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.properties.insert(key.into(), value.into());
        self
    }

    pub(crate) fn entry(&self) -> Result<String, Error> {
        check_resource("resources.name", &self.name)?;
        let properties = if self.properties.is_empty() {
            String::new()
        } else {
            serde_json::to_string(&self.properties).map_err(|error| {
                Error::invalid("resources.properties", error.to_string(), "use plain text")
            })?
        };
        if properties.len() > LARGEST_PROPERTIES {
            return Err(Error::invalid(
                "resources.properties",
                format!("of {} have {} bytes as JSON", self.name, properties.len()),
                format!("use at most {LARGEST_PROPERTIES} bytes, and store more elsewhere under the name"),
            ));
        }
        Ok(format!("{}{properties}", u8::from(!self.disabled)))
    }
}

const SHORTEST: Duration = Duration::from_millis(1);
/// As the options of an acquisition have them.
const LONGEST_LEASE: Duration = Duration::from_secs(86_400);
const LONGEST_HOLD: Duration = Duration::from_secs(30 * 86_400);
/// Lua represents whole numbers exactly up to 2^53: a floor leaves room for as many tokens again.
const LARGEST_FLOOR: u64 = 1 << 52;
/// One reply lists 400 resources, and Redis closes a connection with subscriptions for which more than 32 MB wait.
const LARGEST_PROPERTIES: usize = 64 << 10;

fn most(field: &'static str, number: u64, most: u64) -> Result<(), Error> {
    if number <= most {
        return Ok(());
    }
    Err(Error::invalid(
        field,
        format!("is {number}"),
        format!("use at most {most}"),
    ))
}

pub(super) fn check_floor(floor: u64) -> Result<(), Error> {
    most("floor", floor, LARGEST_FLOOR)
}

/// Permits, or generated resources.
const MOST: u64 = 1 << 32;

/// Names of resources are joined by commas, in a line in which `-` means none.
pub(crate) fn check_resource(field: &'static str, name: &str) -> Result<(), Error> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if (1..=LONGEST_NAME).contains(&name.len()) && name != "-" && name.chars().all(allowed) {
        return Ok(());
    }
    Err(Error::invalid(
        field,
        format!("{name:?} cannot name a resource"),
        "use 1 to 253 ASCII letters, digits and - _ ., and not - alone",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resources(names: &[(&str, bool)]) -> Capacity {
        let resources = names.iter().map(|(name, disabled)| Resource {
            disabled: *disabled,
            ..Resource::new(*name)
        });
        Capacity::Resources {
            order: Order::Random,
            resources: resources.collect(),
        }
    }

    #[test]
    fn the_digest_is_the_same_in_every_version() {
        let three = Declaration::new(Capacity::Permits(3));
        assert_eq!(three.digest(), "f78e0778a8eb5b0385cdfb91ccf42529");
    }

    #[test]
    fn the_digest_differs_with_each_part_of_a_spec() {
        let generated = |order, prefix: &str, count| Capacity::Generated {
            order,
            prefix: prefix.to_owned(),
            count,
        };
        let with_property = Capacity::Resources {
            order: Order::Random,
            resources: vec![Resource::new("a").property("host", "gpu-1")],
        };
        let permits = || Declaration::new(Capacity::Permits(3));
        let capacities = [
            Capacity::Permits(3),
            Capacity::Permits(4),
            resources(&[("a", false)]),
            resources(&[("a", true)]),
            resources(&[("b", false)]),
            with_property,
            generated(Order::Random, "a", 1),
            generated(Order::Random, "b", 1),
            generated(Order::Random, "a", 2),
            generated(Order::LeastRecentlyUsed, "a", 1),
        ];
        let mut digests: Vec<_> = capacities
            .into_iter()
            .map(|capacity| Declaration::new(capacity).digest())
            .collect();
        let span = Duration::from_millis(30_001);
        digests.push(
            Declaration {
                lease: span,
                ..permits()
            }
            .digest(),
        );
        let max_hold = Some(span);
        digests.push(
            Declaration {
                max_hold,
                ..permits()
            }
            .digest(),
        );
        let all = digests.len();
        digests.sort();
        digests.dedup();
        assert_eq!(digests.len(), all);
    }

    #[test]
    fn the_digest_is_independent_of_the_order_of_resources_and_of_the_floor() {
        let ab = Declaration::new(resources(&[("a", false), ("b", false)]));
        let ba = Declaration::new(resources(&[("b", false), ("a", false)]));
        assert_eq!(ab.digest(), ba.digest());
        let raised = Declaration {
            floor: 1000,
            recovery: Some(Duration::from_secs(30)),
            ..ab.clone()
        };
        assert_eq!(ab.digest(), raised.digest());
    }

    #[test]
    fn a_resource_that_could_break_the_lists_is_refused() {
        for name in ["", "-", "a,b", "a b", "a\n"] {
            let resource = Resource {
                name: name.into(),
                properties: BTreeMap::new(),
                disabled: false,
            };
            assert!(
                resource
                    .entry()
                    .unwrap_err()
                    .to_string()
                    .starts_with("resources.name"),
                "{name:?}"
            );
        }
    }

    #[test]
    fn properties_beyond_the_limit_are_refused_by_the_name_of_their_resource() {
        // `{"k":""}` are 8 bytes more.
        let resource = |length: usize| Resource::new("seat-a").property("k", "x".repeat(length - 8));
        assert!(resource(LARGEST_PROPERTIES).entry().is_ok());
        let error = resource(LARGEST_PROPERTIES + 1).entry().unwrap_err().to_string();
        assert!(error.starts_with("resources.properties "), "{error}");
        assert!(
            error.contains("seat-a") && error.contains("65536 bytes"),
            "{error}"
        );
    }
}
