//! `tenure drain` and `undrain`: takes resources of a lockpool out of service, and puts them back, in the spec of its resource.
//!
//! The patch tests that each resource still stands where it was read, so that a list that was changed meanwhile is read again.

use std::{
    cell::Cell,
    collections::BTreeSet,
    io::{self, Write},
    time::Duration,
};

use serde_json::{Value, json};
use tenure::{Client, Kind, ObjectRef, ResourceState};

use crate::{
    changes::Changes,
    connect::Connection,
    duration,
    exit::{Code, Failure},
    kubernetes::objects::unapplied,
    object::{Object, shown},
    report,
};

const EXAMPLES: &str = "Examples:
  # Before the maintenance of a host: no new holder, and wait for the release
  tenure drain lockpool/gpu-seats seat-a --wait

  # Afterwards
  tenure undrain lockpool/gpu-seats seat-a";

/// The controller applies a spec within this time, if it runs.
const APPLIED: Duration = Duration::from_secs(5);
/// A patch is tried again this often if the spec has changed since it was read.
const TRIES: usize = 10;
const PAUSE: Duration = Duration::from_millis(200);

/// Takes resources of a lockpool out of service: their holders keep them, and they are not granted again.
///
/// It sets `disabled` in the spec of the LockPool, which takes a kubeconfig with the right to patch it, and the controller applies the
/// spec to Redis: only --wait waits for that. A spec that is kept in Git has to be
/// changed there, too, or the next sync may undo the drain.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Drain {
    #[command(flatten)]
    resources: Resources,
    /// Waits until the controller has applied it, and no resource is held
    #[arg(long)]
    wait: bool,
    /// With --wait: the time to wait. Without it, the wait has no end
    #[arg(long, requires = "wait", value_parser = duration::parse, value_name = "DURATION")]
    timeout: Option<Duration>,
}

/// Puts resources of a lockpool back into service.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Undrain {
    #[command(flatten)]
    resources: Resources,
}

#[derive(Debug, clap::Args)]
struct Resources {
    /// The pool, as lockpool/NAME
    pool: Object,
    /// The names of the resources
    #[arg(required = true, value_name = "RESOURCE")]
    resources: Vec<String>,
}

pub(crate) async fn drain(connection: &Connection, args: Drain) -> Result<u8, Failure> {
    let object = set(connection, &args.resources, true).await?;
    if args.wait {
        let client = connection.connect_with_events().await?;
        let of_redis = client.namespace();
        if of_redis != object.namespace() {
            return Err(Failure::usage(format!(
                "{} is drained, and cannot be waited for: the connection to Redis is for the namespace {of_redis}: add --namespace {}",
                shown(&object),
                object.namespace()
            )));
        }
        let names: BTreeSet<_> = args.resources.resources.iter().map(String::as_str).collect();
        let is_applied = Cell::new(false);
        let wait = until_free(&client, &object, &names, &is_applied);
        match args.timeout {
            None => wait.await?,
            Some(timeout) => tokio::time::timeout(timeout, wait).await.map_err(|_| {
                let message = if is_applied.get() {
                    format!("{} still has a holder of one of them", shown(&object))
                } else {
                    not_applied(&object)
                };
                Failure::new(Code::Timeout, message)
            })??,
        }
        let resources = &args.resources;
        print(format_args!("{resources} {} drained", resources.verb()));
    }
    Ok(0)
}

pub(crate) async fn undrain(connection: &Connection, args: Undrain) -> Result<u8, Failure> {
    set(connection, &args.resources, false).await?;
    Ok(0)
}

