//! `tenure describe`: all that is known of an object, from Redis and, where there is a kubeconfig, from its custom resource.

use std::{collections::BTreeMap, time::SystemTime};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use kube::api::DynamicObject;
use serde::Serialize;
use serde_json::Value;
use tenure::{Kind, ResourceState, ResourceView};

use crate::{
    connect::Connection,
    duration::age,
    exit::{Code, Failure},
    kubernetes::objects::{last_seen, unapplied},
    object::{Object, shown},
    view::{
        HOLDERS, Output, Seen, Table, WAITERS, limit, look,
        model::{self, name, state},
        serialized,
        table::{self, or_dash},
        time::rfc3339,
        write,
    },
};

const EXAMPLES: &str = "Examples:
  tenure describe lockpool/gpu-seats
  tenure describe lock/migration -o json";

/// Describes one object: its state, spec and conditions, resources, holders, queue and events.
///
/// The spec, the conditions and the events are those of its custom resource, and take a kubeconfig, or the rights of the pod's account.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The object, as KIND/NAME: lockpool (lp), semaphore (sem), lock, rwlock
    object: Object,
    /// Format: text for people, or for programs
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
    /// Most holders and waiters that are shown
    #[arg(long, default_value = "100", value_parser = limit, value_name = "NUMBER")]
    limit: usize,
}

/// The object as `-o json` shows it.
#[derive(Serialize)]
struct Description<'a> {
    #[serde(flatten)]
    object: model::Object,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    resources: Vec<Resource>,
    #[serde(skip_serializing_if = "Option::is_none")]
    spec: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    conditions: Option<&'a Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    events: Vec<EventLine>,
}

