//! `tenure acquire`, `renew` and `release`: a lease that a script keeps, without a process that renews it.
//!
//! Between two calls the lease is *detached*: it runs out after its length, and its secret takes it over. Each `renew` takes it
//! over, gives it its full length and detaches it again, under another secret: of two who renew with one secret, one fails.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
    time::SystemTime,
};

use serde::{Deserialize, Serialize};
use tenure::{Client, Identity, Kind, ObjectRef};

use crate::{
    acquire::{Amount, Held, Request},
    connect::Connection,
    exec,
    exit::{Code, Failure},
    file,
    kubernetes::{Kubernetes, objects},
    object::{Object, shown},
    report,
    view::{table::because, time},
};

const EXAMPLES: &str = "Examples:
  # In a script that takes less than a minute
  tenure acquire lock/report --ttl 60s --lease-file lease.json
  ./report.sh
  tenure release --lease-file lease.json

  # A longer one renews the lease before it runs out, and stops if that fails
  tenure renew --lease-file lease.json || exit";
const RELEASE_EXAMPLES: &str = "Examples:
  tenure release --lease-file lease.json

  # From a holder that hangs
  tenure release lockpool/gpu-seats --force --holder training-x7k2p \\
    --reason 'hangs since noon'";

/// Acquires a lease that no process renews, and prints it as JSON.
///
/// The lease runs out after --ttl unless `tenure renew` gives it its full length again. `lease` in the JSON is its secret, by
/// which `renew` and `release` take it over: keep it as a password. `tenure exec` needs no such care: prefer it where the work
/// is one command.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Acquire {
    /// The object, as KIND/NAME: lockpool/x, semaphore/x or lock/x; also lp/x and sem/x
    object: Object,
    #[command(flatten)]
    amount: Amount,
    #[command(flatten)]
    request: Request,
    /// File for the JSON, which only its owner can read, in place of standard output
    #[arg(long, value_name = "FILE")]
    lease_file: Option<PathBuf>,
}

/// Gives a lease of `tenure acquire` its full length again, and prints it as JSON, with another secret.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Renew {
    #[command(flatten)]
    known: Known,
}

/// Releases a lease of `tenure acquire`; or, with --force, takes an object from its holders.
///
/// With a kubeconfig, or the rights of the pod's account, an event of the object records who has taken it and why.
///
/// A holder whose lease is taken is notified of the loss, with the reason: `tenure exec` ends its command. The next in the
/// queue is granted the object at once, so that two may work at the same time if a holder does not notice. Take a lease where its
/// holder is known to hang.
#[derive(Debug, clap::Args)]
#[command(after_help = RELEASE_EXAMPLES)]
pub(crate) struct Release {
    #[command(flatten)]
    known: Known,
    /// Takes the object from its holders; needs KIND/NAME and --reason
    #[arg(long, requires_all = ["object", "reason"], conflicts_with_all = ["lease", "lease_file"])]
    force: bool,
    /// With --force: only the lease of this pod or process
    #[arg(long, requires = "force", value_name = "POD")]
    holder: Option<String>,
    /// With --force: the reason, for the holders and the log
    #[arg(long, requires = "force", value_name = "TEXT")]
    reason: Option<String>,
    /// With --force: does not ask
    #[arg(long, requires = "force")]
    yes: bool,
}

/// A lease that was acquired before.
#[derive(Debug, clap::Args)]
struct Known {
    /// The object, as KIND/NAME; --lease-file has it, too
    object: Option<Object>,
    /// The secret of the lease
    #[arg(
        long,
        env = "TENURE_LEASE",
        hide_env_values = true,
        requires = "object",
        value_name = "SECRET"
    )]
    lease: Option<String>,
    /// File with the JSON of `tenure acquire`
    #[arg(long, conflicts_with = "lease", value_name = "FILE")]
    lease_file: Option<PathBuf>,
}

/// A detached lease, as it is printed.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Detached {
    object: String,
    namespace: String,
    /// The secret.
    lease: String,
    fencing_token: u64,
    expires: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    resources: BTreeMap<String, BTreeMap<String, String>>,
}

pub(crate) async fn acquire(connection: &Connection, args: Acquire) -> Result<u8, Failure> {
    if args.request.ttl.is_none() {
        let fix = "no process renews the lease, so give it a length, such as --ttl 60s";
        return Err(Failure::usage(format!("--ttl is missing: {fix}")));
    }
    check_output(args.lease_file.as_deref())?;
    let mut signals = exec::listen()?;
    let (client, spent) = exec::connect(connection, args.request.timeout, &mut signals).await?;
    let acquired = args.request.acquire(&client, &args.object, &args.amount, spent);
    let held = exec::until_signal(&client, &args.object, &args.amount, acquired, &mut signals).await?;
    detach(&client, held, &args.object, args.lease_file.as_deref()).await
}

