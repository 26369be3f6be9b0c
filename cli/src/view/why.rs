//! `tenure why`: the reason for which a pod or Job waits, as a pure function of the object's state.

use std::{collections::BTreeMap, fmt, str::FromStr};

use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use tenure::{
    Client, Identity, Kind, ResourceState, ResourceView,
    control::{HolderView, Snapshot, WaiterRequest, WaiterView},
};

use crate::{
    connect::Connection,
    exit::{Code, Failure},
    object::shown,
    view::{
        Target, look,
        model::name,
        table::because,
        targets,
        time::{since, until},
        with_kinds, write,
    },
};

const EXAMPLES: &str = "Examples:
  tenure why job/training
  tenure why pod/training-x7k2p lockpool/gpu-seats semaphore/api-callers";

/// Explains why a pod or Job waits: its position in the queue, who holds the object, since when, until when and why, and which
/// resources of a lockpool do not match its request.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The waiter: pod/NAME, job/NAME, or process/HOST/PID outside of pods
    who: Who,
    /// The objects for which it may wait, as KIND/NAME or KIND; all, if absent
    #[arg(value_name = "KIND[/NAME]")]
    objects: Vec<Target>,
}

/// A waiter as it stands on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Who {
    Pod(String),
    /// Its pods are named by it.
    Job(String),
    Process(String),
}

impl FromStr for Who {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some(("pod" | "pods" | "po", name)) if !name.is_empty() => Ok(Self::Pod(name.to_owned())),
            Some(("job" | "jobs", name)) if !name.is_empty() => Ok(Self::Job(name.to_owned())),
            Some(("process", name)) if !name.is_empty() => Ok(Self::Process(name.to_owned())),
            _ => Err(format!(
                "{text:?} names no waiter: write pod/NAME, job/NAME or process/HOST/PID"
            )),
        }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(name) => write!(f, "pod/{name}"),
            Self::Job(name) => write!(f, "job/{name}"),
            Self::Process(name) => write!(f, "process/{name}"),
        }
    }
}

impl Who {
    fn is(&self, identity: &Identity) -> bool {
        match (self, &identity.pod) {
            (Self::Pod(name), Some(pod)) => name == pod,
            // A Job names its pods NAME-xxxxx, or with completions NAME-INDEX-xxxxx.
            (Self::Job(name), Some(pod)) => pod.strip_prefix(name).is_some_and(is_of_job),
            (Self::Process(name), _) => *name == identity.process,
            _ => false,
        }
    }
}

fn is_of_job(rest: &str) -> bool {
    let is_random = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let is_index = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match rest.strip_prefix('-').map(|rest| rest.split_once('-')) {
        Some(None) => is_random(&rest[1..]),
        Some(Some((index, random))) => is_index(index) && is_random(random),
        None => false,
    }
}

pub(crate) async fn run(connection: &Connection, args: Args) -> Result<u8, Failure> {
    let named = with_kinds(args.objects)?;
    let client = connection.connect(None).await?;
    let mut found = Vec::new();
    let targets = targets(connection, &client, &named).await?;
    for (object, is_named) in targets.objects {
        let Some(seen) = look(&client, object, is_named, 100_000).await? else {
            continue;
        };
        let Some(snapshot) = &seen.snapshot else {
            continue;
        };
        let resources = match seen.object.kind() {
            Kind::Pool => client.lock_pool(seen.object.name())?.list().await?,
            _ => Vec::new(),
        };
        let situation = Situation {
            object: shown(&seen.object),
            snapshot,
            resources: &resources,
            requests: &seen.requests,
        };
        found.extend(situation.explain(&args.who));
    }
    if found.is_empty() {
        let message = unknown(connection, &client, &args.who, targets.is_partial).await?;
        return Err(Failure::new(Code::NotDeclared, message));
    }
    write(&found.join("\n"));
    Ok(0)
}

