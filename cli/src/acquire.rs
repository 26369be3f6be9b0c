//! The request for a lease, as the subcommands that hold one share it.

use std::{collections::BTreeMap, time::Duration};

use clap::Args;
use tenure::{Client, Kind, Lease, Options};

use crate::{
    duration,
    exit::{Code, Failure},
    object::Object,
};

#[derive(Debug, Args)]
pub(crate) struct Request {
    /// Length of the lease: others wait for this long after a crash. A declared object's lease is the upper bound; 30s for a
    /// lock
    #[arg(long, value_parser = duration::parse, value_name = "DURATION")]
    pub(crate) ttl: Option<Duration>,

    /// Time to wait for the object; 0 does not wait. Without it, the wait has no end
    #[arg(long, value_parser = duration::parse, value_name = "DURATION")]
    pub(crate) timeout: Option<Duration>,

    /// Time for which the lease is renewed in all, so that a hung command lets go
    #[arg(long, value_parser = duration::parse, value_name = "DURATION")]
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
    #[arg(long, default_value_t = 1, value_name = "NUMBER")]
    pub(crate) permits: u32,

    /// Makes the semaphore with this many permits if no resource declares it
    #[arg(long, value_name = "NUMBER")]
    pub(crate) or_permits: Option<u32>,
}

/// A lease, with the resources of a lockpool.
pub(crate) struct Held {
    pub(crate) lease: Lease,
    pub(crate) resources: Vec<(String, BTreeMap<String, String>)>,
}

/// The longest possible wait stands for no limit.
const FOREVER: Duration = Duration::MAX;

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
        let mut resources = Vec::new();
        let lease = match object.kind {
            Kind::Pool => {
                let mut pool = client.lock_pool(name)?.with(options).many(amount.permits);
                if !amount.matching.is_empty() {
                    pool = pool.matching(amount.matching.iter().map(|(key, value)| (key, value)))?;
                }
                pool.acquire_timeout(within).await?.map(|lease| {
                    resources = lease.resources().to_vec();
                    lease.into_lease()
                })
            }
            Kind::Semaphore => {
                let mut semaphore = client.semaphore(name)?.with(options);
                if let Some(permits) = amount.or_permits {
                    semaphore = semaphore.or_permits(permits)?;
                }
                semaphore.acquire_many_timeout(amount.permits, within).await?
            }
            _ => client.lock(name)?.with(options).acquire_timeout(within).await?,
        };
        match lease {
            Some(lease) => Ok(Held { lease, resources }),
            None => Err(self.not_granted(object)),
        }
    }

    fn not_granted(&self, object: &Object) -> Failure {
        match self.timeout {
            Some(timeout) if !timeout.is_zero() => Failure::new(
                Code::Timeout,
                format!("{object} was not granted within {}", duration::exact(timeout)),
            ),
            _ => Failure::new(
                Code::Busy,
                format!("{object} is busy: others hold it or wait for it"),
            ),
        }
    }
}

impl Amount {
    pub(crate) fn one() -> Self {
        Self {
            matching: Vec::new(),
            permits: 1,
            or_permits: None,
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