pub(crate) async fn renew(connection: &Connection, args: Renew) -> Result<u8, Failure> {
    check_output(args.known.lease_file.as_deref())?;
    let (client, object, held) = take_over(connection, &args.known).await?;
    detach(&client, held, &object, args.known.lease_file.as_deref()).await
}

pub(crate) async fn release(connection: &Connection, args: Release) -> Result<u8, Failure> {
    if args.force {
        return take(connection, &args).await;
    }
    let (_client, _object, held) = take_over(connection, &args.known).await?;
    held.lease.release().await?;
    Ok(0)
}

/// Fails if the secret of the lease would be lost, before the lease is changed.
fn check_output(path: Option<&Path>) -> Result<(), Failure> {
    if path.is_none() && file::stdout_is_closed() {
        let fix = "the secret of the lease would be lost: give --lease-file";
        return Err(Failure::usage(format!("standard output is closed: {fix}")));
    }
    Ok(())
}

/// Stops renewing the lease, after it got its full length: one that was granted from the queue runs for less at first.
async fn detach(client: &Client, held: Held, object: &Object, path: Option<&Path>) -> Result<u8, Failure> {
    let Held { lease, resources } = held;
    lease.renew().await?;
    let mut detached = Detached {
        object: object.to_string(),
        namespace: lease.object().namespace().to_owned(),
        lease: String::new(),
        fencing_token: lease.fencing_token(),
        expires: time::rfc3339(SystemTime::now() + lease.remaining()),
        resources: resources.into_iter().collect(),
    };
    detached.lease = lease.detach();
    let shown = serde_json::to_string(&detached).map_err(|error| Failure::new(Code::Failed, error))?;
    let written = match path {
        Some(path) => file::write_line(path, &shown, file::PRIVATE),
        None => writeln!(io::stdout(), "{shown}"),
    };
    if let Err(error) = written {
        // Without its secret no process could release it.
        if let Ok(held) = adopt(client, object, &detached.lease).await {
            exec::give_back(held).await;
        }
        let place = path.map_or_else(|| "standard output".to_owned(), |path| path.display().to_string());
        return Err(Failure::new(
            Code::Failed,
            format!("{place}: {error}; the lease is released"),
        ));
    }
    Ok(0)
}

/// Connects, and takes over a lease that was acquired before.
async fn take_over(connection: &Connection, known: &Known) -> Result<(Client, Object, Held), Failure> {
    let (object, secret, namespace) = known.read()?;
    let client = connection.connect(None).await?;
    check_namespace(&client, namespace.as_deref())?;
    let held = adopt(&client, &object, &secret).await?;
    Ok((client, object, held))
}

async fn adopt(client: &Client, object: &Object, secret: &str) -> Result<Held, Failure> {
    let name = &object.name;
    let held: Option<Held> = match object.kind {
        Kind::Pool => client.lock_pool(name)?.adopt(secret).await?.map(Held::from),
        Kind::Semaphore => client.semaphore(name)?.adopt(secret).await?.map(Held::from),
        Kind::Lock => client.lock(name)?.adopt(secret).await?.map(Held::from),
        _ => return Err(Failure::usage(format!("{object} cannot be held here"))),
    };
    let lost = || {
        Failure::new(
            Code::Lost,
            format!(
                "the lease of {object} is lost: it ran out, or was renewed or released with this secret before"
            ),
        )
    };
    held.ok_or_else(lost)
}

impl Known {
    /// The object, the secret of the lease, and the namespace that the file names.
    fn read(&self) -> Result<(Object, String, Option<String>), Failure> {
        let (object, secret, namespace) = match (&self.lease, &self.lease_file) {
            (Some(secret), _) => (None, secret.clone(), None),
            (None, Some(file)) => {
                let named =
                    |error: String| Failure::usage(format!("--lease-file {}: {error}", file.display()));
                let text = fs::read_to_string(file).map_err(|error| named(error.to_string()))?;
                let detached: Detached =
                    serde_json::from_str(&text).map_err(|error| named(error.to_string()))?;
                (
                    Some(detached.object.parse::<Object>().map_err(named)?),
                    detached.lease,
                    Some(detached.namespace),
                )
            }
            (None, None) => {
                return Err(Failure::usage(
                    "--lease-file or --lease is missing: name the lease",
                ));
            }
        };
        match self.object.clone().or(object) {
            Some(object) => Ok((object, secret, namespace)),
            None => Err(Failure::usage("KIND/NAME is missing: name the object")),
        }
    }
}

