//! The library on its in-memory twin, in virtual time: what takes long or goes wrong seldom.

// Clippy's allowance for tests reaches only functions that are marked as such, and not what they share.
#![allow(clippy::unwrap_used)]

mod adoption;
mod bounds;
mod connection;
mod damage;
mod drops;
mod extremes;
mod first_users;
mod late;
mod options;
mod owners;
mod pools;
mod runtimes;
mod selectors;
mod simulation;
mod suspend;
mod time;
mod timeouts;
mod while_held;

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tenure::{
    Client, Identity, Kind, Memory, ObjectRef,
    control::{Capacity, Declaration, Order, Resource},
    memory::Fault,
};

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A client whose process has this name.
async fn client(memory: &Memory, process: &str) -> Result<Client> {
    let mut identity = Identity::from_env();
    process.clone_into(&mut identity.process);
    Ok(memory
        .client()
        .namespace("test")
        .identity(identity)
        .connect()
        .await?)
}

fn object(kind: Kind, name: &str) -> Result<ObjectRef> {
    Ok(ObjectRef::new(kind, "test", name)?)
}

async fn declare_semaphore(client: &Client, name: &str, permits: u64) -> Result<ObjectRef> {
    let object = object(Kind::Semaphore, name)?;
    client.control().declare(&object, &semaphore(permits)).await?;
    Ok(object)
}

fn semaphore(permits: u64) -> Declaration {
    Declaration {
        floor: 1000,
        recovery: None,
        lease: Duration::from_secs(30),
        max_hold: None,
        capacity: Capacity::Permits(permits),
    }
}

fn generated(order: Order, prefix: &str, count: u64) -> Declaration {
    Declaration {
        capacity: Capacity::Generated {
            order,
            prefix: prefix.to_owned(),
            count,
        },
        ..semaphore(0)
    }
}

fn pool(resources: &[&str]) -> Declaration {
    let resource = |name: &&str| Resource {
        name: (*name).to_owned(),
        properties: BTreeMap::new(),
        disabled: false,
    };
    Declaration {
        capacity: Capacity::Resources {
            order: Order::LeastRecentlyUsed,
            resources: resources.iter().map(resource).collect(),
        },
        ..semaphore(0)
    }
}

/// Nothing that this process sends arrives any more, and nothing reaches it: to the others, it has crashed.
fn silence(memory: &Memory, process: &'static str) {
    memory.set_faults(move |of, _| {
        if of == process {
            Fault::Drop
        } else {
            Fault::Deliver
        }
    });
}

/// Runs all tasks until none can make progress.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}
