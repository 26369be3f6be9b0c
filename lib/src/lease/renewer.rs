//! Renews the entries of the registry that are due: many leases and queue entries in one command, over many objects.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::{sync::mpsc, time::Instant};
use tracing::debug;

use crate::{Error, ObjectRef};
use crate::{
    lease::{
        hold::Hold,
        machine::held::Action,
        registry::{Item, LeaseRegistry},
        releaser::Job,
    },
    protocol::{
        calls::{Ending, Object, Readmit, Renew, Renewals, Renewed},
        unusable,
    },
    transport::{
        later,
        router::{Failed, Reply, Router},
    },
};

/// Tokens in one command: a hundred commands renew 10,000 leases, and none keeps the server for much over a millisecond.
const BATCH: usize = 100;

/// Runs until the client is closed.
pub(crate) async fn run(
    registry: Arc<LeaseRegistry>,
    link: Router,
    client: Arc<str>,
    jobs: mpsc::UnboundedSender<Job>,
) {
    let mut under_way = FuturesUnordered::new();
    loop {
        // A batch that has no answer for a while keeps no other lease waiting.
        tokio::select! {
            biased;
            items = registry.due() => {
                let Some(items) = items else { return };
                for batch in batches(items, &link) {
                    under_way.push(renew(&registry, &link, &client, &jobs, batch));
                }
            }
            Some(()) = under_way.next() => {}
        }
    }
}

/// In a cluster, one command has one slot.
fn batches(items: Vec<Item>, link: &Router) -> Vec<Vec<Item>> {
    let mut together: Vec<Vec<Item>> = Vec::new();
    let mut open: BTreeMap<Option<u16>, usize> = BTreeMap::new();
    for item in items {
        let at = open.entry(link.slot(&item.target.keys)).or_insert_with(|| {
            together.push(Vec::new());
            together.len() - 1
        });
        if together[*at].len() == BATCH {
            together.push(Vec::new());
            *at = together.len() - 1;
        }
        together[*at].push(item);
    }
    together
}

/// Gives back in the background: there is no hurry, and an error means that the runtime has ended. A lease with a grace
/// period is left to expire, so that the grace period follows: its holder may not have noticed yet that it is lost.
fn give_back(jobs: &mpsc::UnboundedSender<Job>, hold: &Hold) {
    if hold.request.grace_ms > 0 {
        return;
    }
    let _ = jobs.send(Job::Release {
        token: hold.token.clone(),
        target: hold.target.clone(),
        how: Ending::Owner,
        ends: Some(hold.ends_at_the_latest()),
    });
}

/// Renews a single lease on behalf of its holder. Returns how many replicas have acknowledged it, if so many are
/// required, until then.
pub(crate) async fn renew_one(
    registry: &LeaseRegistry,
    link: &Router,
    jobs: &mpsc::UnboundedSender<Job>,
    hold: &Arc<Hold>,
    replicas: Option<(u8, Instant)>,
) -> Result<u64, Error> {
    let item = Item {
        token: hold.token.clone(),
        target: hold.target.clone(),
        hold: Some(hold.clone()),
    };
    let keys = &hold.target.keys;
    let renew = Renew {
        objects: vec![Object {
            seen: hold.target.newest(),
            tokens: vec![&hold.token],
        }],
    };
    let (reply, reached) = match replicas {
        None => (link.repeat(&renew, keys, soon(link)).await?, 0),
        Some((replicas, until)) => match link.replicated(&renew, keys, replicas, until).await? {
            Some(renewed) => renewed,
            None => return Ok(0),
        },
    };
    let Renewals {
        now,
        tokens: outcomes,
    } = reply.value;
    let sample = reply.asked.answered_at(now);
    // If it must be readmitted, the background does so.
    let Some(outcome) = outcomes.into_iter().next() else {
        return Ok(reached);
    };
    let failed = match &outcome {
        Renewed::Failed { error } => Some(unusable::error(&hold.target.keys, error.clone())),
        _ => None,
    };
    if registry.renewed(&item, outcome, sample) == Action::GiveBack {
        give_back(jobs, hold);
    }
    failed.map_or(Ok(reached), Err)
}

