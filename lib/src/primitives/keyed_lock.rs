//! A lock that a namespace and parameters name.
//!
//! The parameters make a key, a UUID of version 5 (see [`Params`](crate::Params)), and the key names an ordinary
//! [`Lock`]: `<namespace>:<key>`, where an underscore replaces each character of the namespace that a name cannot
//! contain, and a namespace that is too long is cut. The key alone identifies the lock; the namespace is there for
//! readers.
//!
//! The behaviour of Superset's `KeyValueDistributedLock`, and the one of this lock:
//!
//! | line | there | here | test |
//! |---|---|---|---|
//! | K1 | the lock yields its key, a UUID | [`KeyedLock::key`] and [`KeyedLease::key`] | `k1_the_guard_shows_the_key` |
//! | K2 | `uuid5(uuid5(DNS, namespace), text)` | the same | `k2_to_k6_…` in `params.rs` |
//! | K3 | the order of parameters changes the key, by mistake | as there with `Params::superset`; sorted with `Params::new` | `k3_…` in `params.rs` |
//! | K4 | JSON as simplejson writes it, NaN is `null` | the same; the canonical form refuses NaN, which is not `null` | `k4_…` in `params.rs` |
//! | K5 | other types by their text, decimals by their digits | the same text by the caller, [`ParamValue::number`](crate::ParamValue::number) for digits | `k5_…` in `params.rs` |
//! | K6 | always SHA-1 | the same | `k2_to_k6_…` in `params.rs` |
//! | K7 | look, purge, insert: three statements; no parameter called `namespace` | one script; refused in Superset's form | `k7_…` here and in `params.rs` |
//! | K8 | taken: fails at once, callers poll | `try_acquire` returns `None` at once, `acquire` waits its turn without polling | `k8_taken_…` |
//! | K9 | 30 s, however long the work takes | 30 s by default ([`Options::lease`]), renewed while held | `k9_…` |
//! | K10 | not reentrant; other parameters are other locks; none make the key of `{}` | the same | `k10_…` |
//! | K11 | releasing a lost lock succeeds silently | [`Error::Lost`]: another client may have worked meanwhile | `k11_…` |
//! | K12 | an outage looks like a lock that is taken | [`Error::Unreachable`], and never `None` | `k12_…` |
//! | 6.1 | entry `lock:<namespace>:<key>`, which any client can delete | the object's own keys, by token, under the same key | `k1_…` |

use std::{ops::Deref, time::Duration};

use uuid::Uuid;

use crate::{
    Error, Lease, Lock, ObjectRef, Options,
    protocol::name::{LONGEST_NAME, allowed_in_name},
};

/// A lock that a namespace and parameters name: one holder at a time for "this job, with these arguments".
///
/// In all else it is a [`Lock`]: fair, leased, renewed while held, not reentrant. Clients with the same key share the
/// lock, and different namespaces or parameters never do, except by a collision of UUIDs (SHA-1, 122 bits).
///
/// An array of pairs makes the parameters if all values have one type. [`params!`](crate::params!) takes values of different
/// types.
///
/// # When Redis is gone
/// As for any lock: see [`Lease`].
///
/// ```no_run
/// # async fn run(client: tenure::Client) -> Result<(), tenure::Error> {
/// use tenure::Params;
///
/// // Skip the work if another client does it already.
/// let report = client.keyed_lock("report", Params::new().with("year", 2024).with("region", "eu"))?;
/// if let Some(lease) = report.try_acquire().await? {
///     println!("we write it, under {}", lease.key());
///     lease.release().await?;
/// }
///
/// // Under the key that Apache Superset makes.
/// let refresh = Params::superset().with("user_id", 42).with("database_id", 3);
/// let lease = client.keyed_lock("refresh_oauth2_token", refresh)?.acquire().await?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct KeyedLock {
    lock: Lock,
    key: Uuid,
}

