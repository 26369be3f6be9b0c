//! Installations: which one manages an object. Two installations that watch the same namespaces, each with a Redis of its own,
//! would grant each seat twice. The status of an object therefore names the installation that manages it, and the first status
//! write decides, because it carries a resource version.
//!
//! An installation is identified by a Lease, which the chart makes and `helm uninstall` removes. Nothing renews the Lease: it
//! states that the installation exists, and not that its controller runs. When the Lease is gone, another installation may take
//! the objects over. A Lease that cannot be read is taken for one that exists.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use k8s_openapi::{api::coordination::v1::Lease, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{Api, Client};
use tokio::time::Instant;

use crate::{
    apply::post_params,
    failure::{Failure, bounded},
    lock::lock,
};

/// A Lease that was read is read again after this.
const READ_EVERY: Duration = Duration::from_secs(10);
/// An object of another installation is looked at again after this.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_secs(15);

/// The own installation, and what is known of the others.
pub(crate) struct Installations {
    client: Client,
    own: Option<String>,
    /// The API server drops the field of the status, because the definitions are older than the controller.
    unsupported: AtomicBool,
    /// The Leases that were read last. Locked during a call, so that one call serves all reconciliations that wait for it.
    known: tokio::sync::Mutex<HashMap<String, (Instant, Owner)>>,
    /// The installations that the log has named.
    logged: Mutex<HashSet<String>>,
}

/// The state of the installation that an object names.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Owner {
    /// Its Lease exists.
    Installed,
    /// Its Lease is gone, so that another installation may take its objects over.
    Gone,
    /// That is not known, and why.
    Unknown(String),
}

impl Installations {
    /// `own` is the own Lease, as `NAMESPACE/NAME`.
    pub(crate) fn new(client: &Client, own: Option<&str>) -> Self {
        Self {
            client: client.clone(),
            own: own.map(str::to_owned),
            unsupported: AtomicBool::new(false),
            known: tokio::sync::Mutex::default(),
            logged: Mutex::default(),
        }
    }

    /// The installation of this controller.
    pub(crate) fn own(&self) -> Option<&str> {
        self.own.as_deref()
    }

    /// The installation that is recorded in the objects of this controller. `None`: the definitions lack the field.
    pub(crate) fn recorded_as(&self) -> Option<&str> {
        let is_supported = !self.unsupported.load(Ordering::Relaxed);
        self.own.as_deref().filter(|_| is_supported)
    }

    /// Returns whether an object that names `controller` is that of another installation.
    pub(crate) fn is_another(&self, controller: Option<&str>) -> bool {
        is_another(controller, self.own())
    }

    /// Makes the own Lease if it is missing.
    pub(crate) async fn start(&self) {
        let Some(own) = &self.own else { return };
        if self.owner(own).await != Owner::Gone {
            return;
        }
        if let Err(failure) = self.make(own).await {
            tracing::warn!(installation = own, error = %failure, "the Lease of this installation is missing and cannot be made, so that \
                another installation may take its objects over: make it with kubectl, or allow to create Leases in its namespace");
        }
        self.known.lock().await.clear();
    }

    async fn make(&self, own: &str) -> Result<(), Failure> {
        let (api, name) = self.api(own);
        let metadata = ObjectMeta {
            name: Some(name.to_owned()),
            ..ObjectMeta::default()
        };
        let lease = Lease { metadata, spec: None };
        match bounded(api.create(&post_params(), &lease)).await {
            // Another controller of the installation has made it.
            Err(failure) if !failure.is_outdated() => Err(failure),
            _ => Ok(()),
        }
    }

    /// Returns whether the objects of another installation may be taken over.
    pub(crate) async fn find(&self, other: &str) -> Owner {
        let owner = self.owner(other).await;
        let (Owner::Gone, Some(own)) = (&owner, self.own()) else {
            return owner;
        };
        // Two installations without Leases would take the objects from each other in turns.
        match self.owner(own).await {
            Owner::Installed => owner,
            Owner::Gone => Owner::Unknown(format!("the own Lease {own} is missing")),
            unknown @ Owner::Unknown(_) => unknown,
        }
    }

    async fn owner(&self, installation: &str) -> Owner {
        let mut known = self.known.lock().await;
        if let Some((at, owner)) = known.get(installation)
            && at.elapsed() < READ_EVERY
        {
            return owner.clone();
        }
        let (api, name) = self.api(installation);
        let owner = match bounded(api.get_metadata_opt(name)).await {
            Ok(Some(_)) => Owner::Installed,
            Ok(None) => Owner::Gone,
            Err(failure) => Owner::Unknown(format!("the Lease {installation} cannot be read: {failure}")),
        };
        known.insert(installation.to_owned(), (Instant::now(), owner.clone()));
        owner
    }

    fn api<'a>(&self, installation: &'a str) -> (Api<Lease>, &'a str) {
        // A value without a slash names no Lease that is there.
        let (namespace, name) = installation.split_once('/').unwrap_or(("default", installation));
        (Api::namespaced(self.client.clone(), namespace), name)
    }

    /// Notes that the status of an object names this installation after it was written, or does not.
    pub(crate) fn recorded(&self, controller: Option<&str>) {
        if controller.is_none() && !self.unsupported.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "the definitions of LockPool and Semaphore are older than the controller, so that no object records its installation: \
                 apply the definitions of this version, and restart the controller"
            );
        }
    }

    /// Logs once that the objects of another installation are left alone.
    pub(crate) fn log_once(&self, other: &str) {
        if lock(&self.logged).insert(other.to_owned()) {
            tracing::warn!(
                installation = self.own,
                other,
                "another installation manages objects in the namespaces of this one, which leaves them alone: uninstall one of the two, \
                 or give them different namespaces"
            );
        }
    }
}

/// Returns whether an object that names `controller` is that of another installation than `own`.
pub(crate) fn is_another(controller: Option<&str>, own: Option<&str>) -> bool {
    controller.is_some() && controller != own
}

#[cfg(test)]
mod tests;
