//! `tenure watch`: the changes of objects, a line each, as they happen.

use std::{
    collections::{BTreeMap, HashSet},
    time::SystemTime,
};

use tenure::{
    Error, ObjectRef,
    control::{HolderView, Snapshot, WaiterView},
};

use crate::{
    changes::Changes,
    connect::Connection,
    exit::Failure,
    object::{Object, needs_declaration, shown},
    view::{
        model::{name, state},
        table::because,
        time::rfc3339,
        why::some,
        write,
    },
};

const EXAMPLES: &str = "Examples:
  # Who gets a seat, who waits, and who has released, until Ctrl-C
  tenure watch lockpool/gpu-seats

  # The table again after each change
  tenure get lockpool/gpu-seats --watch";

/// Shows each change of objects as it happens: grants, releases, waiters, and states.
///
/// Redis publishes the changes of objects that a resource declares; others are looked at every second. Changes that follow one another
/// within a tenth of a second are shown together.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The objects, as KIND/NAME: lockpool (lp), semaphore (sem), lock, rwlock
    #[arg(required = true, value_name = "KIND/NAME")]
    objects: Vec<Object>,
}

pub(crate) async fn run(connection: &Connection, args: Args) -> Result<u8, Failure> {
    let client = connection.connect_with_events().await?;
    let objects = args.objects.iter().map(|object| object.of(&client));
    let objects = objects.collect::<Result<Vec<_>, _>>()?;
    let mut changes = Changes::of(&client)?;
    let mut before: BTreeMap<&ObjectRef, Option<Snapshot>> = BTreeMap::new();
    loop {
        for object in &objects {
            let seen = client.control().observe(object, usize::MAX).await?;
            let lines = match before.get(object) {
                None if seen.is_none() && needs_declaration(object.kind()) => {
                    return Err(Error::NotDeclared {
                        object: object.clone(),
                    }
                    .into());
                }
                None => vec![format!("{}: {}", shown(object), summary(object, seen.as_ref()))],
                Some(before) => differences(object, before.as_ref(), seen.as_ref()),
            };
            before.insert(object, seen);
            let now = rfc3339(SystemTime::now());
            if !lines.iter().all(|line| write(&format!("{now}  {line}"))) {
                return Ok(0);
            }
        }
        let seen = before.values().map(Option::as_ref);
        changes.next(&objects, seen).await?;
    }
}

fn now(seen: Option<&Snapshot>) -> SystemTime {
    seen.map_or(SystemTime::UNIX_EPOCH, |seen| seen.now)
}

fn summary(object: &ObjectRef, seen: Option<&Snapshot>) -> String {
    if seen.is_none() && needs_declaration(object.kind()) {
        return state(object, seen, now(seen)).to_owned();
    }
    let number = |of: fn(&Snapshot) -> u64, none: u64| seen.map_or(none, of);
    format!(
        "{}, {} of {} held, {} waiting",
        state(object, seen, now(seen)),
        number(|seen| seen.held, 0),
        number(|seen| seen.limit, 1),
        number(|seen| seen.waiting, 0)
    )
}

/// The lines about what has changed from one state to the next.
fn differences(object: &ObjectRef, before: Option<&Snapshot>, after: Option<&Snapshot>) -> Vec<String> {
    let (holders_before, waiters_before) = parts(before);
    let (holders, waiters) = parts(after);
    let full = object;
    let object = shown(object);
    let mut lines = Vec::new();
    let what = |view: &HolderView| {
        let names: Vec<_> = view.resources.iter().map(String::as_str).collect();
        match (some(&names), view.permits) {
            (names, _) if !names.is_empty() => format!("{object} ({names})"),
            (_, 1) => object.clone(),
            (_, permits) => format!("{permits} of {object}"),
        }
    };
    let (held_before, held) = (
        tokens_of(holders_before, |view| &view.token),
        tokens_of(holders, |view| &view.token),
    );
    let waited_before = tokens_of(waiters_before, |view| &view.token);
    let waited = tokens_of(waiters, |view| &view.token);
    for view in holders_before
        .iter()
        .filter(|view| !held.contains(view.token.as_str()))
    {
        lines.push(format!("{} holds {} no longer", name(&view.holder), what(view)));
    }
    for view in holders
        .iter()
        .filter(|view| !held_before.contains(view.token.as_str()))
    {
        lines.push(format!(
            "{} holds {}{}",
            name(&view.holder),
            what(view),
            because(&view.reason)
        ));
    }
    for view in waiters_before {
        let token = view.token.as_str();
        if !waited.contains(token) && !held.contains(token) {
            lines.push(format!("{} waits for {object} no longer", name(&view.holder)));
        }
    }
    for (index, view) in waiters.iter().enumerate() {
        if !waited_before.contains(view.token.as_str()) {
            let (who, reason) = (name(&view.holder), because(&view.reason));
            lines.push(format!(
                "{who} waits for {object}, at position {}{reason}",
                index + 1
            ));
        }
    }
    let is_same = state(full, before, now(before)) == state(full, after, now(after))
        && before.map(|seen| seen.limit) == after.map(|seen| seen.limit);
    if !is_same {
        lines.push(format!("{object}: {}", summary(full, after)));
    }
    lines
}

fn tokens_of<T>(views: &[T], token: fn(&T) -> &String) -> HashSet<&str> {
    views.iter().map(|view| token(view).as_str()).collect()
}

fn parts(seen: Option<&Snapshot>) -> (&[HolderView], &[WaiterView]) {
    seen.map_or((&[], &[]), |seen| (&seen.holders, &seen.waiters))
}
