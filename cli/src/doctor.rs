//! `tenure doctor`: checks the servers, the rights of the user and the objects, and names the fix of each problem.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime},
};

use anstyle::AnsiColor;
use kube::api::DynamicObject;
use serde::Serialize;
use tenure::{Client, Error, ObjectRef, control::Snapshot};

use crate::{
    connect::Connection,
    exit::{Code, Failure},
    kubernetes::objects::unapplied,
    object::shown,
    view::{all_objects, table::coloured, time::until, write},
};

const EXAMPLES: &str = "Examples:
  tenure doctor

  # The problems alone, in a script
  tenure doctor --json | jq '.[] | select(.level == \"problem\")'";

/// Checks the connection, the servers, the rights of the user and the objects of the namespace, and names the fix of each problem.
///
/// It acquires and releases a lock of its own. The exit code is 0 if there is no problem, also with warnings. If Redis
/// cannot be reached, the exit code is that of the reason.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Prints the findings as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Ok,
    Warning,
    Problem,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Finding {
    level: Level,
    about: String,
    message: String,
}

impl Finding {
    fn new(level: Level, about: &str, message: impl Into<String>) -> Self {
        Self {
            level,
            about: about.to_owned(),
            message: message.into(),
        }
    }
}

pub(crate) async fn run(connection: &Connection, args: &Args) -> Result<u8, Failure> {
    let mut findings = Vec::new();
    let mut unchecked = None;
    match connection.connect(None).await {
        Ok(client) => {
            findings.extend(of_servers(&client).await?);
            findings.push(of_clock(&client).await?);
            findings.push(of_rights(&client).await);
            findings.extend(of_objects(connection, &client).await?);
        }
        // The other checks need the connection.
        Err(failure) => {
            let message = failure.message.unwrap_or_default();
            findings.push(Finding::new(Level::Problem, "connection", message));
            unchecked = Some(failure.code);
        }
    }
    let text = if args.json {
        serde_json::to_string_pretty(&findings).map_err(|error| Failure::new(Code::Failed, error))?
    } else {
        findings.iter().map(line).collect::<Vec<_>>().join("\n")
    };
    write(&text);
    let has_problem = findings.iter().any(|finding| finding.level == Level::Problem);
    let code = if has_problem { Code::Failed as u8 } else { 0 };
    Ok(unchecked.unwrap_or(code))
}

fn line(finding: &Finding) -> String {
    let level = match finding.level {
        Level::Ok => coloured(AnsiColor::Green, "ok     "),
        Level::Warning => coloured(AnsiColor::Yellow, "WARNING"),
        Level::Problem => coloured(AnsiColor::Red, "PROBLEM"),
    };
    format!("{level}  {}: {}", finding.about, finding.message)
}

async fn of_servers(client: &Client) -> Result<Vec<Finding>, Failure> {
    let mut findings = Vec::new();
    for server in client.control().server_fields().await? {
        match server.fields {
            Ok(fields) => findings.extend(of_server(&server.server, server.is_replica, &fields)),
            Err(error) => findings.push(Finding::new(Level::Problem, &server.server, error.to_string())),
        }
    }
    Ok(findings)
}

/// The findings about one server, from its `INFO`.
fn of_server(server: &str, is_replica: bool, fields: &BTreeMap<String, String>) -> Vec<Finding> {
    let field = |name: &str| fields.get(name).map_or("", String::as_str);
    let version = match field("valkey_version") {
        "" => format!("Redis {}", field("redis_version")),
        version => format!("Valkey {version}"),
    };
    let role = if is_replica { "replica" } else { "master" };
    let mut findings = vec![Finding::new(Level::Ok, server, format!("{version}, {role}"))];
    let mut add = |level, message: &str| findings.push(Finding::new(level, server, message));
    match (field("maxmemory"), field("maxmemory_policy")) {
        (_, "noeviction") => {}
        ("0", policy) => add(
            Level::Warning,
            &format!(
                "maxmemory-policy is {policy}: set it to noeviction before maxmemory is set, or leases are evicted"
            ),
        ),
        (_, policy) => add(
            Level::Problem,
            &format!(
                "maxmemory-policy is {policy}, which evicts leases: CONFIG SET maxmemory-policy noeviction"
            ),
        ),
    }
    if is_replica && field("master_link_status") == "down" {
        add(
            Level::Problem,
            "has no connection to its master, and would lose leases in a failover: check the network",
        );
    }
    if field("aof_enabled") == "0" && !is_replica {
        add(
            Level::Warning,
            "appendonly is off: a restart loses the newest leases, and locks are not recovered. CONFIG SET appendonly yes",
        );
    }
    for status in ["aof_last_write_status", "rdb_last_bgsave_status"] {
        if field(status) == "err" {
            add(
                Level::Problem,
                &format!("{status} is err: check the space and the rights of its disk"),
            );
        }
    }
    findings
}

async fn of_clock(client: &Client) -> Result<Finding, Failure> {
    let before = SystemTime::now();
    let server = SystemTime::UNIX_EPOCH + Duration::from_micros(client.control().now_micros().await?);
    Ok(clock(before, server, SystemTime::now()))
}

