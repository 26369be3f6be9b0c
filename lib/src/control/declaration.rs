//! The declaration of an object by a custom resource, and its arguments for the script.

use std::{collections::BTreeMap, time::Duration};

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
///     digest: "generation 1".into(),
///     floor: 1_795_257_448_000_000,
///     recovery: None,
///     lease: Duration::from_secs(30),
///     max_hold: None,
///     capacity: Capacity::Permits(3),
/// };
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declaration {
    /// Stands for all other fields; a snapshot contains it, so that an unchanged declaration need not be repeated.
    pub digest: String,
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
    /// As the script wants it, planned for this life of the server's data, or for any.
    pub(super) fn call<'a>(&'a self, kind: Kind, life: Option<&'a Life>) -> Result<Declare<'a>, Error> {
        // In a snapshot, no digest means that the object is not declared.
        if self.digest.is_empty() {
            let fix = "use anything that differs between two declarations";
            return Err(Error::invalid("digest", "is empty", fix));
        }
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
            kind,
            digest: &self.digest,
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

impl Resource {
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
