//! The request for a lease, as the subcommands that hold one share it.

use std::{collections::BTreeMap, time::Duration};

use clap::Args;
use tenure::{Client, Kind, Lease, Options, PoolLease, ResourceState, control::Snapshot};

use crate::{
    duration,
    exit::{Code, Failure},
    object::Object,
    view::{model, table::reason, time::since},
};

#[derive(Debug, Args)]
pub(crate) struct Request {
    /// Length of the lease, such as 30s: others wait for this long after a crash. If absent, that of the declared object, which is
    /// also the longest; 30s for a lock
    #[arg(long, allow_hyphen_values = true, value_parser = duration::parse, value_name = "DURATION")]
    pub(crate) ttl: Option<Duration>,

    /// Time to wait for the object, such as 10m; 0 does not wait. If absent, the wait has no end
    #[arg(long, allow_hyphen_values = true, value_parser = duration::parse, value_name = "DURATION")]
    pub(crate) timeout: Option<Duration>,

    /// Longest time that the lease is held, with all renewals, such as 1h30m: it bounds the hold of a hung command
    #[arg(long, allow_hyphen_values = true, value_parser = duration::parse, value_name = "DURATION")]
    pub(crate) max_hold: Option<Duration>,

    /// Priority in the queue, from -128 to 127: a larger one is granted first
    #[arg(long, default_value_t = 0, allow_hyphen_values = true, value_name = "NUMBER")]
    pub(crate) priority: i8,

    /// Why the object is held, for the people who look: at most 256 bytes
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub(crate) reason: String,
}

/// The part of an object that is requested.
#[derive(Debug, Args)]
pub(crate) struct Amount {
    /// Only a resource of the lockpool with this property; may be repeated
    #[arg(long, value_parser = property, value_name = "KEY=VALUE")]
    pub(crate) matching: Vec<(String, String)>,

    /// Permits of the semaphore, or resources of the lockpool, in one lease
    #[arg(
        long,
        default_value_t = 1,
        allow_negative_numbers = true,
        value_name = "NUMBER"
    )]
    pub(crate) permits: u32,

    /// Makes the semaphore with this many permits if no custom resource declares it
    #[arg(long, allow_negative_numbers = true, value_name = "NUMBER")]
    pub(crate) or_permits: Option<u32>,
}

/// A lease, with the resources of a lockpool.
pub(crate) struct Held {
    pub(crate) lease: Lease,
    pub(crate) resources: Vec<(String, BTreeMap<String, String>)>,
}

impl From<Lease> for Held {
    fn from(lease: Lease) -> Self {
        Self {
            lease,
            resources: Vec::new(),
        }
    }
}

impl From<PoolLease> for Held {
    fn from(lease: PoolLease) -> Self {
        Self {
            resources: lease.resources().to_vec(),
            lease: lease.into_lease(),
        }
    }
}

/// The longest possible wait stands for no limit.
const FOREVER: Duration = Duration::MAX;
/// For the answers that only explain a wait.
const PATIENCE: Duration = Duration::from_secs(1);
/// The most entries of a queue of which the own position is looked for.
const LOOKED_AT: usize = 1000;

impl Request {
    pub(crate) fn options(&self) -> Options {
        let mut options = Options::new().priority(self.priority).reason(&self.reason);
        if let Some(ttl) = self.ttl {
            options = options.lease(ttl);
        }
        if let Some(max_hold) = self.max_hold {
            options = options.max_hold(max_hold);
        }
        options
    }

    /// The time to wait after `spent` has been spent on connecting.
    fn patience(&self, spent: Duration) -> Duration {
        self.timeout
            .map_or(FOREVER, |timeout| match timeout.saturating_sub(spent) {
                // It was not zero: a last attempt is due, and waits for its answer.
                left if left.is_zero() && !timeout.is_zero() => Duration::from_millis(1),
                left => left,
            })
    }