#[derive(Serialize)]
struct Resource {
    name: String,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    holder: Option<String>,
    properties: BTreeMap<String, String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EventLine {
    #[serde(skip_serializing_if = "Option::is_none")]
    last_seen: Option<String>,
    #[serde(rename = "type")]
    type_: String,
    reason: String,
    message: String,
}

/// The part that the API server has.
struct Declaration {
    resource: DynamicObject,
    events: Vec<Event>,
}

pub(crate) async fn run(connection: &Connection, args: Args) -> Result<u8, Failure> {
    let client = connection.connect(None).await?;
    let object = args.object.of(&client)?;
    let declaration = declaration(connection, &object).await;
    let seen = match look(&client, object.clone(), true, args.limit).await {
        Ok(seen) => seen,
        // The conditions have the reason why Redis does not have it.
        Err(failure) if failure.code == Code::NotDeclared as u8 && matches!(declaration, Ok(Some(_))) => None,
        Err(failure) => return Err(failure),
    };
    let seen = seen.unwrap_or_else(|| Seen {
        object: object.clone(),
        snapshot: None,
        requests: BTreeMap::new(),
    });
    let views = match (object.kind(), &seen.snapshot) {
        (Kind::Pool, Some(_)) => client.lock_pool(object.name())?.list().await?,
        _ => Vec::new(),
    };
    let resources: Vec<_> = views.into_iter().map(|view| resource(view, &seen)).collect();
    let text = match args.output {
        Output::Name => shown(&object),
        Output::Json | Output::Yaml => {
            let found = declaration.as_ref().ok().and_then(Option::as_ref);
            let description = Description {
                object: model::Object::of(&object, seen.snapshot.as_ref()),
                resources,
                spec: found.map(|found| &found.resource.data["spec"]),
                conditions: found.map(|found| &found.resource.data["status"]["conditions"]),
                events: found.map_or_else(Vec::new, |found| found.events.iter().map(line).collect()),
            };
            serialized(&description, args.output)?
        }
        Output::Table | Output::Wide => {
            let mut lines = summary(&seen);
            lines.extend(of_declaration(&declaration, seen.snapshot.is_some()));
            let rows = resources.into_iter().map(|one| {
                let properties: Vec<_> = one
                    .properties
                    .iter()
                    .map(|(key, value)| format!("{key}={value}"))
                    .collect();
                let holder = one.holder.unwrap_or_default();
                vec![
                    one.name,
                    one.state.to_owned(),
                    or_dash(&holder),
                    or_dash(&properties.join(",")),
                ]
            });
            if object.kind() == Kind::Pool {
                lines.extend(section(
                    "Resources",
                    &["NAME", "STATE", "HOLDER", "PROPERTIES"],
                    rows,
                ));
            }
            lines.extend(of_redis("Holders", &HOLDERS, &seen, args.output));
            lines.extend(of_redis("Queue", &WAITERS, &seen, args.output));
            if let Ok(Some(found)) = &declaration {
                let rows = found.events.iter().map(line).map(|event| {
                    let age = event.last_seen.as_deref().map_or("-".to_owned(), since);
                    vec![age, event.type_, event.reason, or_dash(&event.message)]
                });
                lines.extend(section("Events", &["AGE", "TYPE", "REASON", "MESSAGE"], rows));
            }
            lines.join("\n")
        }
    };
    write(&text);
    Ok(0)
}

/// The custom resource; or the text why there is none to be shown.
async fn declaration(
    connection: &Connection,
    object: &tenure::ObjectRef,
) -> Result<Option<Declaration>, String> {
    if !matches!(object.kind(), Kind::Pool | Kind::Semaphore) {
        return Ok(None);
    }
    let text = |failure: Failure| failure.message.unwrap_or_default();
    let Some(kubernetes) = connection.kubernetes().await.map_err(text)? else {
        return Err("no kubeconfig".to_owned());
    };
    let Some(resource) = kubernetes.declaration(object).await.map_err(text)? else {
        return Ok(None);
    };
    // Without the right to list them, the rest is worth showing.
    let events = kubernetes.events(&resource).await.unwrap_or_default();
    Ok(Some(Declaration { resource, events }))
}

fn resource(view: ResourceView, seen: &Seen) -> Resource {
    let holders = seen.snapshot.as_ref().map_or(&[][..], |seen| &seen.holders);
    let holder = holders
        .iter()
        .find(|holder| holder.resources.contains(&view.name));
    let state = match (view.state, holder) {
        (ResourceState::Disabled, Some(_)) => "Draining",
        (ResourceState::Disabled, None) => "OutOfService",
        (ResourceState::Damaged, _) => "Damaged",
        (ResourceState::Held, _) | (_, Some(_)) => "Held",
        _ => "Free",
    };
    Resource {
        holder: holder.map(|view| name(&view.holder)),
        name: view.name,
        state,
        properties: view.properties,
    }
}

fn summary(seen: &Seen) -> Vec<String> {
    let snapshot = seen.snapshot.as_ref();
    let now = snapshot.map_or(SystemTime::UNIX_EPOCH, |seen| seen.now);
    let model = model::Object::of(&seen.object, snapshot);
    let mut fields = vec![
        ("Object", model.name.clone()),
        ("Namespace", model.namespace.clone()),
        ("State", state(&seen.object, snapshot, now).to_owned()),
        (
            "Held",
            match model.draining {
                0 => format!("{} of {}", model.held, model.total),
                draining => format!("{} of {}, and {draining} of them drain", model.held, model.total),
            },
        ),
        ("Waiting", model.waiting.to_string()),
        ("Fencing token", model.last_fencing_token.to_string()),
        ("Declared", if model.declared { "yes" } else { "no" }.to_owned()),
    ];
    if let Some(until) = &model.recovering_until {
        fields.push(("Recovering", format!("nothing new is granted before {until}")));
    }
    fields
        .into_iter()
        .map(|(name, value)| format!("{:15}{value}", format!("{name}:")))
        .collect()
}

/// A resource in the spec.
fn declared(resource: &Value) -> String {
    let name = plain(&resource["name"]);
    match resource["disabled"].as_bool() {
        Some(true) => format!("{name} (disabled)"),
        _ => name,
    }
}

fn of_declaration(declaration: &Result<Option<Declaration>, String>, is_in_redis: bool) -> Vec<String> {
    let found = match declaration {
        Ok(Some(found)) => found,
        Ok(None) => return Vec::new(),
        Err(reason) => return vec![format!("{:15}not read: {reason}", "Spec:")],
    };
    let data = &found.resource.data;
    let is_missing =
        || "Redis does not have the object: check the conditions, and that the controller runs".to_owned();
    let problem = unapplied(&found.resource).or_else(|| (!is_in_redis).then(is_missing));
    let mut lines: Vec<_> = problem
        .map(|problem| format!("{:15}{problem}", "Controller:"))
        .into_iter()
        .collect();
    lines.push("Spec:".to_owned());
    for (key, value) in data["spec"].as_object().into_iter().flatten() {
        let value = match (key.as_str(), value.as_array()) {
            // Their properties are those in the table of Redis.
            ("resources", Some(resources)) => resources.iter().map(declared).collect::<Vec<_>>().join(", "),
            _ => plain(value),
        };
        lines.push(format!("  {key}: {value}"));
    }
    let conditions = data["status"]["conditions"].as_array().into_iter().flatten();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let rows = conditions.map(|one| {
        let since = since(one["lastTransitionTime"].as_str().unwrap_or_default());
        vec![
            text(&one["type"]),
            text(&one["status"]),
            text(&one["reason"]),
            since,
            or_dash(&text(&one["message"])),
        ]
    });
    lines.extend(section(
        "Conditions",
        &["TYPE", "STATUS", "REASON", "SINCE", "MESSAGE"],
        rows,
    ));
    lines
}

fn of_redis(title: &str, table: &Table, seen: &Seen, output: Output) -> Vec<String> {
    let wide = if output == Output::Wide { table.wide } else { &[] };
    // The object is the same in each row.
    let head: Vec<_> = table.head.iter().chain(wide).skip(1).copied().collect();
    let rows = (table.rows)(seen)
        .into_iter()
        .map(|row| row.into_iter().skip(1).collect());
    let longest = table::terminal().filter(|_| output == Output::Table);
    cut_section(title, &head, rows, longest)
}

/// A table below its title; one line if it is empty.
fn section(title: &str, head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> Vec<String> {
    cut_section(title, head, rows, None)
}

/// The same, for a terminal of that width.
fn cut_section(
    title: &str,
    head: &[&str],
    rows: impl Iterator<Item = Vec<String>>,
    longest: Option<usize>,
) -> Vec<String> {
    let rows: Vec<_> = rows.collect();
    if rows.is_empty() {
        return vec![format!("{:15}none", format!("{title}:"))];
    }
    let lines = table::lines(head, &rows, longest.map(|longest| longest.saturating_sub(2)))
        .into_iter()
        .map(|line| format!("  {line}"));
    std::iter::once(format!("{title}:")).chain(lines).collect()
}

fn line(event: &Event) -> EventLine {
    EventLine {
        last_seen: last_seen(event).map(|time| rfc3339(time.into())),
        type_: event.type_.clone().unwrap_or_default(),
        reason: event.reason.clone().unwrap_or_default(),
        message: event.message.clone().unwrap_or_default(),
    }
}

/// The time since then, by the clock of this machine.
fn since(then: &str) -> String {
    let then = then.parse::<Timestamp>().ok();
    let age_of = |then: Timestamp| SystemTime::now().duration_since(then.into()).unwrap_or_default();
    then.map_or_else(|| "-".to_owned(), |then| age(age_of(then)))
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
