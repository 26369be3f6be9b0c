//! `tenure get`, `describe`, `holders`, `queue`, `watch` and `why`: an object as Redis has it.
//!
//! | module | contents |
//! |---|---|
//! | [`model`] | the object as JSON and YAML |
//! | [`table`], [`time`] | the object for people |
//! | [`describe`] | all that is known of one object |
//! | [`watch`] | each change as it happens |
//! | [`why`] | the reason for which a pod waits |

use std::{collections::BTreeMap, io::Write, num::NonZeroUsize, str::FromStr, time::SystemTime};

use serde::Serialize;
use tenure::{
    Client, Error, Kind, ObjectRef,
    control::{Snapshot, WaiterRequest},
};

use crate::{
    changes::Changes,
    connect::Connection,
    exit::{Code, Failure},
    object::{self, Object, needs_declaration, shown},
    report,
};

pub(crate) mod describe;
pub(crate) mod model;
pub(crate) mod table;
pub(crate) mod time;
pub(crate) mod watch;
pub(crate) mod why;

use model::{name, state};
use table::or_dash;
use time::{since, until};

const GET_EXAMPLES: &str = "Examples:
  # All objects of the namespace
  tenure get

  # One, again after each change
  tenure get lockpool/gpu-seats --watch

  # The number of waiters, in a script
  tenure get semaphore/api-callers -o json | jq .waiting";
const HOLDERS_EXAMPLES: &str = "Examples:
  tenure holders lockpool/gpu-seats

  # With processes and fencing tokens, of all semaphores
  tenure holders semaphores -o wide";
const QUEUE_EXAMPLES: &str = "Examples:
  tenure queue lockpool/gpu-seats

  # The head of a long queue, with the request of each waiter
  tenure queue lockpool/gpu-seats --limit 20 -o wide";

/// Shows objects: their permits or resources, and how many wait.
#[derive(Debug, clap::Args)]
#[command(after_help = GET_EXAMPLES)]
pub(crate) struct Get {
    #[command(flatten)]
    shown: Shown,
}

/// Shows who holds an object, since when and until when, and why.
#[derive(Debug, clap::Args)]
#[command(after_help = HOLDERS_EXAMPLES)]
pub(crate) struct Holders {
    #[command(flatten)]
    shown: Shown,
}

/// Shows who waits for an object, in the order of the queue.
#[derive(Debug, clap::Args)]
#[command(after_help = QUEUE_EXAMPLES)]
pub(crate) struct Queue {
    #[command(flatten)]
    shown: Shown,
}

#[derive(Debug, clap::Args)]
struct Shown {
    /// The objects, as KIND/NAME or KIND: lockpool (lp), semaphore (sem), lock, rwlock; all, if absent
    #[arg(value_name = "KIND[/NAME]")]
    objects: Vec<Target>,
    /// Format: a table, or for programs
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
    /// Most holders and waiters that are shown
    #[arg(long, default_value = "100000", value_parser = limit, value_name = "NUMBER")]
    limit: usize,
    /// Shows them again after each change
    #[arg(short, long)]
    watch: bool,
}

/// The number of `--limit`.
fn limit(text: &str) -> Result<usize, String> {
    let number: NonZeroUsize = text.parse().map_err(|error| format!("{error}: give 1 or more"))?;
    Ok(number.get())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    Table,
    /// With process, fencing token and lease
    Wide,
    Json,
    Yaml,
    Name,
}

/// One object, all of a kind, or a name after its kind.
#[derive(Debug, Clone)]
enum Target {
    One(Object),
    All(Kind),
    Name(String),
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match object::kind(text) {
            Some(kind) => Ok(Self::All(kind)),
            None if text.contains('/') => text.parse().map(Self::One),
            None => Ok(Self::Name(text.to_owned())),
        }
    }
}