    /// Acquires the object. `spent` is the time that connecting has taken.
    pub(crate) async fn acquire(
        &self,
        client: &Client,
        object: &Object,
        amount: &Amount,
        spent: Duration,
    ) -> Result<Held, Failure> {
        amount.check(object).map_err(Failure::usage)?;
        let (options, within, name) = (self.options(), self.patience(spent), &object.name);
        let held = match object.kind {
            Kind::Pool => {
                let mut pool = client.lock_pool(name)?.with(options).many(amount.permits);
                if !amount.matching.is_empty() {
                    pool = pool.matching(amount.matching.iter().map(|(key, value)| (key, value)))?;
                }
                pool.acquire_timeout(within).await?.map(Held::from)
            }
            Kind::Semaphore => {
                let mut semaphore = client.semaphore(name)?.with(options);
                if let Some(permits) = amount.or_permits {
                    semaphore = semaphore.or_permits(permits)?;
                }
                let lease = semaphore.acquire_many_timeout(amount.permits, within).await?;
                lease.map(Held::from)
            }
            _ => {
                let lock = client.lock(name)?.with(options);
                lock.acquire_timeout(within).await?.map(Held::from)
            }
        };
        match held {
            Some(held) => Ok(held),
            None => Err(self.not_granted(client, object, amount).await),
        }
    }

    async fn not_granted(&self, client: &Client, object: &Object, amount: &Amount) -> Failure {
        let cause = tokio::time::timeout(PATIENCE, amount.obstacle(client, object)).await;
        let cause = cause.unwrap_or_default();
        match self.timeout {
            Some(timeout) if !timeout.is_zero() => {
                let cause = match cause {
                    Some(cause) => Some(cause),
                    None => holder(client, object).await,
                };
                let cause = cause.map_or_else(String::new, |cause| format!(": {cause}"));
                let timeout = duration::exact(timeout);
                Failure::new(
                    Code::Timeout,
                    format!("{object} was not granted within {timeout}{cause}"),
                )
            }
            _ => {
                let cause = cause.unwrap_or_else(|| "others hold it or wait for it".to_owned());
                Failure::new(Code::Busy, format!("{object} is busy: {cause}"))
            }
        }
    }
}

/// The holder of an object that was not granted, if Redis answers soon.
async fn holder(client: &Client, object: &Object) -> Option<String> {
    let full = object.of(client).ok()?;
    let control = client.control();
    let looked = tokio::time::timeout(PATIENCE, control.look(&full, 1)).await;
    held_by(&looked.ok()?.ok()??)
}

fn held_by(snapshot: &Snapshot) -> Option<String> {
    let holder = snapshot.holders.first()?;
    let reason = reason(&holder.reason).map_or_else(String::new, |reason| format!(" ({reason})"));
    let age = since(snapshot.now, holder.since);
    Some(format!(
        "held for {age} by {}{reason}",
        model::name(&holder.holder)
    ))
}

/// One line about the wait of this client: its position in the queue, a holder, and the reason for which nothing is granted.
pub(crate) async fn wait(client: &Client, object: &Object, amount: &Amount) -> Option<String> {
    let full = object.of(client).ok()?;
    let snapshot = client.control().look(&full, LOOKED_AT).await.ok()??;
    let own = |view: &tenure::control::WaiterView| view.holder == *client.identity();
    let waiting = match snapshot.waiters.iter().position(own) {
        Some(index) => format!("position {} of {} in the queue", index + 1, snapshot.waiting),
        None => format!("{} in the queue", snapshot.waiting),
    };
    let parts = [held_by(&snapshot), amount.obstacle(client, object).await];
    Some(
        parts
            .into_iter()
            .flatten()
            .fold(format!("waiting, {waiting}"), |line, part| {
                format!("{line}; {part}")
            }),
    )
}

impl Amount {
    pub(crate) fn one() -> Self {
        Self {
            matching: Vec::new(),
            permits: 1,
            or_permits: None,
        }
    }