impl KeyedLock {
    pub(crate) fn new(lock: Lock, key: Uuid) -> Self {
        Self { lock, key }
    }

    /// The same lock, acquired with these options.
    ///
    /// ```no_run
    /// # fn run(report: tenure::KeyedLock) -> tenure::KeyedLock {
    /// report.with(tenure::Options::new().reason("monthly"))
    /// # }
    /// ```
    #[must_use]
    pub fn with(self, options: Options) -> Self {
        Self {
            lock: self.lock.with(options),
            key: self.key,
        }
    }

    /// The key that namespace and parameters make.
    ///
    /// ```no_run
    /// # fn run(report: tenure::KeyedLock) {
    /// println!("{}", report.key());
    /// # }
    /// ```
    #[must_use]
    pub fn key(&self) -> Uuid {
        self.key
    }

    /// The lock's full name.
    ///
    /// ```no_run
    /// # fn run(report: tenure::KeyedLock) {
    /// println!("{}", report.object()); // default/lock/report:5f0e...
    /// # }
    /// ```
    #[must_use]
    pub fn object(&self) -> &ObjectRef {
        self.lock.object()
    }

    /// The lock itself, for all else that a [`Lock`] can do.
    ///
    /// ```no_run
    /// # async fn run(report: tenure::KeyedLock) -> Result<(), tenure::Error> {
    /// if let Some(view) = report.as_lock().holder().await? {
    ///     println!("{} holds the lock", view.holder.process);
    /// }
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn as_lock(&self) -> &Lock {
        &self.lock
    }

    /// Waits until the lock is ours: see [`Lock::acquire`].
    ///
    /// # Errors
    /// As [`Lock::acquire`].
    ///
    /// # Cancel safety
    /// As [`Lock::acquire`].
    ///
    /// ```no_run
    /// # async fn run(report: tenure::KeyedLock) -> Result<(), tenure::Error> {
    /// let lease = report.acquire().await?;
    /// # Ok(()) }
    /// ```
    pub async fn acquire(&self) -> Result<KeyedLease, Error> {
        let lease = self.lock.acquire().await?;
        Ok(self.held(lease))
    }

    /// Waits for at most `timeout`: see [`Lock::acquire_timeout`].
    ///
    /// # Errors
    /// As [`Lock::acquire_timeout`].
    ///
    /// # Cancel safety
    /// As [`Lock::acquire`].
    ///
    /// ```no_run
    /// # async fn run(report: tenure::KeyedLock) -> Result<(), tenure::Error> {
    /// let within = std::time::Duration::from_secs(1);
    /// let lease = report.acquire_timeout(within).await?;
    /// # Ok(()) }
    /// ```
    pub async fn acquire_timeout(&self, timeout: Duration) -> Result<Option<KeyedLease>, Error> {
        let lease = self.lock.acquire_timeout(timeout).await?;
        Ok(lease.map(|lease| self.held(lease)))
    }

    /// Takes the lock if it is free and has no waiter, else returns `None` at once: see [`Lock::try_acquire`].
    ///
    /// # Errors
    /// As [`Lock::try_acquire`].
    ///
    /// # Cancel safety
    /// As [`Lock::acquire`].
    ///
    /// ```no_run
    /// # async fn run(report: tenure::KeyedLock) -> Result<(), tenure::Error> {
    /// if report.try_acquire().await?.is_none() {
    ///     println!("another client writes it");
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn try_acquire(&self) -> Result<Option<KeyedLease>, Error> {
        let lease = self.lock.try_acquire().await?;
        Ok(lease.map(|lease| self.held(lease)))
    }

    fn held(&self, lease: Lease) -> KeyedLease {
        KeyedLease { lease, key: self.key }
    }
}