/// The targets with each `KIND NAME...` as `KIND/NAME...`, as kubectl reads them.
fn with_kinds(targets: Vec<Target>) -> Result<Vec<Target>, Failure> {
    let mut read = Vec::new();
    let mut kind = None;
    for target in targets {
        match (target, kind) {
            (Target::Name(name), Some(of)) => {
                // The kind alone was no target.
                if matches!(read.last(), Some(Target::All(_))) {
                    read.pop();
                }
                let object: Result<Object, _> = format!("{}/{name}", object::kind_name(of)).parse();
                read.push(Target::One(object.map_err(Failure::usage)?));
            }
            (Target::Name(name), None) => {
                // It fails, and the error names the kinds.
                let object: Result<Object, _> = name.parse();
                read.push(Target::One(object.map_err(Failure::usage)?));
            }
            (target, _) => {
                kind = match target {
                    Target::All(of) => Some(of),
                    _ => None,
                };
                read.push(target);
            }
        }
    }
    Ok(read)
}

/// An object, and the state that Redis has of it, if any.
struct Seen {
    object: ObjectRef,
    snapshot: Option<Snapshot>,
    /// The requests of a pool's waiters, by their tokens.
    requests: BTreeMap<String, WaiterRequest>,
}

/// A table with a row for each thing: its head, the columns of `wide`, and the rows of an object.
struct Table {
    /// The noun for the rows.
    what: &'static str,
    head: &'static [&'static str],
    wide: &'static [&'static str],
    rows: fn(&Seen) -> Vec<Vec<String>>,
}

const OBJECTS: Table = Table {
    what: "objects",
    head: &["OBJECT", "STATE", "HELD", "DRAINING", "TOTAL", "WAITING"],
    wide: &["FENCING TOKEN", "DECLARED"],
    rows: object_row,
};
const HOLDERS: Table = Table {
    what: "holders",
    head: &[
        "OBJECT",
        "HOLDER",
        "RESOURCE",
        "PERMITS",
        "HELD",
        "EXPIRES IN",
        "REASON",
    ],
    wide: &["RENEWABLE FOR", "PROCESS", "FENCING TOKEN", "LEASE"],
    rows: holder_rows,
};
const WAITERS: Table = Table {
    what: "waiters",
    head: &["OBJECT", "POSITION", "WAITER", "WAITS", "REASON"],
    wide: &["PROCESS", "PERMITS", "REQUEST"],
    rows: waiter_rows,
};

pub(crate) async fn get(connection: &Connection, args: Get) -> Result<u8, Failure> {
    show(connection, args.shown, &OBJECTS).await
}

pub(crate) async fn holders(connection: &Connection, args: Holders) -> Result<u8, Failure> {
    show(connection, args.shown, &HOLDERS).await
}

pub(crate) async fn queue(connection: &Connection, args: Queue) -> Result<u8, Failure> {
    show(connection, args.shown, &WAITERS).await
}

async fn show(connection: &Connection, args: Shown, table: &Table) -> Result<u8, Failure> {
    let named = with_kinds(args.objects)?;
    let client = if args.watch {
        connection.connect_with_events().await?
    } else {
        connection.connect(None).await?
    };
    // The list is that of the start.
    let targets = targets(connection, &client, &named).await?.objects;
    let mut changes = None;
    let mut before = None;
    loop {
        let mut all = Vec::new();
        for (object, is_named) in &targets {
            if args.watch {
                // Its next change is published.
                client.control().observe(object, 0).await?;
            }
            all.extend(look(&client, object.clone(), *is_named, args.limit).await?);
        }
        // Relative times change without a change.
        let state: Vec<_> = all
            .iter()
            .map(|seen| seen.snapshot.clone().map(timeless))
            .collect();
        if before.as_ref() != Some(&state) {
            let is_one = matches!(named[..], [Target::One(_)]);
            let text = rendered(&all, args.output, table, is_one)?;
            if text.is_empty() {
                report(format_args!(
                    "no {} in the namespace {}",
                    table.what,
                    client.namespace()
                ));
            } else if !write(&text) {
                return Ok(0);
            }
            before = Some(state);
        }
        if !args.watch {
            return Ok(0);
        }
        if changes.is_none() {
            changes = Some(Changes::of(&client)?);
            continue;
        }
        if let Some(changes) = &mut changes {
            let seen = all.iter().map(|seen| seen.snapshot.as_ref());
            changes
                .next(targets.iter().map(|(object, _)| object), seen)
                .await?;
        }
    }
}

