//! The name of an object, its keys, and the states of a pool's resources.

use std::{fmt, sync::Arc};

/// The kinds of objects.
///
/// ```
/// assert_eq!(tenure::Kind::Pool.to_string(), "pool");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Kind {
    /// One holder at a time.
    Lock,
    /// Many readers, or one writer.
    RwLock,
    /// A number of permits.
    Semaphore,
    /// Named resources.
    Pool,
    /// One value. It has no holder, and no resource declares it.
    Register,
}

impl Kind {
    pub(crate) const ALL: [Self; 5] = [
        Self::Lock,
        Self::RwLock,
        Self::Semaphore,
        Self::Pool,
        Self::Register,
    ];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Lock => "lock",
            Self::RwLock => "rwlock",
            Self::Semaphore => "semaphore",
            Self::Pool => "pool",
            Self::Register => "register",
        }
    }

    /// The custom resource that declares objects of this kind, if one does.
    pub(crate) fn resource(self) -> Option<&'static str> {
        match self {
            Self::Semaphore => Some("Semaphore"),
            Self::Pool => Some("LockPool"),
            Self::Lock | Self::RwLock | Self::Register => None,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An object's full name: namespace, kind and name. Two objects with one full name are the same object.
///
/// Namespaces are Kubernetes namespaces (DNS labels of at most 63 characters). Names have 1 to 253 characters: ASCII
/// letters, digits and `- _ . : / @`, so that no name can break a key.
///
/// ```
/// use tenure::{Kind, ObjectRef};
///
/// let seats = ObjectRef::new(Kind::Pool, "ml", "gpu-seats")?;
/// assert_eq!(seats.to_string(), "ml/pool/gpu-seats");
/// assert!(ObjectRef::new(Kind::Pool, "ml", "gpu}seats").is_err());
/// # Ok::<(), tenure::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectRef {
    kind: Kind,
    namespace: Arc<str>,
    name: Arc<str>,
}

impl ObjectRef {
    /// An object whose names are checked.
    pub(super) fn checked(kind: Kind, namespace: &str, name: &str) -> Self {
        Self {
            kind,
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// The object's kind.
    ///
    /// ```
    /// let seats = tenure::ObjectRef::new(tenure::Kind::Pool, "ml", "gpu-seats")?;
    /// assert_eq!(seats.kind(), tenure::Kind::Pool);
    /// # Ok::<(), tenure::Error>(())
    /// ```
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The Kubernetes namespace that it belongs to.
    ///
    /// ```
    /// let seats = tenure::ObjectRef::new(tenure::Kind::Pool, "ml", "gpu-seats")?;
    /// assert_eq!(seats.namespace(), "ml");
    /// # Ok::<(), tenure::Error>(())
    /// ```
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Its name within kind and namespace.
    ///
    /// ```
    /// let seats = tenure::ObjectRef::new(tenure::Kind::Pool, "ml", "gpu-seats")?;
    /// assert_eq!(seats.name(), "gpu-seats");
    /// # Ok::<(), tenure::Error>(())
    /// ```
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The object's keys, in the order in which every script expects them. They share one hash tag, so that Redis
    /// Cluster keeps them on one node.
    pub(crate) fn keys(&self, prefix: &str) -> Vec<Arc<str>> {
        let parts: &[&str] = match self.kind {
            Kind::Lock => &["obj", "holders", "queue", "expiry", "waits"],
            Kind::RwLock | Kind::Semaphore => &["obj", "holders", "queue", "expiry"],
            Kind::Pool => &[
                "obj",
                "holders",
                "queue",
                "expiry",
                "resources",
                "free",
                "selectors",
            ],
            Kind::Register => &["value", "done"],
        };
        let mut key = format!("{prefix}:{{{self}}}:");
        let stem = key.len();
        let keys = parts.iter().map(|part| {
            key.truncate(stem);
            key.push_str(part);
            Arc::from(key.as_str())
        });
        keys.collect()
    }

    /// Returns the command by which a person removes the object's keys from Redis, and with them all leases: of a damaged object, or
    /// of one whose keys were left behind. The Redis user of the namespace and that of the controller may run it. `URL` stands for
    /// the address of Redis.
    ///
    /// ```
    /// let object = tenure::ObjectRef::new(tenure::Kind::Register, "ml", "x")?;
    /// let command = "redis-cli -u URL unlink 'tenure:{ml/register/x}:value' 'tenure:{ml/register/x}:done'";
    /// assert_eq!(object.removal_command("tenure"), command);
    /// # Ok::<(), tenure::Error>(())
    /// ```
    #[must_use]
    pub fn removal_command(&self, prefix: &str) -> String {
        let keys = self.keys(prefix);
        format!("redis-cli -u URL unlink '{}'", keys.join("' '"))
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.namespace, self.kind, self.name)
    }
}
/// The state of a resource.
///
/// ```
/// assert_ne!(tenure::ResourceState::Free, tenure::ResourceState::Held);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ResourceState {
    /// It can be granted.
    Free,
    /// The resource is held.
    Held,
    /// It is out of service, held or not.
    Disabled,
    /// The data of the resource in Redis cannot be read. It is not granted until it is declared or added again.
    Damaged,
}