/// Sets `disabled` of the resources, and returns their pool.
async fn set(connection: &Connection, args: &Resources, disabled: bool) -> Result<ObjectRef, Failure> {
    if args.pool.kind != Kind::Pool {
        let fix = "a semaphore is scaled: kubectl scale semaphore NAME --replicas=N";
        return Err(Failure::usage(format!("{} has no resources: {fix}", args.pool)));
    }
    let Some(kubernetes) = connection.kubernetes().await? else {
        let fix = "give --kubeconfig, or set KUBECONFIG";
        return Err(Failure::usage(format!(
            "the spec is changed through the API server, and there is no kubeconfig: {fix}"
        )));
    };
    let namespace = connection.namespace().unwrap_or(&kubernetes.namespace);
    let object = ObjectRef::new(Kind::Pool, namespace, &args.pool.name)?;
    for _ in 0..TRIES {
        let Some(declared) = kubernetes.declaration(&object).await? else {
            return Err(Failure::new(
                Code::NotDeclared,
                format!("the namespace {namespace} has no {}", args.pool),
            ));
        };
        let patch = patch(&args.pool, &declared.data["spec"], &args.resources, disabled)?;
        let is_changed = !patch.is_empty();
        if !is_changed || kubernetes.patch(&object, Value::Array(patch)).await? {
            let service = if disabled { "out of service" } else { "in service" };
            let verb = args.verb();
            // Only the controller can grant a resource again, or grant it no longer.
            if is_changed {
                print(format_args!(
                    "requested, for the controller: {args} {verb} {service}"
                ));
            } else if unapplied(&declared).is_none() {
                print(format_args!("{args} {verb} already {service}"));
            } else {
                print(format_args!("already requested: {args} {verb} {service}"));
                report(not_applied(&object));
            }
            return Ok(object);
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(Failure::new(
        Code::Failed,
        format!("{} is changed by another user all the time: try again", args.pool),
    ))
}

/// The operations that change those resources of the spec that have another state.
fn patch(pool: &Object, spec: &Value, names: &[String], disabled: bool) -> Result<Vec<Value>, Failure> {
    if spec["generate"].is_object() {
        return Err(Failure::usage(format!(
            "the resources of {pool} are generated, and have no state of their own: reduce spec.generate.count, which drains those \
             with the highest numbers, or list them in spec.resources"
        )));
    }
    let resources = spec["resources"].as_array().map_or(&[][..], Vec::as_slice);
    let mut operations = Vec::new();
    for name in BTreeSet::from_iter(names) {
        let found = resources.iter().position(|one| one["name"] == name.as_str());
        let Some(index) = found else {
            let known: Vec<_> = resources.iter().filter_map(|one| one["name"].as_str()).collect();
            return Err(Failure::new(
                Code::NotDeclared,
                format!("{pool} has no resource {name}: it has {}", known.join(", ")),
            ));
        };
        if resources[index]["disabled"].as_bool().unwrap_or(false) == disabled {
            continue;
        }
        let path = format!("/spec/resources/{index}");
        operations.push(json!({"op": "test", "path": format!("{path}/name"), "value": name}));
        let path = format!("{path}/disabled");
        operations.push(if disabled {
            json!({"op": "add", "path": path, "value": true})
        } else {
            json!({"op": "remove", "path": path})
        });
    }
    Ok(operations)
}

fn not_applied(pool: &ObjectRef) -> String {
    let pool = shown(pool);
    format!(
        "the controller has not applied the spec of {pool} yet: check that it runs, and the conditions (tenure describe {pool})"
    )
}

/// Waits until the resources are out of service in Redis, and no lease has them.
async fn until_free(
    client: &Client,
    pool: &ObjectRef,
    names: &BTreeSet<&str>,
    is_applied: &Cell<bool>,
) -> Result<(), Failure> {
    let mut changes = Changes::of(client)?;
    let mut reported = 0;
    let mut is_late = false;
    loop {
        // The next change is published.
        client.control().observe(pool, 0).await?;
        let states = client.lock_pool(pool.name())?.list().await?;
        // A resource that Redis does not have is not out of service: the controller may declare it in service.
        is_applied.set(names.iter().all(|name| {
            let mut states = states.iter();
            states.any(|one| one.name == *name && one.state == ResourceState::Disabled)
        }));
        // After the states: what is out of service is not granted again.
        let seen = client.control().look(pool, usize::MAX).await?;
        let holders = seen.as_ref().map_or(&[][..], |seen| &seen.holders);
        let held: Vec<_> = holders
            .iter()
            .filter(|view| view.resources.iter().any(|one| names.contains(one.as_str())))
            .collect();
        if is_applied.get() && held.is_empty() {
            return Ok(());
        }
        if held.len() != reported {
            for view in &held {
                report(format_args!(
                    "{} is held by {}",
                    view.resources.join(", "),
                    view.holder
                ));
            }
            reported = held.len();
        }
        let change = changes.next([pool], [seen.as_ref()]);
        if is_applied.get() || is_late {
            change.await?;
        } else {
            let Ok(heard) = tokio::time::timeout(APPLIED, change).await else {
                report(not_applied(pool));
                is_late = true;
                continue;
            };
            heard?;
        }
    }
}

impl Resources {
    fn verb(&self) -> &'static str {
        if self.resources.len() == 1 { "is" } else { "are" }
    }
}

impl std::fmt::Display for Resources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {}", self.resources.join(", "), self.pool)
    }
}

fn print(line: std::fmt::Arguments<'_>) {
    // A reader that has gone does not undo it.
    let _ = writeln!(io::stdout(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_changes_what_differs_and_tests_where_it_stands() {
        let pool = "lp/seats".parse().unwrap();
        let spec = json!({"resources": [{"name": "a"}, {"name": "b", "disabled": true}]});
        let names = ["a".to_owned(), "b".to_owned()];
        assert_eq!(
            Value::Array(patch(&pool, &spec, &names, true).unwrap()),
            json!([
                {"op": "test", "path": "/spec/resources/0/name", "value": "a"},
                {"op": "add", "path": "/spec/resources/0/disabled", "value": true},
            ])
        );
        assert_eq!(
            Value::Array(patch(&pool, &spec, &names, false).unwrap()),
            json!([
                {"op": "test", "path": "/spec/resources/1/name", "value": "b"},
                {"op": "remove", "path": "/spec/resources/1/disabled"},
            ])
        );
        let error = |spec, name: &str| {
            let failure = patch(&pool, &spec, &[name.to_owned()], true).unwrap_err();
            failure.message.unwrap()
        };
        assert!(error(spec, "c").contains("no resource c: it has a, b"));
        assert!(error(json!({"generate": {}}), "a").contains("spec.generate.count"));
    }
}