/// The text about a waiter that was not found.
async fn unknown(
    connection: &Connection,
    client: &Client,
    who: &Who,
    is_partial: bool,
) -> Result<String, Failure> {
    let namespace = client.namespace();
    // Without a kubeconfig or the right to get it, it may exist.
    if let Ok(Some(kubernetes)) = connection.kubernetes().await {
        let exists = match who {
            Who::Pod(name) => kubernetes.exists::<Pod>(namespace, name).await,
            Who::Job(name) => kubernetes.exists::<Job>(namespace, name).await,
            Who::Process(_) => true,
        };
        if !exists {
            return Ok(format!("the namespace {namespace} has no {who}"));
        }
    }
    Ok(if is_partial {
        format!(
            "{who} neither holds nor waits for an object of a custom resource; whether it does for another, such as a lock, \
             shows only its name: tenure why {who} lock/NAME"
        )
    } else {
        format!("{who} neither holds nor waits for any of these objects")
    })
}

/// An object as it was seen.
struct Situation<'a> {
    object: String,
    snapshot: &'a Snapshot,
    /// Of a pool.
    resources: &'a [ResourceView],
    requests: &'a BTreeMap<String, WaiterRequest>,
}

impl Situation<'_> {
    /// The lines about all pods that are meant.
    fn explain(&self, who: &Who) -> Vec<String> {
        let mut lines = Vec::new();
        for view in self.snapshot.holders.iter().filter(|view| who.is(&view.holder)) {
            lines.push(format!(
                "{} holds {}{}.",
                name(&view.holder),
                self.object,
                self.hold(view)
            ));
        }
        for (index, view) in self.snapshot.waiters.iter().enumerate() {
            if who.is(&view.holder) {
                lines.push(self.position(index, view));
                let details = self.obstacles().chain(self.ahead(index)).chain(self.pool(view));
                let details = details.chain(self.blockers(view));
                lines.extend(details.map(|line| format!("  {line}")));
            }
        }
        lines
    }

    fn position(&self, index: usize, view: &WaiterView) -> String {
        let request = match request(view, self.requests.get(&view.token)) {
            request if request.is_empty() => String::new(),
            request => format!(", and requests {request}"),
        };
        format!(
            "{} waits for {}: for {} so far, at position {} of {} in the queue{request}.",
            name(&view.holder),
            self.object,
            since(self.snapshot.now, view.since),
            index + 1,
            self.snapshot.waiting,
        )
    }

    /// The states in which the object grants nothing to any waiter.
    fn obstacles(&self) -> impl Iterator<Item = String> {
        let snapshot = self.snapshot;
        let recovering = snapshot.recovering_until.map(|then| {
            let left = until(snapshot.now, then);
            format!("Redis has lost data: nothing new is granted for {left}, so that former holders keep their leases.")
        });
        let is_stale = snapshot.digest.is_some() && !snapshot.current;
        let stale = is_stale.then(|| {
            "Redis was restarted, and the controller has not declared the object again: check that the controller runs."
                .to_owned()
        });
        let withdrawing = snapshot
            .withdrawing
            .then(|| "The object is being deleted: nothing new is granted.".to_owned());
        recovering.into_iter().chain(stale).chain(withdrawing)
    }

    fn ahead(&self, index: usize) -> Option<String> {
        let ahead = self.snapshot.waiters.get(index.checked_sub(1)?)?;
        let more = match index {
            1 => String::new(),
            more => format!(", and {} more", more - 1),
        };
        Some(format!(
            "Next before it in the queue: {}{more}.",
            name(&ahead.holder)
        ))
    }

    fn pool(&self, view: &WaiterView) -> Vec<String> {
        let request = self.requests.get(&view.token);
        let names = |is_meant: &dyn Fn(&ResourceView) -> bool| -> Vec<&str> {
            let meant = self.resources.iter().filter(|resource| is_meant(resource));
            meant.map(|resource| resource.name.as_str()).collect()
        };
        let mismatched = names(&|resource| !matches(request, resource));
        let disabled =
            names(&|resource| matches(request, resource) && resource.state == ResourceState::Disabled);
        let mut lines = Vec::new();
        if !mismatched.is_empty() {
            lines.push(format!(
                "Resources that do not match its request: {}.",
                some(&mismatched)
            ));
            if mismatched.len() == self.resources.len() {
                lines.push("No resource matches: it waits until the pool has one that does.".to_owned());
            }
        }
        if !disabled.is_empty() {
            lines.push(format!(
                "Resources that match and are out of service: {}.",
                some(&disabled)
            ));
        }
        lines
    }

    /// The holders of the permits or resources that it waits for.
    fn blockers(&self, view: &WaiterView) -> impl Iterator<Item = String> {
        let request = self.requests.get(&view.token);
        let blocks = move |holder: &&HolderView| {
            let mut resources = self.resources.iter();
            self.resources.is_empty()
                || resources
                    .any(|resource| holder.resources.contains(&resource.name) && matches(request, resource))
        };
        let line = |holder: &HolderView| {
            let reason = because(&holder.reason);
            format!("Held by {}{}{reason}.", name(&holder.holder), self.hold(holder))
        };
        self.snapshot.holders.iter().filter(blocks).take(SHOWN).map(line)
    }

    fn hold(&self, view: &HolderView) -> String {
        let resources: Vec<_> = view.resources.iter().map(String::as_str).collect();
        let named = match some(&resources) {
            none if none.is_empty() => String::new(),
            names => format!(" ({names})"),
        };
        let bound = view.renewable_until.map_or_else(String::new, |end| {
            format!(" (for at most {} more)", until(self.snapshot.now, end))
        });
        format!(
            "{named} for {}, and for {} more unless it is renewed{bound}",
            since(self.snapshot.now, view.since),
            until(self.snapshot.now, view.expires),
        )
    }
}