/// A [`Lease`] of a [`KeyedLock`], with its key.
///
/// ```no_run
/// # async fn run(client: tenure::Client) -> Result<(), tenure::Error> {
/// let lease = client.keyed_lock("report", [("year", 2024)])?.acquire().await?;
/// lease.check()?; // all that a lease can do
/// println!("{} under fencing token {}", lease.key(), lease.fencing_token());
/// # Ok(()) }
/// ```
#[derive(Debug)]
#[must_use = "dropping a lease gives it back at once"]
pub struct KeyedLease {
    lease: Lease,
    key: Uuid,
}

impl KeyedLease {
    /// The key that is locked.
    ///
    /// ```no_run
    /// # fn run(lease: tenure::KeyedLease) {
    /// println!("{}", lease.key());
    /// # }
    /// ```
    #[must_use]
    pub fn key(&self) -> Uuid {
        self.key
    }

    /// The lease alone, for code that holds leases of any object, or detaches it: [`KeyedLock::as_lock`] adopts.
    ///
    /// ```no_run
    /// # fn run(lease: tenure::KeyedLease) {
    /// let lease: tenure::Lease = lease.into_lease();
    /// # }
    /// ```
    pub fn into_lease(self) -> Lease {
        self.lease
    }

    /// Gives the lock back: see [`Lease::release`].
    ///
    /// # Errors
    /// As [`Lease::release`].
    ///
    /// # Cancel safety
    /// As [`Lease::release`].
    ///
    /// ```no_run
    /// # async fn run(lease: tenure::KeyedLease) -> Result<(), tenure::Error> {
    /// lease.release().await
    /// # }
    /// ```
    pub async fn release(self) -> Result<(), Error> {
        self.lease.release().await
    }
}

impl Deref for KeyedLease {
    type Target = Lease;

    fn deref(&self) -> &Lease {
        &self.lease
    }
}

/// The name of a key's lock. The key comes from the whole namespace: what is lost of it here makes no two locks one.
pub(crate) fn name(namespace: &str, key: Uuid) -> String {
    const ROOM: usize = LONGEST_NAME - 1 - uuid::fmt::Hyphenated::LENGTH;
    let shown = namespace
        .chars()
        .map(|c| if allowed_in_name(c) { c } else { '_' });
    let shown: String = shown.take(ROOM).collect();
    format!("{shown}:{key}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Kind, Params};

    #[test]
    fn k2_any_namespace_makes_a_name_and_no_two_the_same() {
        let long = "x".repeat(300);
        let namespaces = [
            "",
            "report",
            "a b",
            "a_b",
            "a}b",
            "Grüße",
            &long,
            &format!("{long}y"),
            "a:b",
            "a\nb",
        ];
        let mut names: Vec<_> = namespaces
            .iter()
            .map(|namespace| name(namespace, Params::new().key(namespace).unwrap()))
            .collect();
        for name in &names {
            ObjectRef::new(Kind::Lock, "default", name).unwrap();
        }
        assert!(
            names[2].starts_with("a_b:") && names[5].starts_with("Gr__e:"),
            "{names:?}"
        );
        assert!(names[1].starts_with("report:"));
        names.sort();
        names.dedup();
        assert_eq!(names.len(), namespaces.len());
    }

    #[test]
    fn what_looks_alike_is_not_the_same_lock() {
        // The parts of a name cannot be shifted into one another.
        let key = |namespace: &str, params: Params| name(namespace, params.key(namespace).unwrap());
        let names = [
            key("a", Params::new().with("b", "c")),
            key("a", Params::new().with("b", "c\", \"d\": \"e")),
            key("a", Params::new().with("b", "c").with("d", "e")),
            key("a", Params::new().with("b", 1)),
            key("a", Params::new().with("b", 1.0)),
            key("a", Params::new().with("b", "1")),
            key("a", Params::new().with("b", true)),
            key("a", Params::new().with("b", None::<bool>)),
            key("a", Params::new().with("b", "null")),
            key("a{\"b\": \"c\"}", Params::new()),
        ];
        for (i, one) in names.iter().enumerate() {
            assert!(names[i + 1..].iter().all(|other| other != one), "{one}");
        }
    }
}
