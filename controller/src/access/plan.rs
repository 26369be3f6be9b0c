//! Plan: the decisions about the access of namespaces, as pure functions.
//!
//! The Secret is the truth about the passwords of a namespace, and the Redis user follows it. A new password is given to Redis before it
//! stands in the Secret, so that it opens Redis as soon as a pod can read it. Two controllers may draw different ones at the same time:
//! the API server takes one of them, because each write names the version that it was computed from. The other one stays valid
//! in Redis for a moment, until it counts as surplus.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use tenure::control::{ServerTenants, acl};
use tokio::time::Instant;

use crate::{
    access::{
        binding::Binding,
        secret::{self, Credentials, Previous},
    },
    password::Password,
};

/// A user or a password that this controller does not know is removed after this: another controller may have made it just now.
pub(crate) const SURPLUS_FOR: Duration = Duration::from_secs(1);
/// Passwords that are valid beside the current one, at most.
const MOST_PREVIOUS: usize = 8;

/// The ages of passwords.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ages {
    /// A password is replaced at this age.
    pub(crate) max_age: Option<Duration>,
    /// A password that was replaced stays valid for this long.
    pub(crate) overlap: Duration,
}

/// The state of one namespace.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts<'a> {
    pub(crate) namespace: &'a str,
    /// It may have access.
    pub(crate) allowed: bool,
    pub(crate) secret: Option<&'a Secret>,
    pub(crate) now: Timestamp,
    pub(crate) ages: Ages,
    pub(crate) binding: &'a Binding,
    /// The installation of this controller.
    pub(crate) installation: Option<&'a str>,
    /// Installations that are gone, so that their Secrets may be taken over.
    pub(crate) gone: &'a BTreeSet<String>,
}

/// The target of one namespace.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Decision {
    /// The SHA-256 of the passwords that are valid now. `None`: the namespace has no user.
    pub(crate) passwords: Option<BTreeSet<String>>,
    pub(crate) write: Option<Write>,
    /// The Secret is not the controller's, and stays as it is.
    pub(crate) foreign: Option<Foreign>,
    /// The Secret is another installation's, and so is the user, if both have one Redis.
    pub(crate) is_of_another: bool,
    /// The decision may be another one then, even if nothing happens.
    pub(crate) next: Option<Timestamp>,
}

/// The owner of a Secret that is not the controller's.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Foreign {
    /// Not Tenure.
    Program,
    /// Another installation.
    Installation(String),
}

/// A write of the Secret.
#[derive(Debug, PartialEq)]
pub(crate) enum Write {
    /// Make or change it, and the reason.
    Apply(Box<Secret>, Reason, BTreeSet<String>),
    Delete,
}

/// Why the Secret is written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Reason {
    /// It is missing.
    New,
    /// It has a new password.
    Rotated,
    /// It differs from what it should be.
    Changed,
}

/// Decides about one namespace. `draw` makes a password.
pub(crate) fn decide<E>(
    facts: &Facts<'_>,
    draw: impl FnOnce() -> Result<Password, E>,
) -> Result<Decision, E> {
    let Facts {
        namespace,
        now,
        ages,
        binding,
        ..
    } = *facts;
    let foreign = facts.secret.and_then(|secret| foreign(secret, facts));
    let ours = facts.secret.filter(|_| foreign.is_none());
    let is_of_another = matches!(foreign, Some(Foreign::Installation(_)));
    if !facts.allowed {
        let deleted = ours.filter(|secret| secret.metadata.deletion_timestamp.is_none());
        return Ok(Decision {
            write: deleted.map(|_| Write::Delete),
            is_of_another,
            ..Decision::default()
        });
    }
    // The watch delivers only names that the API server has accepted, and the prefix was checked at the start.
    let Ok(user) = acl::tenant_user(&binding.key_prefix, namespace) else {
        return Ok(Decision::default());
    };
    if foreign.is_some() {
        return Ok(Decision {
            foreign,
            is_of_another,
            ..Decision::default()
        });
    }
    let found = ours.and_then(secret::read);
    let valid_now = found.as_ref().map(|found| valid(found, ages, now));
    if ours.is_some_and(|secret| secret.metadata.deletion_timestamp.is_some()) {
        return Ok(Decision {
            passwords: valid_now,
            ..Decision::default()
        });
    }
    let request = ours.and_then(secret::request).map(str::to_owned);
    let (credentials, reason) = match found {
        None => {
            let made = Credentials {
                password: draw()?,
                since: now,
                previous: Vec::new(),
                answered: request,
            };
            (made, Reason::New)
        }
        Some(found) if is_due(&found, request.as_deref(), ages, now) => {
            let mut previous = kept(&found, ages, now);
            previous.push(Previous {
                hash: found.password.hash(),
                until: now.saturating_add(signed(ages.overlap)).unwrap_or(Timestamp::MAX),
            });
            let surplus = previous.len().saturating_sub(MOST_PREVIOUS);
            let made = Credentials {
                password: draw()?,
                since: now,
                previous: previous.split_off(surplus),
                answered: request.or(found.answered),
            };
            (made, Reason::Rotated)
        }
        Some(found) => {
            let previous = kept(&found, ages, now);
            (Credentials { previous, ..found }, Reason::Changed)
        }
    };
    let mut rendered = secret::render(namespace, &user, &credentials, binding, facts.installation);
    let is_written = ours.is_none_or(|ours| secret::differs(ours, &rendered));
    let next = next_change(&credentials, ages);
    let passwords = valid(&credentials, ages, now);
    rendered.metadata.resource_version = match ours {
        Some(ours) => ours.resource_version(),
        // No object has this version: the API server makes the Secret, and refuses to change one that another process has made.
        None => Some("1".to_owned()),
    };
    Ok(Decision {
        passwords: if is_written {
            valid_now
        } else {
            Some(passwords.clone())
        },
        write: is_written.then(|| Write::Apply(Box::new(rendered), reason, passwords)),
        foreign: None,
        is_of_another: false,
        next: Some(next).filter(|next| *next < Timestamp::MAX),
    })
}