/// The most that a line or a list names.
const SHOWN: usize = 10;

pub(crate) fn some(names: &[&str]) -> String {
    let shown = names.iter().take(SHOWN).copied().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// The request of a waiter, if it is more than one permit or any resource.
pub(crate) fn request(view: &WaiterView, of_pool: Option<&WaiterRequest>) -> String {
    let mut parts = Vec::new();
    if view.permits > 1 {
        parts.push(format!("{} at once", view.permits));
    }
    if let Some(request) = of_pool {
        parts.extend(request.resources.iter().cloned());
        parts.extend(
            request
                .properties
                .iter()
                .map(|(key, value)| format!("{key}={value}")),
        );
    }
    parts.join(",")
}

fn matches(request: Option<&WaiterRequest>, resource: &ResourceView) -> bool {
    let Some(request) = request else {
        return true;
    };
    let is_named = request.resources.is_empty() || request.resources.contains(&resource.name);
    let has = |(key, value): (&String, &String)| resource.properties.get(key) == Some(value);
    is_named && request.properties.iter().all(has)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is(who: &str, pod: &str) -> bool {
        let mut identity = Identity::default();
        identity.pod = Some(pod.to_owned());
        who.parse::<Who>().unwrap().is(&identity)
    }

    #[test]
    fn the_pods_of_a_job_are_those_that_it_names() {
        for (who, pod, expected) in [
            ("pod/a", "a", true),
            ("pod/a", "a-x7k2p", false),
            ("job/a", "a-x7k2p", true),
            ("job/a", "a-3-x7k2p", true),
            ("job/a", "a-b-x7k2p", false),
            ("job/a", "ab-x7k2p", false),
            ("job/a", "a", false),
        ] {
            assert_eq!(is(who, pod), expected, "{who} {pod}");
        }
        for text in ["a", "pod/", "service/a"] {
            assert!(text.parse::<Who>().unwrap_err().contains("pod/NAME"), "{text}");
        }
    }

    #[test]
    fn a_long_list_is_cut() {
        let names: Vec<String> = (0..12).map(|number| number.to_string()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        assert_eq!(some(&names[..2]), "0, 1");
        assert!(some(&names).ends_with("9 and 2 more"));
    }
}