    /// Why a lockpool cannot grant the request even if all holders released: its resources do not match, or are out of service.
    async fn obstacle(&self, client: &Client, object: &Object) -> Option<String> {
        if object.kind != Kind::Pool {
            return None;
        }
        let resources = client.lock_pool(&object.name).ok()?.list().await.ok()?;
        let asked = usize::try_from(self.permits).ok()?;
        let matching = resources.iter().filter(|resource| {
            let has = |(key, value): &(String, String)| resource.properties.get(key) == Some(value);
            self.matching.iter().all(has)
        });
        let matching: Vec<_> = matching.collect();
        let disabled = matching
            .iter()
            .filter(|resource| resource.state == ResourceState::Disabled);
        let in_service = matching.len() - disabled.count();
        let pairs = self.matching.iter().map(|(key, value)| format!("{key}={value}"));
        let which = match pairs.collect::<Vec<_>>().join(",") {
            none if none.is_empty() => String::new(),
            pairs => format!(" with {pairs}"),
        };
        if in_service >= asked {
            None
        } else if matching.is_empty() {
            Some(format!("it has no resource{which}"))
        } else if in_service == 0 {
            Some(format!("all its resources{which} are out of service"))
        } else {
            Some(format!(
                "of its resources{which}, {in_service} are in service, and {asked} are asked for"
            ))
        }
    }

    /// Arguments that do not go with the kind of the object.
    fn check(&self, object: &Object) -> Result<(), String> {
        let only = |flag: &str, kind: &str| {
            Err(format!(
                "{flag} is for a {kind}, and {object} is none: leave it out"
            ))
        };
        match object.kind {
            Kind::RwLock => Err(format!(
                "{object} cannot be acquired here: use lock, semaphore or lockpool"
            )),
            Kind::Lock if self.permits != 1 => only("--permits", "semaphore or lockpool"),
            kind if kind != Kind::Pool && !self.matching.is_empty() => only("--matching", "lockpool"),
            kind if kind != Kind::Semaphore && self.or_permits.is_some() => only("--or-permits", "semaphore"),
            _ => Ok(()),
        }
    }
}

fn property(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is no property: write KEY=VALUE")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn amount(matching: &[&str], permits: u32, or_permits: Option<u32>) -> Amount {
        Amount {
            matching: matching.iter().map(|text| property(text).unwrap()).collect(),
            permits,
            or_permits,
        }
    }

    #[test]
    fn an_argument_that_does_not_go_with_the_kind_is_named() {
        let check = |object: &str, amount: Amount| amount.check(&object.parse().unwrap());
        for (object, amount, named) in [
            ("lock/x", amount(&[], 2, None), "--permits"),
            ("lock/x", amount(&["a=b"], 1, None), "--matching"),
            ("sem/x", amount(&["a=b"], 1, None), "--matching"),
            ("lp/x", amount(&[], 1, Some(3)), "--or-permits"),
            ("rwlock/x", amount(&[], 1, None), "rwlock/x"),
        ] {
            let error = check(object, amount).unwrap_err();
            assert!(
                error.starts_with(named) && error.contains(object.rsplit('/').next().unwrap()),
                "{error}"
            );
        }
        assert!(check("lp/x", amount(&["a=b", "c="], 2, None)).is_ok());
        assert!(check("sem/x", amount(&[], 2, Some(3))).is_ok());
    }

    #[test]
    fn a_property_has_a_key() {
        assert_eq!(property("zone=a=b"), Ok(("zone".into(), "a=b".into())));
        assert!(property("zone").is_err() && property("=a").is_err());
    }

    #[test]
    fn connecting_takes_from_the_timeout_and_leaves_one_attempt() {
        let request = |timeout: Option<u64>| Request {
            ttl: None,
            timeout: timeout.map(Duration::from_secs),
            max_hold: None,
            priority: 0,
            reason: String::new(),
        };
        let spent = Duration::from_secs(2);
        assert_eq!(request(None).patience(spent), FOREVER);
        assert_eq!(request(Some(5)).patience(spent), Duration::from_secs(3));
        assert_eq!(request(Some(1)).patience(spent), Duration::from_millis(1));
        assert_eq!(request(Some(0)).patience(spent), Duration::ZERO);
    }
}