/// Returns who keeps the Secret. `None`: this installation does, or takes it over.
fn foreign(secret: &Secret, facts: &Facts<'_>) -> Option<Foreign> {
    if !secret::is_ours(secret) {
        return Some(Foreign::Program);
    }
    let other = secret::installation(secret)?;
    let is_left = Some(other) != facts.installation && !facts.gone.contains(other);
    is_left.then(|| Foreign::Installation(other.to_owned()))
}

/// The password is to be replaced.
fn is_due(found: &Credentials, request: Option<&str>, ages: Ages, now: Timestamp) -> bool {
    let is_requested = request.is_some() && request != found.answered.as_deref();
    let is_old = ages
        .max_age
        .is_some_and(|max_age| now.duration_since(found.since) >= signed(max_age));
    is_requested || is_old
}

/// The previous passwords that are still valid.
fn kept(credentials: &Credentials, ages: Ages, now: Timestamp) -> Vec<Previous> {
    // The overlap bounds each of them, because other users may write the annotation.
    let latest = credentials
        .since
        .saturating_add(signed(ages.overlap))
        .unwrap_or(Timestamp::MAX);
    let previous = credentials.previous.iter();
    previous
        .filter(|one| one.until.min(latest) > now)
        .cloned()
        .collect()
}

/// The SHA-256 of all passwords that are valid.
fn valid(credentials: &Credentials, ages: Ages, now: Timestamp) -> BTreeSet<String> {
    let previous = kept(credentials, ages, now).into_iter().map(|one| one.hash);
    previous.chain([credentials.password.hash()]).collect()
}

fn next_change(credentials: &Credentials, ages: Ages) -> Timestamp {
    let after = |span| {
        credentials
            .since
            .saturating_add(signed(span))
            .unwrap_or(Timestamp::MAX)
    };
    let ends = credentials
        .previous
        .iter()
        .map(|one| one.until.min(after(ages.overlap)));
    let old = ages.max_age.map(after);
    ends.chain(old).min().unwrap_or(Timestamp::MAX)
}

fn signed(span: Duration) -> SignedDuration {
    SignedDuration::try_from(span).unwrap_or(SignedDuration::MAX)
}

/// The calls of Redis that give each server its users.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Users {
    pub(crate) set: BTreeMap<String, BTreeSet<String>>,
    pub(crate) remove: BTreeSet<String>,
    /// Something is surplus for too short a time to be removed.
    pub(crate) waits: bool,
}

/// Users and passwords that no Secret has, and when each was seen first.
#[derive(Debug, Default)]
pub(crate) struct Surplus(HashMap<(String, Option<String>), Instant>);

impl Surplus {
    /// Compares the users that servers have with those that they should have. Users of others are left alone.
    pub(crate) fn plan(
        &mut self,
        wanted: &BTreeMap<String, BTreeSet<String>>,
        servers: &[ServerTenants],
        is_of_others: impl Fn(&str) -> bool,
        now: Instant,
    ) -> Users {
        let (mut users, mut seen) = (Users::default(), HashMap::new());
        // A password that another controller may just have made stays when a user is written.
        let mut fresh: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        let mut written = BTreeSet::new();
        for found in servers.iter().filter_map(|server| server.users.as_ref().ok()) {
            for (namespace, passwords) in wanted {
                let user = found.get(namespace);
                if user.is_none_or(|user| !user.has_rules || !passwords.is_subset(&user.passwords)) {
                    written.insert(namespace.as_str());
                }
                let others = user.iter().flat_map(|user| user.passwords.difference(passwords));
                for other in others {
                    if self.is_over(&mut seen, (namespace, Some(other)), now) {
                        written.insert(namespace);
                    } else {
                        fresh.entry(namespace).or_default().insert(other);
                        users.waits = true;
                    }
                }
            }
            for namespace in found.keys() {
                if wanted.contains_key(namespace) || is_of_others(namespace) {
                    continue;
                }
                if self.is_over(&mut seen, (namespace, None), now) {
                    users.remove.insert(namespace.clone());
                } else {
                    users.waits = true;
                }
            }
        }
        self.0 = seen;
        for namespace in written {
            let fresh = fresh.remove(namespace).unwrap_or_default();
            let passwords = wanted[namespace].iter().map(String::as_str).chain(fresh);
            users
                .set
                .insert(namespace.to_owned(), passwords.map(str::to_owned).collect());
        }
        users
    }

    /// Notes that something is surplus; returns whether it has been for long enough.
    fn is_over(
        &self,
        seen: &mut HashMap<(String, Option<String>), Instant>,
        (namespace, password): (&str, Option<&String>),
        now: Instant,
    ) -> bool {
        let key = (namespace.to_owned(), password.cloned());
        let since = self.0.get(&key).copied().unwrap_or(now);
        seen.insert(key, since);
        now.duration_since(since) >= SURPLUS_FOR
    }
}