/// The clock of the server, which was read between two readings of this machine's.
fn clock(before: SystemTime, server: SystemTime, after: SystemTime) -> Finding {
    const MOST: Duration = Duration::from_secs(60);
    let apart = server
        .duration_since(after)
        .or_else(|_| before.duration_since(server))
        .unwrap_or_default();
    if apart <= MOST {
        return Finding::new(
            Level::Ok,
            "clock",
            "the clocks of Redis and of this machine agree",
        );
    }
    let message = format!(
        "the clocks of Redis and of this machine differ by {}: check NTP. Leases do not depend on it, but times look wrong",
        crate::duration::age(apart)
    );
    Finding::new(Level::Warning, "clock", message)
}

/// The rights that a holder needs: all of them are used by a lock of its own.
async fn of_rights(client: &Client) -> Finding {
    let name = format!("tenure-doctor/{}", std::process::id());
    let tried = async {
        let lease = client
            .lock(&name)?
            .acquire_timeout(Duration::from_secs(3))
            .await?;
        if let Some(lease) = lease {
            lease.renew().await?;
            lease.release().await?;
        }
        Ok::<_, Error>(())
    };
    match tried.await {
        Ok(()) => Finding::new(Level::Ok, "rights", "the user may acquire, renew and release"),
        Err(error) => {
            let message = format!("{error}. docs/redis.md, section \"Rights\", has the smallest rights");
            Finding::new(Level::Problem, "rights", message)
        }
    }
}

async fn of_objects(connection: &Connection, client: &Client) -> Result<Vec<Finding>, Failure> {
    let (objects, partly) = match all_objects(connection, client).await {
        Ok(found) => found,
        Err(failure) => {
            let message = failure.message.unwrap_or_default();
            return Ok(vec![Finding::new(Level::Warning, "objects", message)]);
        }
    };
    let mut seen = Vec::new();
    for object in &objects {
        seen.push((object, client.control().look(object, usize::MAX).await));
    }
    // After the holders: a pod that has started since is listed, too.
    let cluster = of_cluster(connection, client.namespace()).await;
    let mut findings = Vec::new();
    let (mut present, mut damaged) = (BTreeSet::new(), BTreeSet::new());
    for (object, seen) in seen {
        if !matches!(seen, Ok(None)) {
            present.insert(object);
        }
        match seen {
            Ok(Some(snapshot)) => {
                let found: Vec<_> = of_object(object, &snapshot)
                    .into_iter()
                    .chain(cluster.of_object(object, &snapshot, client.key_prefix()))
                    .collect();
                if !found.is_empty() {
                    damaged.insert(object);
                }
                findings.extend(found);
            }
            // It is gone since it was listed.
            Ok(None) => {}
            // The error names the key and the command that mends it.
            Err(error) => {
                damaged.insert(object);
                findings.push(Finding::new(Level::Problem, &shown(object), error.to_string()));
            }
        }
    }
    let mut all: BTreeSet<_> = objects.iter().collect();
    for (object, resource) in cluster.declared.iter().flatten() {
        all.insert(object);
        // One that was applied since the objects were listed may be there now.
        let is_missing =
            !present.contains(object) && matches!(client.control().look(object, 0).await, Ok(None));
        let problem = match unapplied(resource) {
            _ if is_missing => Some(
                "is declared, and Redis does not have it: check its conditions (tenure describe) and that the controller runs"
                    .to_owned(),
            ),
            problem => problem.map(|problem| format!("the controller {problem}")),
        };
        if let Some(problem) = problem {
            damaged.insert(object);
            findings.push(Finding::new(Level::Problem, &shown(object), problem));
        }
    }
    findings.extend(cluster.problem);
    findings.extend(partly.map(|message| Finding::new(Level::Warning, "objects", message)));
    let sound = all.len() - damaged.len();
    let level = if damaged.is_empty() {
        Level::Ok
    } else {
        Level::Warning
    };
    let message = format!("{sound} of {} are sound", all.len());
    findings.push(Finding::new(level, "objects", message));
    Ok(findings)
}

/// The objects and pods that the API server has.
#[derive(Default)]
struct Cluster {
    declared: Option<BTreeMap<ObjectRef, DynamicObject>>,
    pods: Option<BTreeSet<String>>,
    /// They could not be read.
    problem: Option<Finding>,
}

async fn of_cluster(connection: &Connection, namespace: &str) -> Cluster {
    let found = match connection.kubernetes().await {
        Ok(found) => found,
        Err(failure) => {
            let message = failure.message.unwrap_or_default();
            return Cluster {
                problem: Some(Finding::new(Level::Warning, "kubernetes", message)),
                ..Cluster::default()
            };
        }
    };
    let Some(kubernetes) = found else {
        let message = "without a kubeconfig, objects that no resource declares and leases of pods that do not exist are not found";
        return Cluster {
            problem: Some(Finding::new(Level::Ok, "kubernetes", message)),
            ..Cluster::default()
        };
    };
    let declared = kubernetes.declared(namespace).await;
    let pods = kubernetes.pods(namespace).await;
    let failure = declared.as_ref().err().or(pods.as_ref().err());
    let problem = failure.map(|failure| {
        let message = failure.message.clone().unwrap_or_default();
        Finding::new(Level::Warning, "kubernetes", message)
    });
    Cluster {
        declared: declared.ok(),
        pods: pods.ok(),
        problem,
    }
}