/// Fails if the lease is one of another namespace than the client's, where it would not be found.
fn check_namespace(client: &Client, namespace: Option<&str>) -> Result<(), Failure> {
    match namespace {
        Some(other) if other != client.namespace() => Err(Failure::usage(format!(
            "the lease is in the namespace {other}, and the command works in {}: add --namespace {other}",
            client.namespace()
        ))),
        _ => Ok(()),
    }
}

async fn take(connection: &Connection, args: &Release) -> Result<u8, Failure> {
    let (Some(object), Some(reason)) = (&args.known.object, &args.reason) else {
        return Err(Failure::usage("--force needs KIND/NAME and --reason"));
    };
    let client = connection.connect(None).await?;
    let full = object.of(&client)?;
    let snapshot = client.control().look(&full, 10_000).await?;
    let holders = snapshot.map_or_else(Vec::new, |snapshot| snapshot.holders);
    let is_meant = |identity: &tenure::Identity| {
        args.holder
            .as_ref()
            .is_none_or(|name| identity.pod.as_ref() == Some(name) || identity.process == *name)
    };
    let meant: Vec<_> = holders
        .into_iter()
        .filter(|view| is_meant(&view.holder))
        .collect();
    if meant.is_empty() {
        return Err(Failure::new(
            Code::NotDeclared,
            format!("{object} has no such holder"),
        ));
    }
    for view in &meant {
        let why = because(&view.reason);
        report(format_args!("{object} is held by {}{why}", view.holder));
    }
    if !args.yes && !confirmed(meant.len())? {
        return Err(Failure::new(Code::Failed, "nothing was released"));
    }
    let kubernetes = connection.kubernetes().await;
    let who = match &kubernetes {
        Ok(Some(kubernetes)) => kubernetes.user().await,
        _ => None,
    };
    let who = who
        .or_else(|| std::env::var("USER").ok())
        .unwrap_or_else(|| client.identity().to_string());
    let tokens: Vec<_> = meant.iter().map(|view| view.token.clone()).collect();
    let cause = format!("released by force by {who}: {reason}");
    let ended = client.control().reclaim(&full, &tokens, &cause).await?;
    let leases = match ended {
        1 => "1 lease of".to_owned(),
        ended => format!("{ended} leases of"),
    };
    let were = if ended == 1 { "was" } else { "were" };
    report(format_args!("{leases} {object} {were} {cause}"));
    if ended > 0 {
        let holders: Vec<_> = meant.into_iter().map(|view| view.holder).collect();
        match record(kubernetes, &full, &holders, &cause).await {
            Ok(()) => report("the event ForcedRelease was written"),
            Err(reason) => report(format_args!("no event was written: {reason}")),
        }
    }
    Ok(0)
}

/// Writes the event about a release by force: of the object, or, where no resource declares it, of the pods that held it.
async fn record(
    kubernetes: Result<Option<Kubernetes>, Failure>,
    object: &ObjectRef,
    holders: &[Identity],
    cause: &str,
) -> Result<(), String> {
    let text = |failure: Failure| failure.message.unwrap_or_default();
    let kubernetes = kubernetes.map_err(text)?.ok_or("there is no kubeconfig")?;
    let involved = match kubernetes.declaration(object).await.map_err(text)? {
        Some(resource) => vec![objects::reference(&resource)],
        None => holders.iter().filter_map(objects::pod_reference).collect(),
    };
    if involved.is_empty() {
        return Err("neither the object nor a holder is one of Kubernetes".to_owned());
    }
    let names: Vec<_> = holders.iter().map(ToString::to_string).collect();
    let note = format!("{}, held by {}, was {cause}", shown(object), names.join(", "));
    for one in involved {
        let recorded = kubernetes.record(one, "ForcedRelease", "Release", &note);
        recorded.await.map_err(text)?;
    }
    Ok(())
}

fn confirmed(leases: usize) -> Result<bool, Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::usage("--yes is missing: there is no terminal to ask on"));
    }
    let whose = match leases {
        1 => "1 lease from its holder".to_owned(),
        leases => format!("{leases} leases from their holders"),
    };
    let _ = write!(io::stderr(), "Take {whose}? [y/N] ");
    let mut answer = String::new();
    // No answer is a no.
    let _ = io::stdin().read_line(&mut answer);
    Ok(matches!(answer.trim(), "y" | "yes"))
}