/// The objects that are meant.
struct Targets {
    /// And whether each was named.
    objects: Vec<(ObjectRef, bool)>,
    /// Only the objects that custom resources declare could be listed.
    is_partial: bool,
}

async fn targets(connection: &Connection, client: &Client, targets: &[Target]) -> Result<Targets, Failure> {
    let mut objects = Vec::new();
    let mut is_partial = false;
    for target in targets {
        if let Target::One(object) = target {
            let object = (object.of(client)?, true);
            if !objects.contains(&object) {
                objects.push(object);
            }
        }
    }
    let is_meant = |kind: Kind| {
        let of_kind = |target: &Target| matches!(target, Target::All(all) if *all == kind);
        targets.is_empty() || targets.iter().any(of_kind)
    };
    if targets.is_empty() || targets.iter().any(|target| matches!(target, Target::All(_))) {
        let (all, problem) = all_objects(connection, client).await?;
        is_partial = problem.is_some();
        if let Some(problem) = problem {
            report(problem);
        }
        let all = all.into_iter();
        let meant: Vec<_> = all
            .filter(|object| is_meant(object.kind()) && !objects.contains(&(object.clone(), true)))
            .collect();
        objects.extend(meant.into_iter().map(|object| (object, false)));
    }
    Ok(Targets { objects, is_partial })
}

/// All objects of the namespace that Redis has; if its user may not list them, those that custom resources declare, and the text about
/// that.
pub(crate) async fn all_objects(
    connection: &Connection,
    client: &Client,
) -> Result<(Vec<ObjectRef>, Option<String>), Failure> {
    let namespace = client.namespace();
    let reason = match client.control().objects(namespace).await {
        Ok(objects) => return Ok((objects, None)),
        Err(Error::Refused { reason }) => reason,
        Err(error) => return Err(error.into()),
    };
    let refused = |more: &str| {
        let fix = "Name them as KIND/NAME, use a Redis user that may SCAN, or a kubeconfig that may list lockpools and semaphores";
        Failure::new(
            Code::Refused,
            format!("cannot list the objects: {reason}{more}. {fix}"),
        )
    };
    let Some(kubernetes) = connection.kubernetes().await? else {
        return Err(refused(""));
    };
    match kubernetes.declared(namespace).await {
        Ok(declared) => Ok((
            declared.into_keys().collect(),
            Some("the Redis user may not list objects: those without a custom resource, such as locks, are left out. Name them as KIND/NAME".to_owned()),
        )),
        Err(failure) => Err(refused(&format!("; and {}", failure.message.unwrap_or_default()))),
    }
}

/// Looks at an object. One that was named, must be declared and is not, is an error; one that is gone since it was listed is left
/// out.
async fn look(
    client: &Client,
    object: ObjectRef,
    is_named: bool,
    limit: usize,
) -> Result<Option<Seen>, Failure> {
    let control = client.control();
    let snapshot = control.look(&object, limit).await?;
    match snapshot {
        None if !is_named => return Ok(None),
        None if needs_declaration(object.kind()) => return Err(Error::NotDeclared { object }.into()),
        _ => {}
    }
    let has_waiters = snapshot
        .as_ref()
        .is_some_and(|snapshot| !snapshot.waiters.is_empty());
    let requests = if object.kind() == Kind::Pool && has_waiters {
        control.requests(&object, limit).await?
    } else {
        BTreeMap::new()
    };
    Ok(Some(Seen {
        object,
        snapshot,
        requests,
    }))
}

/// The same, without what changes with time and renewals alone.
fn timeless(mut snapshot: Snapshot) -> Snapshot {
    snapshot.now = SystemTime::UNIX_EPOCH;
    snapshot.next_change = None;
    for holder in &mut snapshot.holders {
        holder.expires = SystemTime::UNIX_EPOCH;
    }
    snapshot
}

