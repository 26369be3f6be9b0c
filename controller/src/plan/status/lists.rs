//! The counts of a status, which are always exact, and the heads of its two lists.

use tenure::{
    Identity,
    control::{HolderView, Snapshot, WaiterView},
};
use tenure_crds::{Holder, MAX_HELD_BY, MAX_LISTED, MAX_POD, MAX_REASON, Waiter, bounded, whole_seconds};

use crate::{
    kinds::{Hold, StatusDraft},
    plan::status::timestamp,
};

/// The longest token that a status shows, in characters.
pub(super) const MAX_TOKEN: usize = 64;
/// The longest name of a resource that a status shows, in characters.
const MAX_RESOURCE: usize = 63;
/// The names that the note of an event has at most, and the length of each, in characters.
const MAX_NAMED: usize = 10;
const MAX_NAME: usize = 40;

/// Fills in the counts and the heads of the lists.
pub(super) fn fill(report: &mut StatusDraft, namespace: &str, snapshot: &Snapshot) {
    let common = &mut report.common;
    common.held = narrow(snapshot.held);
    common.free = narrow(snapshot.free);
    common.waiting = narrow(snapshot.waiting);
    common.waiters = snapshot
        .waiters
        .iter()
        .take(MAX_LISTED)
        .zip(1..)
        .map(|(waiter, position)| waiter_line(namespace, waiter, position))
        .collect();
    report.holds = snapshot
        .holders
        .iter()
        .flat_map(|h| hold_lines(namespace, h))
        .take(MAX_LISTED)
        .collect();
    let shown: u64 = report.holds.iter().map(|hold| u64::from(hold.permits)).sum();
    let waiters = report.common.waiters.len() as u64;
    report.common.truncated = shown < snapshot.held || waiters < snapshot.waiting;
    report.common.held_by = held_by(snapshot);
}

fn hold_lines(namespace: &str, view: &HolderView) -> Vec<Hold> {
    let holder = Holder {
        token: bounded(&view.token, MAX_TOKEN),
        pod: name(&view.holder),
        namespace: foreign(namespace, &view.holder),
        reason: bounded(&view.reason, MAX_REASON),
        fencing_token: view.fence,
        acquired_at: whole_seconds(timestamp(view.since)),
        renewable_until: view.renewable_until.map(|until| whole_seconds(timestamp(until))),
    };
    if view.resources.is_empty() {
        return vec![Hold {
            resource: None,
            permits: narrow(view.permits),
            holder,
        }];
    }
    let line = |resource: &String| Hold {
        resource: Some(bounded(resource, MAX_RESOURCE)),
        permits: 1,
        holder: holder.clone(),
    };
    view.resources.iter().map(line).collect()
}

fn waiter_line(namespace: &str, view: &WaiterView, position: u32) -> Waiter {
    Waiter {
        position,
        pod: name(&view.holder),
        namespace: foreign(namespace, &view.holder),
        reason: bounded(&view.reason, MAX_REASON),
        permits: narrow(view.permits),
        since: whole_seconds(timestamp(view.since)),
    }
}

fn name(who: &Identity) -> String {
    bounded(who.pod.as_deref().unwrap_or(&who.process), MAX_POD)
}

fn foreign(namespace: &str, who: &Identity) -> Option<String> {
    (who.pod.is_some() && who.namespace != namespace).then(|| bounded(&who.namespace, 63))
}

/// Names who holds what, for the note of an event: `gpu-worker-1 (seat-a), gpu-worker-2 (seat-b) and 3 more`. `held`: the number of all
/// held permits or resources.
pub(in crate::plan) fn named(holds: &[Hold], held: u64) -> String {
    let shown = &holds[..holds.len().min(MAX_NAMED)];
    let names: Vec<_> = shown.iter().map(named_hold).collect();
    let permits: u64 = shown.iter().map(|hold| u64::from(hold.permits)).sum();
    let text = names.join(", ");
    match held.saturating_sub(permits) {
        0 => text,
        // A status without a list, as of an object that was held without holders that are known.
        more if text.is_empty() => format!("{more} that are not listed"),
        more => format!("{text} and {more} more"),
    }
}

/// As [`named`], of an observation.
pub(in crate::plan) fn named_holders(namespace: &str, snapshot: &Snapshot) -> String {
    let lines = snapshot.holders.iter().flat_map(|h| hold_lines(namespace, h));
    let holds: Vec<_> = lines.take(MAX_NAMED).collect();
    named(&holds, snapshot.held)
}

fn named_hold(hold: &Hold) -> String {
    let pod = bounded(&hold.holder.pod, MAX_NAME);
    match (&hold.resource, hold.permits) {
        (Some(resource), _) => format!("{pod} ({})", bounded(resource, MAX_NAME)),
        (None, 1) => pod,
        (None, permits) => format!("{pod} ({permits})"),
    }
}

/// `gpu-worker-1 (seat-a) +2`
fn held_by(snapshot: &Snapshot) -> String {
    let Some(first) = snapshot.holders.first() else {
        return String::new();
    };
    let what = match (&first.resources[..], first.permits) {
        ([], 1) => String::new(),
        ([], permits) => format!(" ({permits})"),
        (resources, _) => format!(" ({})", resources.join(", ")),
    };
    let text = name(&first.holder) + &what;
    let listed: u64 = snapshot.holders.iter().map(|h| h.permits).sum();
    let others = snapshot.holders.len().min(MAX_LISTED) - 1;
    let more = match (
        others,
        listed < snapshot.held || snapshot.holders.len() > MAX_LISTED,
    ) {
        (0, false) => String::new(),
        (_, false) => format!(" +{others}"),
        (_, true) => format!(" +{others} and more"),
    };
    bounded(&text, MAX_HELD_BY - more.len()) + &more
}

/// Counts of things that there are at most a million of.
fn narrow(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