async fn renew(
    registry: &LeaseRegistry,
    link: &Router,
    client: &str,
    jobs: &mpsc::UnboundedSender<Job>,
    batch: Vec<Item>,
) {
    // One object's tokens stand together, so that the script opens it once.
    let mut by_object: BTreeMap<&ObjectRef, Vec<&Item>> = BTreeMap::new();
    for item in &batch {
        by_object.entry(&item.target.object).or_default().push(item);
    }
    // Behind the first keys of all objects, by which the script finds the others, stand the others.
    let (mut keys, mut others) = (Vec::with_capacity(by_object.len()), Vec::new());
    let mut order = Vec::with_capacity(batch.len());
    let mut objects = Vec::with_capacity(by_object.len());
    for items in by_object.into_values() {
        if let Some((first, rest)) = items[0].target.keys.split_first() {
            keys.push(first.clone());
            others.extend_from_slice(rest);
        }
        objects.push(Object {
            seen: items
                .iter()
                .map(|item| item.target.newest())
                .max()
                .unwrap_or_default(),
            tokens: items.iter().map(|item| &*item.token).collect(),
        });
        order.extend(items);
    }
    keys.append(&mut others);
    match link.repeat(&Renew { objects }, &keys, soon(link)).await {
        Ok(Reply { value, asked, .. }) if value.tokens.len() == order.len() => {
            let sample = asked.answered_at(value.now);
            let outcomes = value.tokens;
            // All outcomes are noted first: the readmissions, which go out together, take another round trip.
            let mut readmitted = FuturesUnordered::new();
            for (item, outcome) in order.into_iter().zip(outcomes) {
                match (&item.hold, registry.renewed(item, outcome, sample)) {
                    (Some(hold), Action::Readmit) => readmitted
                        .push(async move { (hold, readmit(registry, link, client, item, hold).await) }),
                    (Some(hold), Action::GiveBack) => give_back(jobs, hold),
                    _ => {}
                }
            }
            while let Some((hold, action)) = readmitted.next().await {
                if action == Action::GiveBack {
                    give_back(jobs, hold);
                }
            }
        }
        Ok(_) => batch
            .iter()
            .for_each(|item| registry.not_renewed(item, "a renewal's reply was cut short")),
        Err(Failed { error, .. }) => {
            debug!(%error, leases = batch.len(), "a renewal had no answer");
            for item in &batch {
                match (&item.hold, &error) {
                    (None, Error::Authentication { .. }) => registry.denied(item),
                    _ => registry.not_renewed(item, &error.to_string()),
                }
            }
        }
    }
}

/// Redis has lost data and come back: the holder shows its fencing token and keeps its lease.
async fn readmit(registry: &LeaseRegistry, link: &Router, client: &str, item: &Item, hold: &Hold) -> Action {
    let call = Readmit {
        token: &hold.token,
        fence: hold.grant.fence,
        permits: hold.request.permits,
        lease_ms: hold.grant.lease,
        max_hold_ms: hold.request.max_hold_ms,
        since_ms: hold.grant.since,
        client,
        resources: hold
            .grant
            .resources
            .iter()
            .map(|(name, _)| name.as_str())
            .collect(),
        holder: &hold.request.holder,
        grace_ms: hold.request.grace_ms,
    };
    match link.repeat(&call, &item.target.keys, soon(link)).await {
        Ok(reply) => {
            let sample = reply.asked.answered_at(reply.value.now);
            let outcome = match reply.value.expires {
                Some(expires) => Renewed::Held {
                    expires,
                    is_last: false,
                    newest: 0,
                },
                None => Renewed::Gone,
            };
            registry.renewed(item, outcome, sample)
        }
        Err(Failed { error, .. }) => {
            registry.not_renewed(item, &error.to_string());
            Action::None
        }
    }
}

fn soon(link: &Router) -> Instant {
    later(link.response_timeout().min(Duration::from_secs(5)))
}