/// `is_one`: an object that is named alone is no list. No text: there is nothing to be shown.
fn rendered(all: &[Seen], output: Output, table: &Table, is_one: bool) -> Result<String, Failure> {
    let models = all
        .iter()
        .map(|seen| model::Object::of(&seen.object, seen.snapshot.as_ref()));
    match output {
        Output::Json | Output::Yaml => match &models.collect::<Vec<_>>()[..] {
            [one] if is_one => serialized(one, output),
            several => serialized(&several, output),
        },
        Output::Name => {
            let with_rows = all.iter().filter(|seen| !(table.rows)(seen).is_empty());
            let names: Vec<_> = with_rows.map(|seen| shown(&seen.object)).collect();
            Ok(names.join("\n"))
        }
        Output::Table | Output::Wide => {
            let wide = if output == Output::Wide { table.wide } else { &[] };
            let head: Vec<_> = table.head.iter().chain(wide).copied().collect();
            let rows: Vec<_> = all.iter().flat_map(table.rows).collect();
            if rows.is_empty() {
                return Ok(String::new());
            }
            let longest = table::terminal().filter(|_| output == Output::Table);
            Ok(table::lines(&head, &rows, longest).join("\n"))
        }
    }
}

/// The value as YAML, or as JSON.
fn serialized(value: &impl Serialize, output: Output) -> Result<String, Failure> {
    let text = match output {
        Output::Yaml => serde_saphyr::to_string(value).map_err(|error| error.to_string()),
        _ => serde_json::to_string_pretty(value).map_err(|error| error.to_string()),
    };
    text.map(|text| text.trim_end().to_owned())
        .map_err(|error| Failure::new(Code::Failed, error))
}

/// Writes to standard output. `false`: its reader has gone, which is no failure.
pub(crate) fn write(text: &str) -> bool {
    writeln!(anstream::stdout(), "{text}").is_ok()
}

fn object_row(seen: &Seen) -> Vec<Vec<String>> {
    let snapshot = seen.snapshot.as_ref();
    let number = |of: fn(&Snapshot) -> u64, free: u64| snapshot.map_or(free, of).to_string();
    let now = snapshot.map_or(SystemTime::UNIX_EPOCH, |snapshot| snapshot.now);
    vec![vec![
        shown(&seen.object),
        state(&seen.object, snapshot, now).to_owned(),
        number(|snapshot| snapshot.held, 0),
        number(Snapshot::draining, 0),
        number(|snapshot| snapshot.limit, 1),
        number(|snapshot| snapshot.waiting, 0),
        number(|snapshot| snapshot.last_fence, 0),
        snapshot
            .is_some_and(|snapshot| snapshot.digest.is_some())
            .to_string(),
    ]]
}

fn holder_rows(seen: &Seen) -> Vec<Vec<String>> {
    let Some(snapshot) = &seen.snapshot else {
        return Vec::new();
    };
    let row = |view: &tenure::control::HolderView| {
        vec![
            shown(&seen.object),
            name(&view.holder),
            or_dash(&view.resources.join(",")),
            view.permits.to_string(),
            since(snapshot.now, view.since),
            until(snapshot.now, view.expires),
            or_dash(&view.reason),
            or_dash(
                &view
                    .renewable_until
                    .map_or_else(String::new, |end| until(snapshot.now, end)),
            ),
            view.holder.process.clone(),
            view.fence.to_string(),
            view.token.clone(),
        ]
    };
    snapshot.holders.iter().map(row).collect()
}

fn waiter_rows(seen: &Seen) -> Vec<Vec<String>> {
    let Some(snapshot) = &seen.snapshot else {
        return Vec::new();
    };
    let row = |(index, view): (usize, &tenure::control::WaiterView)| {
        vec![
            shown(&seen.object),
            (index + 1).to_string(),
            name(&view.holder),
            since(snapshot.now, view.since),
            or_dash(&view.reason),
            view.holder.process.clone(),
            view.permits.to_string(),
            or_dash(&why::request(view, seen.requests.get(&view.token))),
        ]
    };
    snapshot.waiters.iter().enumerate().map(row).collect()
}