impl Cluster {
    /// The findings about an object of Redis that the API server contradicts.
    fn of_object(&self, object: &ObjectRef, snapshot: &Snapshot, prefix: &str) -> Vec<Finding> {
        let mut findings = Vec::new();
        let is_orphan = snapshot.digest.is_some()
            && !snapshot.withdrawing
            && self
                .declared
                .as_ref()
                .is_some_and(|all| !all.contains_key(object));
        if is_orphan {
            let message = format!(
                "no resource declares it any more: apply its resource again, or remove it with all leases: {}",
                object.removal_command(prefix)
            );
            findings.push(Finding::new(Level::Problem, &shown(object), message));
        }
        let is_gone = |identity: &tenure::Identity| {
            let (Some(pods), Some(pod)) = (&self.pods, &identity.pod) else {
                return false;
            };
            identity.namespace == object.namespace() && !pods.contains(pod)
        };
        for view in snapshot.holders.iter().filter(|view| is_gone(&view.holder)) {
            let pod = view.holder.pod.as_deref().unwrap_or_default();
            let message = format!(
                "the pod {pod} holds it, and does not exist: the lease runs out in {}, or is taken by tenure release {} --force \
                 --holder {pod} --reason TEXT",
                until(snapshot.now, view.expires),
                shown(object)
            );
            findings.push(Finding::new(Level::Warning, &shown(object), message));
        }
        findings
    }
}

/// The problem of an object that can be read, if it has one.
fn of_object(object: &ObjectRef, snapshot: &Snapshot) -> Option<Finding> {
    let held: u64 = snapshot.holders.iter().map(|holder| holder.permits).sum();
    let finding = |level, message: String| Some(Finding::new(level, &shown(object), message));
    if held != snapshot.held {
        let message = format!(
            "counts {} as held, and its leases have {held}: another program has changed its keys. The number is right again when \
             all leases have ended",
            snapshot.held
        );
        return finding(Level::Problem, message);
    }
    if snapshot.digest.is_some() && !snapshot.current {
        let message = "Redis was restarted, and the controller has not declared it again: check that the controller runs";
        return finding(Level::Problem, message.to_owned());
    }
    if snapshot.recovering_until.is_some() {
        return finding(
            Level::Warning,
            "recovers from a loss of data: nothing new is granted for one lease".to_owned(),
        );
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(is_replica: bool, fields: &[(&str, &str)]) -> String {
        let sound = [
            ("redis_version", "7.4.1"),
            ("maxmemory", "0"),
            ("maxmemory_policy", "noeviction"),
            ("aof_enabled", "1"),
        ];
        let fields = sound.iter().chain(fields);
        let fields = fields
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        of_server("r:6379", is_replica, &fields)
            .iter()
            .map(|finding| anstream::adapter::strip_str(&line(finding)).to_string())
            .collect::<Vec<_>>()
            .join("\n")
    }

    #[test]
    fn a_sound_server_has_no_finding() {
        assert_eq!(findings(false, &[]), "ok       r:6379: Redis 7.4.1, master");
        assert_eq!(
            findings(true, &[("valkey_version", "8.1.0")]),
            "ok       r:6379: Valkey 8.1.0, replica"
        );
    }

    #[test]
    fn each_problem_of_a_server_names_its_fix() {
        for (is_replica, fields, expected) in [
            (
                false,
                &[("maxmemory", "9"), ("maxmemory_policy", "allkeys-lru")][..],
                "PROBLEM  r:6379: maxmemory-policy is allkeys-lru, which evicts leases: CONFIG SET",
            ),
            (
                false,
                &[("maxmemory_policy", "volatile-ttl")],
                "WARNING  r:6379: maxmemory-policy is volatile-ttl: set it to noeviction",
            ),
            (false, &[("aof_enabled", "0")], "CONFIG SET appendonly yes"),
            (
                false,
                &[("rdb_last_bgsave_status", "err")],
                "rdb_last_bgsave_status is err: check the space",
            ),
            (
                true,
                &[("master_link_status", "down")],
                "PROBLEM  r:6379: has no connection to its master",
            ),
        ] {
            let found = findings(is_replica, fields);
            assert!(found.contains(expected), "{expected}: {found}");
        }
    }

    #[test]
    fn clocks_that_differ_are_a_warning() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(clock(at(100), at(100), at(101)).level, Level::Ok);
        for (before, server) in [(100, 300), (300, 100)] {
            assert_eq!(
                clock(at(before), at(server), at(before + 1)).level,
                Level::Warning
            );
        }
    }
}
