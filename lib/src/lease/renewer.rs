//! Renews the entries of the registry that are due: many leases and queue entries in one command, over many objects.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::{sync::mpsc, time::Instant};
use tracing::debug;

use crate::{Error, ObjectRef};
use crate::{
    lease::{
        registry::{Hold, Item, LeaseRegistry, Next},
        releaser::{BY_OWNER, Job},
    },
    protocol::{
        message::{self, Renewed},
        script, unusable,
    },
    transport::{clock::Sample, later, router::Router},
};

/// Tokens in one command: a hundred commands renew 10,000 leases, and none keeps the server for much over a millisecond.
const BATCH: usize = 100;

/// Runs until the client is closed.
pub(crate) async fn run(
    registry: Arc<LeaseRegistry>,
    link: Router,
    channel: Arc<str>,
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
                    under_way.push(renew(&registry, &link, &channel, &jobs, batch));
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
        let at = open.entry(link.slot(&item.place.keys)).or_insert_with(|| {
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
        place: hold.place.clone(),
        how: BY_OWNER,
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
        place: hold.place.clone(),
        hold: Some(hold.clone()),
    };
    let width = hold.place.keys.len().to_string();
    let count = count_and_newest(1, hold.place.newest());
    let args = [width.as_str(), &count, &hold.token];
    let keys = &hold.place.keys;
    let (reply, reached) = match replicas {
        None => (link.repeat(&script::RENEW, keys, &args, soon(link)).await?, 0),
        Some((replicas, until)) => {
            match link
                .replicated(&script::RENEW, keys, &args, replicas, until)
                .await?
            {
                Some(renewed) => renewed,
                None => return Ok(0),
            }
        }
    };
    let (server_ms, outcomes) = message::renewed(&reply.value)?;
    let sample = reply.asked.answered_at(server_ms);
    // If it must be readmitted, the background does so.
    let Some(outcome) = outcomes.into_iter().next() else {
        return Ok(reached);
    };
    let failed = match &outcome {
        Renewed::Failed { error } => Some(unusable::error(&hold.place.keys, error.clone())),
        _ => None,
    };
    if registry.renewed(&item, outcome, sample) == Next::GiveBack {
        give_back(jobs, hold);
    }
    failed.map_or(Ok(reached), Err)
}

/// Returns the number of tokens of an object, and the newest fencing token that was seen of it, if it is declared.
fn count_and_newest(count: usize, newest: u64) -> String {
    match newest {
        0 => count.to_string(),
        newest => format!("{count}>{newest}"),
    }
}

async fn renew(
    registry: &LeaseRegistry,
    link: &Router,
    channel: &str,
    jobs: &mpsc::UnboundedSender<Job>,
    batch: Vec<Item>,
) {
    // One object's tokens stand together, so that the script opens it once.
    let mut by_object: BTreeMap<&ObjectRef, Vec<&Item>> = BTreeMap::new();
    for item in &batch {
        by_object.entry(&item.place.object).or_default().push(item);
    }
    let (mut keys, mut order) = (Vec::new(), Vec::with_capacity(batch.len()));
    let mut args: Vec<Cow<'_, str>> = Vec::with_capacity(3 * batch.len());
    for items in by_object.into_values() {
        let object_keys = &items[0].place.keys;
        keys.extend_from_slice(object_keys);
        let newest = items.iter().map(|item| item.place.newest()).max();
        args.extend([
            Cow::Owned(object_keys.len().to_string()),
            Cow::Owned(count_and_newest(items.len(), newest.unwrap_or_default())),
        ]);
        for item in items {
            args.push(Cow::Borrowed(&*item.token));
            order.push(item);
        }
    }
    let args: Vec<&str> = args.iter().map(|arg| &**arg).collect();
    match call(link, &keys, &args).await {
        Ok((sample, outcomes)) if outcomes.len() == order.len() => {
            // All outcomes are noted first: the readmissions, which go out together, take another round trip.
            let mut readmitted = FuturesUnordered::new();
            for (item, outcome) in order.into_iter().zip(outcomes) {
                let next = registry.renewed(item, outcome, sample);
                match (&item.hold, next) {
                    (Some(hold), Next::Readmit) => readmitted
                        .push(async move { (hold, readmit(registry, link, channel, item, hold).await) }),
                    (Some(hold), Next::GiveBack) => give_back(jobs, hold),
                    _ => {}
                }
            }
            while let Some((hold, next)) = readmitted.next().await {
                if next == Next::GiveBack {
                    give_back(jobs, hold);
                }
            }
        }
        Ok(_) => batch
            .iter()
            .for_each(|item| registry.unsure(item, "a renewal's reply was cut short")),
        Err(error) => {
            debug!(%error, leases = batch.len(), "a renewal had no answer");
            for item in &batch {
                registry.unsure(item, &error.to_string());
            }
        }
    }
}

async fn call(link: &Router, keys: &[Arc<str>], args: &[&str]) -> Result<(Sample, Vec<Renewed>), Error> {
    let reply = link.repeat(&script::RENEW, keys, args, soon(link)).await?;
    let (server_ms, outcomes) = message::renewed(&reply.value)?;
    Ok((reply.asked.answered_at(server_ms), outcomes))
}

/// Redis has lost data and come back: the holder shows its fencing token and goes on.
async fn readmit(registry: &LeaseRegistry, link: &Router, channel: &str, item: &Item, hold: &Hold) -> Next {
    let names: Vec<&str> = hold
        .grant
        .resources
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    let names = if names.is_empty() {
        "-".to_owned()
    } else {
        names.join(",")
    };
    let numbers = [
        hold.grant.fence,
        hold.request.permits,
        hold.grant.lease,
        hold.request.max_hold_ms,
        hold.grant.since,
        hold.request.grace_ms,
    ]
    .map(|n| n.to_string());
    let [fence, permits, lease, max_hold, since, grace] = numbers.each_ref().map(String::as_str);
    let args = [
        &*hold.token,
        fence,
        permits,
        lease,
        max_hold,
        since,
        channel,
        &names,
        &hold.request.holder,
        grace,
    ];
    let outcome = async {
        let reply = link
            .repeat(&script::READMIT, &item.place.keys, &args, soon(link))
            .await?;
        let fields = message::texts(&reply.value)?;
        match &fields[..] {
            [state, now, expires] => {
                let read = |text: &String| text.parse().map_err(|_| Error::protocol(&reply.value));
                let sample = reply.asked.answered_at(read(now)?);
                let expires = read(expires)?;
                Ok((
                    sample,
                    if state == "held" {
                        Renewed::Held { expires, newest: 0 }
                    } else {
                        Renewed::Gone
                    },
                ))
            }
            _ => Err(Error::protocol(&reply.value)),
        }
    };
    match outcome.await {
        Ok((sample, outcome)) => registry.renewed(item, outcome, sample),
        Err(error) => {
            registry.unsure(item, &error.to_string());
            Next::Nothing
        }
    }
}

fn soon(link: &Router) -> Instant {
    later(link.response_timeout().min(Duration::from_secs(5)))
}
